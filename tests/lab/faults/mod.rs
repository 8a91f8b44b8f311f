// SPDX-License-Identifier: MIT OR Apache-2.0
//! The catalogue of faults: what operators meet, as things to do to a healthy lab, each with the
//! traffic that meets it and what the client then sees. Some are controls, in which nothing is
//! wrong.
//!
//! A fault is applied to a fresh lab; it is undone by taking the lab down.

mod egress;
mod exit;
mod firewall;
mod hosts;
mod pods;
mod services;
mod sidecar;
mod tunnel;

use std::{fmt, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    Lab,
    causes::Says,
    client::Outcome,
    probe::{Probe, Report},
    topology::{self as t, Family, NODE1, NODE2},
};

// Why no fix of a fault can be typed.
const PASSES: &str = "the traffic passes all the same";
const AGENT: &str = "only EgressGateway's agent knows what it has to write";
const CNI: &str = "it is in the CNI's configuration";
const KUBE_PROXY: &str = "only kube-proxy knows what it has to write";
const OBJECT: &str = "an object of the cluster has to be changed";
const SERVER: &str = "a program has to be started, or started otherwise";
const FIREWALL: &str = "which ICMP errors may pass is the owner's to say";
const RATE: &str = "how fast the device may be is not known";
const BEYOND: &str = "it is on a host that is not watched";
const PASSING: &str = "it is over when the next connection begins";
const INTENT: &str = "what the mark was for is not known";

/// The sidecar pod's flow.
pub(crate) const MESH: &str = "--pod @mesh --dst {pod2}";

/// A named fault.
pub struct Fault {
    /// Its name, for `lab fault NAME`.
    pub name: &'static str,
    /// What is wrong.
    pub about: &'static str,
    /// The traffic that meets it.
    pub probe: Probe,
    /// What the client sees over IPv4.
    pub expect: Expect,
    /// What the client sees over IPv6; `None` where the fault is of IPv4 only.
    pub expect6: Option<Expect>,
    /// What is right to say of it.
    pub says: Says,
    /// Does it to a healthy lab.
    pub apply: fn(&Lab, Family) -> Result<()>,
}

/// What the client of a probe sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// An answer from a server that saw the client as this one.
    SeenAs(Seen),
    /// An answer, whoever the client seemed to be.
    Answer,
    /// An answer, but not before this many milliseconds.
    SlowAnswer(u64),
    /// So many requests are answered, then the rest time out.
    OnlyFirst(usize),
    /// RST or ICMP port unreachable.
    Refused,
    /// An error from the network at once.
    Unreachable,
    /// Nothing comes, or a connection stalls.
    TimesOut,
    /// Nothing comes, or the network says after some seconds that nobody is there.
    TimesOutOrUnreachable,
}

/// As whom a server may see the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seen {
    /// The egress IP.
    EgressIp,
    /// node1's address.
    Node1,
    /// node2's address.
    Node2,
    /// The pod `visitor` itself.
    Visitor,
    /// The pod `mesh` itself.
    Mesh,
    /// `ext` itself.
    Ext,
}

/// All faults, in the catalogue's order; a fault's number is its place, from 1.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    [
        egress::FAULTS,
        tunnel::FAULTS,
        exit::FAULTS,
        pods::FAULTS,
        firewall::FAULTS,
        services::FAULTS,
        hosts::FAULTS,
        sidecar::FAULTS,
    ]
    .into_iter()
    .flatten()
}

/// The fault of this name.
///
/// # Errors
/// When there is none; the error lists the names that contain the given one.
pub fn find(name: &str) -> Result<&'static Fault> {
    all().find(|fault| fault.name == name).with_context(|| {
        let like: Vec<&str> = all().map(|fault| fault.name).filter(|known| known.contains(name)).collect();
        if like.is_empty() || name.is_empty() {
            format!("no fault `{name}`; `lab faults` lists them")
        } else {
            format!("no fault `{name}`; alike: {}", like.join(" "))
        }
    })
}

impl Lab {
    /// Applies the fault of this name, over IPv4.
    ///
    /// # Errors
    /// When there is none, or the lab is not as it should be for it.
    pub fn fault(&self, name: &str) -> Result<&'static Fault> {
        self.fault_in(name, Family::V4)
    }

    /// Applies the fault of this name in a family.
    ///
    /// # Errors
    /// As [`Lab::fault`]; also when the fault is not one of this family, or the lab has it not.
    pub fn fault_in(&self, name: &str, family: Family) -> Result<&'static Fault> {
        let fault = find(name)?;
        fault.apply(self, family)?;
        Ok(fault)
    }

    /// Runs a line (split at blanks) in a place.
    ///
    /// # Errors
    /// When it fails.
    pub fn sh(&self, place: &str, line: &str) -> Result<String> {
        self.ns(place).sh(line)
    }
}

impl Fault {
    /// Applies it.
    ///
    /// # Errors
    /// When the lab is not as it should be for it.
    pub fn apply(&self, lab: &Lab, family: Family) -> Result<()> {
        self.expected(family).with_context(|| format!("fault `{}` is of IPv4 only", self.name))?;
        if family == Family::V6 && !lab.spec().ipv6 {
            anyhow::bail!("the lab is up without IPv6");
        }
        (self.apply)(lab, family).with_context(|| format!("applying fault `{}`", self.name))?;
        lab.run_dir().note_fault(self.name)
    }

    /// What the client sees in a family, if the fault can be had there.
    pub fn expected(&self, family: Family) -> Option<Expect> {
        family.pick(Some(self.expect), self.expect6)
    }

    /// Whether nothing is wrong in it: the same as in a healthy lab.
    pub fn is_control(&self) -> bool {
        matches!(self.name, "calico-append" | "docker-ok" | "osm-ok")
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Expect {
    /// How the report differs from this; `None` when it does not.
    pub fn differs(self, report: &Report, family: Family) -> Option<String> {
        let last = report.last();
        let fine = match self {
            Self::SeenAs(seen) => last.client() == Some(seen.ip(family)),
            Self::Answer => last.answer().is_some(),
            Self::SlowAnswer(least) => {
                last.answer().is_some_and(|answer| answer.took >= Duration::from_millis(least))
            }
            Self::OnlyFirst(count) => {
                report.answered() == count
                    && report.steps[..count].iter().all(|(_, outcome)| outcome.answer().is_some())
                    && *last == Outcome::TimedOut
            }
            Self::Refused => *last == Outcome::Refused,
            Self::Unreachable => matches!(last, Outcome::Unreachable { .. }),
            Self::TimesOut => *last == Outcome::TimedOut,
            Self::TimesOutOrUnreachable => {
                matches!(last, Outcome::TimedOut | Outcome::Unreachable { .. })
            }
        };
        (!fine).then(|| match self {
            Self::SeenAs(seen) => format!("an answer to {}", seen.ip(family)),
            other => format!("{other:?}"),
        })
    }
}

impl Seen {
    /// The address meant.
    pub fn ip(self, family: Family) -> IpAddr {
        match self {
            Self::EgressIp => t::egress_ip(family),
            Self::Node1 => NODE1.ip(family),
            Self::Node2 => NODE2.ip(family),
            Self::Visitor => t::visitor(family),
            Self::Mesh => t::of(&t::PODS[3].ip, family),
            Self::Ext => t::ext(family),
        }
    }
}
