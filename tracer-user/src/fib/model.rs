// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked and what is answered.

use std::fmt;
use std::net::IpAddr;

use crate::node::IpPrefix;
use crate::node::rtnl::{NextHop, Route, Rule};

/// A packet that is looked up. `None` for a field of the packet means that it is not known: where a rule asks for it,
/// the answer has an outcome for each possibility.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub destination: IpAddr,
    /// `None`: the sender has not chosen one yet.
    pub source: Option<IpAddr>,
    /// The device it comes in by; `None`: it is sent by this host.
    pub input: Option<u32>,
    /// The device that its sender is bound to (SO_BINDTODEVICE, `ip route get oif`).
    pub output: Option<u32>,
    pub mark: Option<u32>,
    /// The whole DS field.
    pub tos: Option<u8>,
    /// Owner of the sending socket. A packet that is forwarded counts as root's.
    pub uid: Option<u32>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// 0: the packet has none.
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    /// IPv6.
    pub flow_label: Option<u32>,
}

impl Question {
    /// A packet of this host without a mark, of which no more is known.
    pub fn to(destination: IpAddr) -> Self {
        Self {
            destination,
            source: None,
            input: None,
            output: None,
            mark: Some(0),
            tos: Some(0),
            uid: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            flow_label: Some(0),
        }
    }

    #[must_use]
    pub fn from(mut self, source: IpAddr) -> Self {
        self.source = Some(source).filter(|s| !s.is_unspecified());
        self
    }

    #[must_use]
    pub fn input(mut self, ifindex: u32) -> Self {
        self.input = Some(ifindex).filter(|i| *i != 0);
        self
    }

    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    #[must_use]
    pub fn ports(mut self, protocol: u8, source: Option<u16>, destination: Option<u16>) -> Self {
        (self.protocol, self.source_port, self.destination_port) = (Some(protocol), source, destination);
        self
    }
}

