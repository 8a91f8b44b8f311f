// SPDX-License-Identifier: MIT OR Apache-2.0
//! A predicted journey as plain data. All text is safe to print.

use serde::Serialize;

use crate::node::Hook;

/// One expected hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub netns: String,
    #[serde(flatten)]
    pub place: Place,
    /// Of the packet itself after this step, inside any tunnel.
    pub src: String,
    pub dst: String,
    /// `None`: not known.
    pub mark: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<MarkChange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nat: Vec<Translation>,
    /// Of the place's device, where it is one; 0 elsewhere.
    #[serde(skip)]
    pub ifindex: u32,
    /// The tunnel that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap: Option<Encap>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Place {
    Device {
        device: String,
        direction: Direction,
    },
    Hook {
        hook: &'static str,
        #[serde(rename = "in", skip_serializing_if = "String::is_empty")]
        input: String,
        #[serde(rename = "out", skip_serializing_if = "String::is_empty")]
        output: String,
        /// The rule that ended the walk, when one accepted before the policy.
        #[serde(skip_serializing_if = "Option::is_none")]
        accepted_by: Option<String>,
    },
    Route {
        table: u32,
        fwmark: u32,
        /// The packet is for this host itself.
        local: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        via: Option<String>,
        #[serde(skip_serializing_if = "String::is_empty")]
        device: String,
    },
    Socket {
        socket: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    In,
    Out,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MarkChange {
    /// The packet's mark, or its connection's.
    pub of: MarkOf,
    pub from: Option<u32>,
    pub to: Option<u32>,
    pub table: String,
    pub rule: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkOf {
    Packet,
    Connection,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Translation {
    /// SNAT, DNAT; un-SNAT and un-DNAT where the connection's entry does it.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub from: String,
    pub to: String,
    /// Empty: the connection's entry.
    pub rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Encap {
    pub src: String,
    pub dst: String,
    pub vni: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Ending {
    /// Out of the node; what is beyond is not watched.
    Left {
        netns: String,
        device: String,
    },
    Delivered {
        netns: String,
    },
    /// It ends here: see the causes.
    Stopped {
        netns: String,
    },
    /// Nothing more can be said.
    Unknown {
        why: String,
    },
}

/// The parts of the way, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Source address, route, gateway and firewall of the pod.
    Sending,
    /// Marks and translations before routing, the policy's sets.
    Marking,
    /// ip rule, table, next hop, forwarding.
    Routing,
    /// FORWARD and POSTROUTING, the source address.
    Passing,
    /// Device, neighbour, FDB, the outer packet.
    Tunnel,
    /// The same on the next node.
    OtherNode,
    /// The destination's socket, or the way out.
    Arriving,
    Returning,
}

impl Stage {
    pub const ALL: [Self; 8] = [
        Self::Sending,
        Self::Marking,
        Self::Routing,
        Self::Passing,
        Self::Tunnel,
        Self::OtherNode,
        Self::Arriving,
        Self::Returning,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Marking => "marks, policy and services",
            Self::Routing => "routing",
            Self::Passing => "firewall and source address",
            Self::Tunnel => "tunnel",
            Self::OtherNode => "the other node",
            Self::Arriving => "arrival",
            Self::Returning => "way back",
        }
    }
}

/// A hook that a packet comes to, with the devices as the hook has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtHook<'a> {
    pub(crate) hook: Hook,
    pub(crate) input: u32,
    pub(crate) output: u32,
    /// Bridge ports, when a bridge calls the hook.
    pub(crate) ports: Option<(&'a str, &'a str)>,
}

impl AtHook<'_> {
    pub(crate) fn new(hook: Hook, input: u32, output: u32) -> Self {
        Self { hook, input, output, ports: None }
    }
}
