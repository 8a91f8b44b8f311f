// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which cause egwtrace names for a fault: cases, and how one is tried with the real binary.

mod check;
mod elsewhere;
mod ends;
mod healthy;
mod says;
mod trace;
mod variants;
mod ways;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;

pub use check::{check, check_on};
pub use elsewhere::ELSEWHERE;
pub use ends::ENDS;
pub use healthy::{HEALTHY, HEALTHY_PACKETS};
pub(crate) use says::says;
pub use says::{Fix, Says};
pub use trace::{Found, Trace, binary};
pub(crate) use variants::{BOTH, EACH, EGW, EGW2, FOUR, NODEPORT, POD2, PODB, SVC};
pub use variants::{VARIANTS, What};
pub use ways::WAYS;

use crate::{
    Backend, Lab, Spec, faults,
    helper::Helper,
    probe::{Probe, Report},
    topology::{self as t, Family, NODE1, NODE2},
};

/// The nodes whose namespaces egwtrace is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Both,
    Node1,
    Node2,
}

impl Watch {
    /// In arguments of egwtrace.
    pub fn nodes(self) -> &'static str {
        match self {
            Self::Both => "--node-netns @node1 --node-netns @node2",
            Self::Node1 => "--node-netns @node1",
            Self::Node2 => "--node-netns @node2",
        }
    }
}

/// A fault, or a variant of one, and what is right to say of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub what: What,
    pub says: Says,
    pub watch: Watch,
    pub families: &'static [Family],
    pub backends: &'static [Backend],
    /// All of the causes must be named.
    pub all: bool,
}

impl Case {
    /// A fault of the catalogue.
    pub fn is_fault(&self) -> bool {
        matches!(self.what, What::Fault(_))
    }
}

/// The catalogue's faults.
pub fn catalogue() -> impl Iterator<Item = Case> {
    faults::all().map(|fault| Case {
        name: fault.name,
        what: What::Fault(fault.name),
        says: fault.says,
        watch: Watch::Both,
        families: if fault.expect6.is_some() { EACH } else { FOUR },
        backends: BOTH,
        all: false,
    })
}

/// All cases: the catalogue's faults first.
pub fn all() -> impl Iterator<Item = Case> {
    catalogue().chain([VARIANTS, WAYS, ENDS, ELSEWHERE].into_iter().flatten().copied())
}

/// Cases of which egwtrace does not say the right thing yet, and what is missing. One that is right by now is taken out.
pub const GAPS: &[(&str, &str)] = &[
    ("src-miss-one-node", "that no policy selects the pod is only possible where the gateway is not watched"),
    (
        "node-address-twice",
        "the refusal comes from the host that has the node's address too, and is taken for the node's",
    ),
    (
        "service-rejected-at-the-endpoint",
        "the trace does not look into the endpoint's own namespace: it says that a firewall there rejects, not which rule",
    ),
    ("ct-full", "the limit is the machine's: what is typed in a namespace has no effect"),
];

/// One case in one kind of lab.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub case: Case,
    pub family: Family,
    pub backend: Backend,
    /// Reverse path filters are strict, as they are not in the lab's own.
    pub strict: bool,
}

impl Attempt {
    /// Every case in every kind of lab that it is for.
    pub fn all(cases: impl IntoIterator<Item = Case>) -> impl Iterator<Item = Self> {
        cases.into_iter().flat_map(|case| {
            case.families.iter().flat_map(move |&family| {
                case.backends.iter().map(move |&backend| Self { case, family, backend, strict: false })
            })
        })
    }

    /// "fwd-drop", "reject-tcp-reset v6 legacy".
    pub fn name(&self) -> String {
        let family = self.family.pick("", " v6");
        let backend = if self.backend == Backend::Legacy { " legacy" } else { "" };
        let strict = if self.strict { " strict" } else { "" };
        format!("{}{family}{backend}{strict}", self.case.name)
    }

    /// Puts a lab up, applies the fault, follows the traffic. `helper`: `None` for the lab's own.
    ///
    /// # Errors
    /// When the lab cannot be put up, the fault not applied, or egwtrace does not run.
    pub fn run(&self, helper: Option<&Helper>) -> Result<Found> {
        let lab = self.up(helper)?;
        let probe = self.apply(&lab)?;
        let name = self.name().replace(' ', "-");
        let trace = Trace::start(&lab, &name, &fill(self.case.says.flow, self.family), self.case.watch)?;
        let began = Instant::now();
        probe.run(&lab, self.family)?;
        thread::sleep(self.patience());
        trace.stop(&name, began)
    }

    /// A fresh lab of its kind.
    ///
    /// # Errors
    /// When it cannot be put up.
    pub fn up(&self, helper: Option<&Helper>) -> Result<Lab> {
        let mut spec = Spec::unique().with_backend(self.backend);
        spec.ipv6 = self.family == Family::V6;
        spec.strict = self.strict;
        match helper {
            Some(helper) => Lab::up_with(spec, helper.clone()),
            None => Lab::up(spec),
        }
    }

    /// The traffic that meets it.
    ///
    /// # Errors
    /// When the catalogue has no such fault.
    pub fn probe(&self) -> Result<Probe> {
        match self.case.what {
            What::Fault(name) => Ok(faults::find(name)?.probe),
            What::Lines { probe, .. } => Ok(probe),
        }
    }

