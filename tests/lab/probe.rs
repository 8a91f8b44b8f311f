// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named pieces of traffic: what a fault is noticed by.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    Lab,
    client::{self, Outcome, PATIENCE, Request},
    topology::{self as t, Family, NODE_PORT, NODE1},
};

/// A piece of traffic between two places of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// visitor to the policy's destination: the egress path.
    Egw,
    /// visitor to the second address of ext, beyond the router.
    Egw2,
    /// visitor to ext, four connections kept open.
    ManyEgw,
    /// visitor to ext, 300 kB up.
    Up,
    /// visitor to ext, 300 kB down.
    Down,
    /// visitor to ext, UDP echo.
    Udp,
    /// visitor to ext, ping.
    Ping,
    /// visitor to ext, ping of 3000 bytes in fragments.
    PingBig,
    /// visitor to ext while node1's NIC is busy: what counts is the time.
    Latency,
    /// visitor to the pod on the other node.
    Pod2,
    /// visitor to the pod on the other node, ping.
    PingPod2,
    /// visitor to the pod on its own node.
    Podb,
    /// visitor to pod2, 300 kB up.
    UpPod2,
    /// visitor to pod2: two requests on one connection, node1's conntrack entry deleted between.
    KeepPod2,
    /// visitor to a port on which nothing listens.
    Closed,
    /// visitor to the service's cluster IP.
    Svc,
    /// visitor to the service without endpoints.
    SvcEmpty,
    /// visitor to 10.96.100.101, whose endpoint is podb.
    SvcLocal,
    /// ext to the node port on node1.
    Nodeport,
    /// visitor to the DNS pod.
    Dns,
    /// visitor to the DNS service.
    DnsSvc,
    /// visitor to 10.96.0.53 from one source port, before and after the service got a new endpoint.
    StaleUdp,
    /// visitor to pod2:90, five connections kept open.
    Overflow,
    /// cpod, a Calico pod, to the API server's service.
    Overlap,
    /// ext to the port which node1 maps to a container.
    Docker,
    /// mesh to pod2, through its own sidecar.
    MeshOut,
    /// mesh to pod2:6379, which should not go through the sidecar.
    MeshPort,
    /// visitor to mesh, through mesh's sidecar.
    MeshIn,
    /// visitor to a port of ext on which nothing listens.
    ExtClosed,
    /// podb, a pod that no policy selects, to ext.
    PodbEgw,
    /// visitor to its network, to everybody, to a group and, as traceroute does, to ext.
    Noise,
    /// visitor to ext, a datagram that wants no answer (syslog).
    OneWay,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each request, in order, with what it was.
    pub steps: Vec<(String, Outcome)>,
    /// What else is worth knowing (counters).
    pub notes: Vec<String>,
}

impl Report {
    /// The last request's outcome, which is the one a fault shows in.
    pub fn last(&self) -> &Outcome {
        self.steps.last().map_or(&Outcome::TimedOut, |(_, outcome)| outcome)
    }

    /// How many requests were answered.
    pub fn answered(&self) -> usize {
        self.steps.iter().filter(|(_, outcome)| outcome.answer().is_some()).count()
    }

    fn one(what: impl Into<String>, outcome: Outcome) -> Self {
        Self { steps: vec![(what.into(), outcome)], notes: Vec::new() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (what, outcome)) in self.steps.iter().enumerate() {
            write!(f, "{}{what}: {outcome}", if at == 0 { "" } else { "; " })?;
        }
        for note in &self.notes {
            write!(f, " [{note}]")?;
        }
        Ok(())
    }
}

