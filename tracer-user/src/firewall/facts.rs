// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rules ask of the node besides the packet. The snapshot of a namespace answers.

use std::net::IpAddr;

use super::packet::PacketView;
use super::rule::{Chain, Table};
use super::set::IpSet;
use crate::fib::ReversePath;

/// One network namespace, as far as its rules refer to it.
pub trait NodeFacts {
    /// The tables of all back ends: both of iptables and native nftables.
    fn rulesets(&self) -> &[Table];

    /// A chain of one of these tables.
    fn chain<'e>(&self, table: &'e Table, name: &str) -> Option<&'e Chain> {
        table.chain(name)
    }

    /// An ipset by its name; a named set of nftables by `FAMILY TABLE NAME`.
    fn set(&self, name: &str) -> Option<&IpSet>;

    fn ifindex(&self, device: &str) -> Option<u32>;

    /// The type of an address as `-m addrtype` names it ("LOCAL"), by the local table; of one device only, if given.
    /// `None`: the routes were not read.
    fn address_type(&self, address: IpAddr, device: Option<u32>) -> Option<&'static str>;

    /// Whether `-m rpfilter` takes the packet (without its `--invert`); `None`: it cannot be known.
    fn reverse_path(&self, packet: &PacketView, how: ReversePath) -> Option<bool>;

    /// A socket of this protocol is bound at the port (host order); `None`: at any port.
    fn has_socket(&self, proto: u8, port: Option<u16>) -> bool;
}
