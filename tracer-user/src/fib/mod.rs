// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing as the kernel does it, computed from what was read of a namespace: policy rules, tables, next hops, source
//! addresses, the check of a packet's source. Nothing is asked of the machine, so that a changed snapshot can be asked
//! as well as the real one; a test asks the kernel the same questions.
//!
//! What is not known is never guessed: the answer then has an outcome for each possibility, or says what is unknown.
//!
//! Not to be had, and therefore not in it: which hop a multipath route's hash takes (all are listed), the state that
//! decides between default routes of one metric (all are listed), multicast group membership, IPsec policy, what
//! `ip addrlabel` changed, realms, whether a router's IPv6 route has run out since it was read. Route exceptions
//! (redirects, path MTU) are taken from the kernel's dump, which has them since Linux 5.3; sockets may hold on to older
//! routes until they are told.
//!
//! Of routes that IPv6 joins to a multipath route the kernel's dump tells metrics, source and preference of the first
//! only, and it leaves out a route without a gateway that stands between them. A route with a next hop object may be
//! used with the MTU of another route with the same object.

mod flow;
mod ipv4;
mod ipv6;
mod model;
mod netfilter;
mod source;
mod tables;
#[cfg(test)]
mod tests;
mod validate;

pub use model::{
    Answer, Back, Decision, Hop, Martian, Outcome, Passed, Question, Refusal, RefusedBy, Routed, Selector,
    Selectors, Why,
};
pub use netfilter::{ReversePath, TypeOf};
pub use tables::{Fib, Index, Sources};
pub use validate::{SourceVerdict, Validity};

impl<'e> Fib<'e> {
    /// Rules and tables only: the source, forwarding and the state of the sender's device are not looked at.
    pub fn lookup_unchecked(&self, question: &Question) -> Answer<'e> {
        let iif = question.input.unwrap_or(tables::LOOPBACK);
        if question.destination.is_ipv6() { self.plain6(question, iif) } else { self.plain4(question, iif) }
    }

    /// Where the kernel would send the packet, or why not.
    pub fn lookup(&self, question: &Question) -> Answer<'e> {
        match (question.destination.is_ipv6(), question.input) {
            _ if question.source.is_some_and(|s| s.is_ipv6() != question.destination.is_ipv6()) => {
                ipv4::unknown("source and destination are of different families")
            }
            (false, None) => self.output4(question),
            (false, Some(input)) => self.input4(question, input),
            (true, None) => self.output6(question),
            (true, Some(input)) => self.input6(question, input),
        }
    }
}