/// What the kernel would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'e> {
    /// One, unless what is not known decides; never empty.
    pub outcomes: Vec<Outcome<'e>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<'e> {
    pub decision: Decision<'e>,
    /// The rule that decided; `None`: none did, or there are no rules.
    pub rule: Option<&'e Rule>,
    /// Rules before it, in the order in which the kernel asks them.
    pub passed: Vec<Passed<'e>>,
    /// What this outcome takes for granted, one sentence each: "the packet's user is one of uidrange 0-0".
    pub assumes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'e> {
    /// It goes on, or is delivered here.
    Routed(Routed<'e>),
    Refused(Refusal<'e>),
    /// It cannot be told from what was read.
    Unknown(String),
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed<'e> {
    /// RTN_*: 1 unicast, 2 local, 3 broadcast, 4 anycast, 5 multicast.
    pub kind: u8,
    /// `None`: not by a route (limited broadcast, bound to a device without routes).
    pub route: Option<&'e Route>,
    /// Table of the route, 0 without.
    pub table: u32,
    /// More than one: the kernel takes one of them by a hash or by what neighbours answer. Never empty.
    pub hops: Vec<Hop<'e>>,
}

/// One way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop<'e> {
    /// Output device; the loopback or the VRF for what is delivered here.
    pub ifindex: u32,
    pub gateway: Option<IpAddr>,
    /// The source that a packet without one gets; `None`: none is to be had.
    pub source: Option<IpAddr>,
    /// The route's or the exception's MTU; 0: the device's.
    pub mtu: u32,
    /// Of its route's packets, this part of the sum of all weights.
    pub weight: u16,
    /// LWTUNNEL_ENCAP_*; 0 none.
    pub encap: u16,
    /// What the kernel learned of the destination and used here.
    pub exception: Option<&'e Route>,
}

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'e> {
    /// What `ip route get` and connect(2) say.
    pub errno: i32,
    pub by: RefusedBy<'e>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy<'e> {
    /// A rule that says blackhole, unreachable or prohibit.
    Rule(&'e Rule),
    /// A route of that kind, or with a next hop object that is a blackhole.
    Route(&'e Route),
    /// No rule leads to a route.
    NoRoute,
    /// It would have to be forwarded, and the device it came by (IPv6: the host) does not.
    ForwardingOff,
    Source(Martian<'e>),
    /// The destination is not one for this host: a loopback address from outside, another's broadcast.
    Destination,
    /// A sender's source is not an address of this host.
    ForeignSource,
    /// The device it is bound to is down or does not exist.
    Device,
}

/// Why a packet's source is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Martian<'e> {
    /// Multicast, limited broadcast or 0.0.0.0.
    Invalid,
    /// A loopback address (`route_localnet` is off).
    Loopback,
    /// An address of this host (`accept_local` is off).
    Own,
    /// The way back is by a route that is neither unicast nor local: the address is a broadcast address here, or
    /// blackholed.
    Kind(&'e Route),
    /// rp_filter 1: the way back is by other devices than the one it came by.
    OtherDevice { back: Option<&'e Route>, filter: i64 },
    /// rp_filter: there is no way back, or the device has no address.
    NoWayBack { refused: Option<Back<'e>>, filter: i64 },
}

/// What refuses the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back<'e> {
    Rule(&'e Rule),
    Route(&'e Route),
    NoAddress,
}

/// A rule that did not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'e> {
    pub rule: &'e Rule,
    pub why: Why<'e>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why<'e> {
    /// The packet does not have what these ask for.
    Selectors(Selectors),
    /// "not", and the packet has all that it asks for.
    Inverted,
    /// The table has no route for the destination, or does not exist.
    NoRoute { table: u32 },
    /// suppress_prefixlength or suppress_ifgroup passes this route over.
    Suppressed(&'e Route),
    /// A throw route.
    Thrown(&'e Route),
    /// It leads to a later rule.
    Goto,
    /// It does nothing, or leads to a rule that does not exist.
    Nop,
    /// The source that the packet would get is not the rule's.
    SourceOfRoute,
}

/// A set of conditions of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selectors(u16);

/// A condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Selector {
    Source,
    Destination,
    Mark,
    Input,
    Output,
    Tunnel,
    Vrf,
    User,
    Tos,
    Protocol,
    SourcePort,
    DestinationPort,
    FlowLabel,
    Unread,
}

impl Selector {
    const ALL: [Self; 14] = [
        Self::Source,
        Self::Destination,
        Self::Mark,
        Self::Input,
        Self::Output,
        Self::Tunnel,
        Self::Vrf,
        Self::User,
        Self::Tos,
        Self::Protocol,
        Self::SourcePort,
        Self::DestinationPort,
        Self::FlowLabel,
        Self::Unread,
    ];

    /// As `ip rule` calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "from",
            Self::Destination => "to",
            Self::Mark => "fwmark",
            Self::Input => "iif",
            Self::Output => "oif",
            Self::Tunnel => "tun_id",
            Self::Vrf => "l3mdev",
            Self::User => "uidrange",
            Self::Tos => "tos",
            Self::Protocol => "ipproto",
            Self::SourcePort => "sport",
            Self::DestinationPort => "dport",
            Self::FlowLabel => "flowlabel",
            Self::Unread => "a condition that this program does not know",
        }
    }
}

impl Selectors {
    pub(super) fn add(&mut self, selector: Selector) {
        self.0 |= 1 << selector as u8;
    }

    pub fn has(self, selector: Selector) -> bool {
        self.0 & 1 << selector as u8 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The only one: the rule nearly matched.
    pub fn single(self) -> Option<Selector> {
        if self.0.count_ones() == 1 { self.iter().next() } else { None }
    }

    pub fn iter(self) -> impl Iterator<Item = Selector> {
        Selector::ALL.into_iter().filter(move |s| self.has(*s))
    }
}

impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, selector) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            f.write_str(selector.word())?;
        }
        Ok(())
    }
}

impl<'e> Answer<'e> {
    pub(super) fn one(decision: Decision<'e>) -> Self {
        Self { outcomes: vec![Outcome { decision, rule: None, passed: Vec::new(), assumes: Vec::new() }] }
    }

    /// The outcome, when there is only one and nothing about it is unknown.
    pub fn certain(&self) -> Option<&Outcome<'e>> {
        match self.outcomes.as_slice() {
            [outcome] if !matches!(outcome.decision, Decision::Unknown(_)) => Some(outcome),
            _ => None,
        }
    }

    /// The route, when it is certain which one.
    pub fn routed(&self) -> Option<&Routed<'e>> {
        match &self.certain()?.decision {
            Decision::Routed(routed) => Some(routed),
            _ => None,
        }
    }

    /// The refusal, when it is certain.
    pub fn refused(&self) -> Option<Refusal<'e>> {
        match self.certain()?.decision {
            Decision::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What is not known, when there are several outcomes or none is known.
    pub fn unknown(&self) -> Option<String> {
        if self.certain().is_some() {
            return None;
        }
        let why = self.outcomes.iter().find_map(|outcome| match &outcome.decision {
            Decision::Unknown(why) => Some(why.clone()),
            _ => None,
        });
        why.or_else(|| self.outcomes.iter().find_map(|outcome| outcome.assumes.first().cloned()))
    }
}

impl Routed<'_> {
    /// As the kernel's answer to RTM_GETROUTE describes it: the route with the one next hop `at`.
    pub fn as_route(&self, at: usize) -> Route {
        let hop = self.hops.get(at).or(self.hops.first());
        let mut route = self.route.cloned().unwrap_or_else(|| Route {
            table: self.table,
            destination: IpPrefix::default(),
            ..Route::default()
        });
        route.kind = self.kind;
        route.nexthop_id = None;
        if let Some(hop) = hop {
            route.source = hop.source;
            route.mtu = hop.mtu;
            route.next_hops = vec![NextHop {
                ifindex: hop.ifindex,
                gateway: hop.gateway,
                encap: hop.encap,
                ..NextHop::default()
            }];
        }
        route
    }
}