impl Probe {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The last request as `egwtrace check` is asked about it, after the destination's address: its port and protocol.
    /// `None`: it is no single packet.
    pub fn port(self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::Noise => return None,
            Self::Ping | Self::PingBig | Self::PingPod2 => (0, "icmp"),
            Self::Udp => (7, "udp"),
            Self::OneWay => (514, "udp"),
            Self::Dns | Self::DnsSvc | Self::StaleUdp => (53, "udp"),
            Self::Closed | Self::ExtClosed => (81, "tcp"),
            Self::Nodeport => (NODE_PORT, "tcp"),
            Self::Overflow => (90, "tcp"),
            Self::Overlap | Self::Docker => (443, "tcp"),
            Self::MeshPort => (6379, "tcp"),
            _ => (80, "tcp"),
        })
    }

    /// As whom the server sees the client in a healthy lab, where it says so.
    pub fn seen(self, family: Family) -> Option<IpAddr> {
        Some(match self {
            Self::Egw | Self::ManyEgw | Self::Udp | Self::Up | Self::Latency => t::egress_ip(family),
            Self::Egw2 | Self::PodbEgw => NODE1.ip(family),
            Self::Pod2 | Self::KeepPod2 | Self::Podb | Self::UpPod2 | Self::Svc => t::visitor(family),
            Self::Nodeport => family.pick(NODE1.flannel_ip.into(), NODE1.ip(Family::V6)),
            Self::Docker => t::ext(family),
            Self::MeshOut => t::of(&t::PODS[3].ip, family),
            Self::MeshIn => Ipv4Addr::LOCALHOST.into(),
            _ => return None,
        })
    }

    /// Whether the report is what a healthy lab gives.
    pub fn passes(self, report: &Report, family: Family) -> bool {
        let last = report.last();
        let seen = self.seen(family).zip(last.client());
        // Where the policy names the second address too; where the pod sends from no address of a pod.
        let also = match self {
            Self::Egw2 => Some(t::egress_ip(family)),
            Self::Pod2 => Some(NODE1.flannel_ip.into()),
            _ => None,
        };
        let also = also.is_some() && last.client() == also;
        last.answer().is_some() && (also || seen.is_none_or(|(healthy, client)| healthy == client))
    }

    /// Makes the traffic and says what the client saw.
    ///
    /// # Errors
    /// When the lab lacks what the probe needs; never for what the network does.
    pub fn run(self, lab: &Lab, family: Family) -> Result<Report> {
        let visitor = lab.ns("visitor");
        let pod2 = t::pod2(family);
        let tcp = |from: &str, to: IpAddr, port: u16| -> Result<Report> {
            let to = SocketAddr::new(to, port);
            Ok(Report::one(format!("{from} to {to}"), client::who(&lab.ns(from), to)?))
        };
        let bulk = |to: IpAddr, request: Request| -> Result<Report> {
            let outcome = client::tcp(&visitor, (to, 80).into(), request, Duration::from_secs(4))?;
            Ok(Report::one(format!("{request:?} with {to}"), outcome))
        };
        match self {
            Self::Egw => tcp("visitor", t::ext(family), 80),
            Self::Egw2 => tcp("visitor", t::ext2(family), 80),
            Self::ManyEgw => many(lab, (t::ext(family), 80).into(), 4, Duration::from_secs(1)),
            Self::Up => bulk(t::ext(family), Request::Upload(300_000)),
            Self::Down => bulk(t::ext(family), Request::Download(300_000)),
            Self::Udp => datagram(lab, (t::ext(family), 7).into(), b"hello"),
            Self::Ping => ping(lab, t::ext(family), 2, 56),
            Self::PingBig => {
                // Over IPv6 the first answer is lost: ext learns from it how small the way is.
                ping(lab, t::ext(family), 1, 3000)?;
                ping(lab, t::ext(family), 2, 3000)
            }
            Self::Latency => latency(lab, family),
            Self::Pod2 => tcp("visitor", pod2, 80),
            Self::PingPod2 => ping(lab, pod2, 2, 56),
            Self::Podb => tcp("visitor", t::of(&t::PODS[1].ip, family), 80),
            Self::UpPod2 => bulk(pod2, Request::Upload(300_000)),
            Self::KeepPod2 => keep_alive(lab, (pod2, 80).into()),
            Self::Closed => tcp("visitor", pod2, 81),
            Self::Svc => tcp("visitor", t::cluster_ip(family), 80),
            Self::SvcEmpty => tcp("visitor", t::empty_service(family), 80),
            Self::SvcLocal => tcp("visitor", Ipv4Addr::new(10, 96, 100, 101).into(), 80),
            Self::Nodeport => tcp("ext", NODE1.ip(family), NODE_PORT),
            Self::Dns => datagram(lab, (pod2, 53).into(), &client::dns_query()),
            Self::DnsSvc => datagram(lab, (t::dns_service(family), 53).into(), &client::dns_query()),
            Self::StaleUdp => stale_udp(lab),
            Self::Overflow => many(lab, (pod2, 90).into(), 5, Duration::from_secs(1)),
            Self::Overlap => overlap(lab),
            Self::Docker => tcp("ext", NODE1.ip(Family::V4), 443),
            Self::MeshOut => mesh(lab, 80),
            Self::MeshPort => mesh(lab, 6379),
            Self::ExtClosed => tcp("visitor", t::ext(family), 81),
            Self::PodbEgw => tcp("podb", t::ext(family), 80),
            Self::Noise => {
                client::noise(&visitor, Ipv4Addr::new(10, 200, 0, 255), t::ext(Family::V4))?;
                Ok(Report { steps: Vec::new(), notes: vec!["sent".to_owned()] })
            }
            Self::OneWay => {
                let to = SocketAddr::new(t::ext(family), 514);
                let patience = Duration::from_millis(300);
                Ok(Report::one(format!("udp to {to}"), client::udp(&visitor, to, 0, b"<6>hello", patience)?))
            }
            Self::MeshIn => tcp("visitor", t::of(&t::PODS[3].ip, Family::V4), 80),
        }
    }
}