    /// Arguments of `egwtrace check` for the packet that is traced; `None`: it is none, or has no source.
    pub fn packet(&self) -> Option<String> {
        let flow = fill(self.case.says.flow, self.family);
        let (before, to) = flow.rsplit_once("--dst ")?;
        let (port, protocol) = self.probe().ok()?.port()?;
        let to = match (port, to.contains(':')) {
            (0, _) => to.to_owned(),
            (_, true) => format!("[{to}]:{port}"),
            (_, false) => format!("{to}:{port}"),
        };
        let protocol = if protocol == "tcp" { String::new() } else { format!(" --proto {protocol}") };
        (!before.is_empty()).then(|| format!("{before}--dst {to}{protocol}"))
    }

    /// A lone packet's silence is told after some time.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(match self.case.what {
            What::Lines { wait_ms, .. } => wait_ms,
            What::Fault(_) => 900,
        })
    }

    /// What the client of a fault of the catalogue should have seen instead.
    pub fn unexpected(&self, report: &Report) -> Option<String> {
        let What::Fault(name) = self.case.what else { return None };
        let expect = faults::find(name).ok()?.expected(self.family)?;
        expect.differs(report, self.family).map(|expect| format!("the client to see {expect}"))
    }

    /// Applies the fault to a lab that is up.
    ///
    /// # Errors
    /// When the lab is not as it should be for it.
    pub fn apply(&self, lab: &Lab) -> Result<Probe> {
        match self.case.what {
            What::Fault(name) => {
                let fault = faults::find(name)?;
                fault.apply(lab, self.family)?;
                Ok(fault.probe)
            }
            What::Lines { probe, faults, lines, .. } => {
                for name in faults {
                    faults::find(name)?.apply(lab, self.family)?;
                }
                for (place, line) in lines {
                    let line = fill(line, self.family);
                    match line.split_once(' ') {
                        Some(("ipt", rule)) => drop(lab.iptables(place, self.family, rule)?),
                        Some(("serve", server)) => lab.serve("case", place, server)?,
                        Some(("stop", server)) => lab.stop(server)?,
                        _ => drop(lab.sh(place, &line)?),
                    }
                }
                Ok(probe)
            }
        }
    }

    /// What is right for the check's first cause; `None`: it is not tried.
    pub fn checked(&self) -> Option<&'static [&'static str]> {
        let says = &self.case.says;
        let six = says.checked6.filter(|_| self.family == Family::V6);
        six.or(says.checked)
    }

    /// What is wrong with what a check named; `None`: it is right, or not tried.
    pub fn wrong_check(&self, causes: &[Value]) -> Option<String> {
        let wanted = self.checked()?;
        let first = causes.first().and_then(|cause| cause["id"].as_str());
        match first {
            None if wanted.is_empty() => None,
            Some(first) if wanted.contains(&first) => None,
            _ if wanted.is_empty() => Some("no cause".to_owned()),
            _ => Some(format!("first {}", wanted.join(" or "))),
        }
    }

    /// What is wrong with what was named; `None`: it is right.
    pub fn wrong(&self, found: &Found) -> Option<String> {
        let ids = found.ids();
        let case = self.case;
        if case.says.traced.is_empty() {
            return (!ids.is_empty()).then(|| "no cause".to_owned());
        }
        let strange: Vec<&str> = ids.iter().copied().filter(|id| !case.says.traced.contains(id)).collect();
        if ids.is_empty() {
            return Some(format!("a cause: {}", case.says.traced.join(" or ")));
        }
        if !strange.is_empty() {
            return Some(format!("none of: {}", strange.join(", ")));
        }
        let missing: Vec<&str> = case.says.traced.iter().copied().filter(|id| !ids.contains(id)).collect();
        (case.all && !missing.is_empty()).then(|| format!("also: {}", missing.join(", ")))
    }
}

/// Addresses and names of a family for the words in braces.
pub fn fill(text: &str, family: Family) -> String {
    let words: [(&str, String); 21] = [
        ("{empty}", t::empty_service(family).to_string()),
        ("{ext}", t::ext(family).to_string()),
        ("{ext2}", t::ext2(family).to_string()),
        ("{ext2net}", family.pick("198.51.100.0/24".to_owned(), format!("{}/128", t::ext2(family)))),
        ("{visitor}", t::visitor(family).to_string()),
        ("{pod2}", t::pod2(family).to_string()),
        ("{podb}", t::of(&t::PODS[1].ip, family).to_string()),
        ("{svc}", t::cluster_ip(family).to_string()),
        ("{dns}", t::dns_service(family).to_string()),
        ("{eip}", t::egress_ip(family).to_string()),
        ("{pods2}", family.pick(NODE2.pod_cidr[0], NODE2.pod_cidr[1]).to_owned()),
        ("{node1}", NODE1.ip(family).to_string()),
        ("{node2}", NODE2.ip(family).to_string()),
        ("{tunnel2}", t::of(&NODE2.tunnel_ip, family).to_string()),
        ("{mac1}", NODE1.tunnel_mac.to_owned()),
        ("{mac2}", NODE2.tunnel_mac.to_owned()),
        ("{cni0}", t::of(&NODE1.cni0, family).to_string()),
        ("{src}", t::src_set(family)),
        ("{dst}", t::dst_set(family)),
        ("{ip}", family.pick("ip -4", "ip -6").to_owned()),
        ("{nftip}", family.pick("ip", "ip6").to_owned()),
    ];
    let text = text.replace("{inet}", family.pick("inet", "inet6"));
    words.iter().fold(text, |text, (word, value)| text.replace(word, value))
}