fn many(lab: &Lab, to: SocketAddr, count: usize, patience: Duration) -> Result<Report> {
    let outcomes = client::many(&lab.ns("visitor"), to, count, patience)?;
    let steps = outcomes.into_iter().enumerate().map(|(at, outcome)| (format!("connection {at}"), outcome));
    Ok(Report { steps: steps.collect(), notes: Vec::new() })
}

fn datagram(lab: &Lab, to: SocketAddr, payload: &[u8]) -> Result<Report> {
    Ok(Report::one(format!("udp to {to}"), client::udp(&lab.ns("visitor"), to, 0, payload, PATIENCE)?))
}

fn ping(lab: &Lab, to: IpAddr, count: u32, size: usize) -> Result<Report> {
    Ok(Report::one(format!("ping {to}"), client::ping(&lab.ns("visitor"), to, count, size, true)?))
}

/// Some 14 kB stand in node1's queue when the request comes to it.
fn latency(lab: &Lab, family: Family) -> Result<Report> {
    client::flood(&lab.ns("node1"), (t::router(family), 9).into(), 10, 1400)?;
    let to = SocketAddr::new(t::ext(family), 80);
    Ok(Report::one(format!("visitor to {to}"), client::who(&lab.ns("visitor"), to)?))
}

fn keep_alive(lab: &Lab, to: SocketAddr) -> Result<Report> {
    let (first, second) = client::keep_alive(&lab.ns("visitor"), to, || {
        lab.ns("node1").sh("conntrack -D -p tcp --dport 80").map(drop)
    })?;
    Ok(Report {
        steps: vec![("first request".to_owned(), first), ("second".to_owned(), second)],
        notes: Vec::new(),
    })
}

/// The entry of the first datagram still names the old endpoint when the second one comes.
fn stale_udp(lab: &Lab) -> Result<Report> {
    let visitor = lab.ns("visitor");
    let to = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 53), 53));
    let ask = || client::udp(&visitor, to, 34567, &client::dns_query(), Duration::from_secs(2));
    let before = ask()?;
    let pod2 = t::pod2(Family::V4);
    lab.iptables("node1", Family::V4, "-t nat -D KUBE-SERVICES 1")?;
    lab.iptables(
        "node1",
        Family::V4,
        &format!(
            "-t nat -I KUBE-SERVICES -d {} -p udp --dport 53 -j DNAT --to-destination {pod2}:53",
            to.ip()
        ),
    )?;
    let after = ask()?;
    let entry = lab.ns("node1").sh("conntrack -L -p udp --orig-port-src 34567").unwrap_or_default();
    Ok(Report {
        steps: vec![("before the new endpoint".to_owned(), before), ("after".to_owned(), after)],
        notes: vec![entry.trim().to_owned()],
    })
}

fn overlap(lab: &Lab) -> Result<Report> {
    let api = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), 443));
    let mut steps = Vec::new();
    for (what, from, to) in [
        ("node1 to the API server", "node1", api),
        ("cpod to an address outside the pool", "cpod", (t::ext2(Family::V4), 80).into()),
        ("cpod to the API server", "cpod", api),
    ] {
        steps.push((what.to_owned(), client::who(&lab.ns(from), to)?));
    }
    Ok(Report { steps, notes: Vec::new() })
}

fn mesh(lab: &Lab, port: u16) -> Result<Report> {
    let redirected = || -> Result<u64> {
        let rules = lab.iptables("mesh", Family::V4, "-t nat -nvxL")?;
        let line = rules.lines().find(|line| line.contains("redir ports 15001"));
        Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0))
    };
    let before = redirected().context("counting redirected connections")?;
    let to = SocketAddr::new(t::pod2(Family::V4), port);
    let outcome = client::who(&lab.ns("mesh"), to)?;
    let count = redirected()?.saturating_sub(before);
    let mut report = Report::one(format!("mesh to {to}"), outcome);
    report.notes.push(format!("{count} connections redirected to 15001"));
    Ok(report)
}
