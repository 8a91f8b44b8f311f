// SPDX-License-Identifier: MIT OR Apache-2.0
//! Node configurations that the catalogue of faults does not have: unusual ones in which nothing is wrong, and
//! mechanisms by which another agent of the node breaks a path. Each says what is right to report of it.

mod addresses;
mod egress;
mod firewall;
mod healthy;
mod routing;
mod services;

use std::net::SocketAddr;

use anyhow::{Context, Result};

pub use addresses::ADDRESSES;
pub use egress::EGRESS;
pub use firewall::FIREWALL;
pub use healthy::HEALTHY;
pub use routing::ROUTING;
pub use services::SERVICES;

use crate::{
    Lab, Spec,
    client::{self, Outcome},
    topology::Family,
};

/// A configuration of the nodes, the packet that is asked about, and what is right to say of it.
#[derive(Debug)]
pub struct Setup {
    /// Its name, after the mechanism.
    pub name: &'static str,
    /// What is special, or wrong.
    pub about: &'static str,
    /// IPv6 too.
    pub ipv6: bool,
    /// Does it to a healthy lab.
    pub apply: fn(&Lab) -> Result<()>,
    /// Who connects by TCP, and to what.
    pub client: (&'static str, &'static str),
    /// The same packet in arguments of `egwtrace check`; `@` stands for the lab's prefix.
    pub packet: &'static str,
    /// What the first cause must say in its title, evidence or fix: one word of each group. None: no cause at all.
    pub says: &'static [&'static [&'static str]],
    /// What no cause may say.
    pub never: &'static [&'static str],
}

impl Setup {
    /// All setups.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        [HEALTHY, ROUTING, SERVICES, FIREWALL, ADDRESSES, EGRESS].into_iter().flatten()
    }

    /// Puts up a lab with it, in which reverse path filters are strict, as they are not in the catalogue's.
    ///
    /// # Errors
    /// When the lab is not as it should be for it.
    pub fn up(&self) -> Result<Lab> {
        let mut spec = Spec::unique().without_mesh().with_strict_filters();
        spec.ipv6 = self.ipv6;
        let lab = Lab::up(spec)?;
        (self.apply)(&lab).with_context(|| format!("applying setup `{}`", self.name))?;
        Ok(lab)
    }

    /// Connects, and says what the client sees.
    ///
    /// # Errors
    /// When the client cannot be run; never for what the network does.
    pub fn connect(&self, lab: &Lab) -> Result<Outcome> {
        let (place, to) = self.client;
        let to: SocketAddr = to.parse().with_context(|| format!("{}: {to}", self.name))?;
        client::who(&lab.ns(place), to)
    }

    /// Whether nothing is wrong in it.
    pub fn is_healthy(&self) -> bool {
        self.says.is_empty()
    }

    /// How the causes differ from what is right; each is whether it is only possible, and its text (title, evidence
    /// and fix in one). What is only possible may be said of a healthy setup.
    pub fn wrong(&self, causes: &[(bool, String)]) -> Option<String> {
        let texts: Vec<(bool, String)> =
            causes.iter().map(|(possible, text)| (*possible, text.to_lowercase())).collect();
        let has = |text: &str, word: &str| text.contains(&word.to_lowercase());
        if self.is_healthy() {
            return texts.iter().any(|(possible, _)| !possible).then(|| "no cause".to_owned());
        }
        let Some((_, first)) = texts.first() else {
            return Some(format!("a cause with {:?}", self.says));
        };
        if let Some(group) = self.says.iter().find(|group| !group.iter().any(|word| has(first, word))) {
            return Some(format!("one of {group:?}"));
        }
        let false_word = self.never.iter().find(|word| texts.iter().any(|(_, text)| has(text, word)));
        false_word.map(|word| format!("nothing with {word:?}"))
    }
}

/// Runs lines (split at blanks) in places.
fn run(lab: &Lab, lines: &[(&str, &str)]) -> Result<()> {
    lines.iter().try_for_each(|(place, line)| lab.sh(place, line).map(drop))
}

/// Runs iptables commands on a node.
fn iptables(lab: &Lab, place: &str, lines: &[&str]) -> Result<()> {
    lines.iter().try_for_each(|line| lab.iptables(place, Family::V4, line).map(drop))
}

/// A second NIC of node1, `eth1` with 10.9.0.11/24, in a network of its own whose router is 10.9.0.1.
fn second_network(lab: &Lab) -> Result<()> {
    lab.batch(
        "ul",
        "link add br1 type bridge forward_delay 0\naddr add 10.9.0.1/24 dev br1\nlink set br1 up\n",
    )?;
    let ul = lab.ns("ul");
    lab.sh("node1", &format!("ip link add eth1 type veth peer name p-node1b netns {}", ul.name()))?;
    lab.sh("ul", "ip link set p-node1b master br1 up")?;
    lab.batch("node1", "link set eth1 up\naddr add 10.9.0.11/24 dev eth1\n")?;
    lab.ns("node1").sysctl(&[("ipv4/conf/eth0/rp_filter", "2"), ("ipv4/conf/eth1/rp_filter", "2")])
}

/// A VPN's device on node1: what it is given is never answered.
fn vpn(lab: &Lab, dev: &str, address: &str, mtu: u32) -> Result<()> {
    lab.serve("vpn", "node1", &format!("tun --dev {dev}"))?;
    lab.batch("node1", &format!("addr add {address} dev {dev}\nlink set {dev} mtu {mtu} up\n"))
}

/// A pod on node1 that is routed, not bridged: its gateway 169.254.1.1 is answered for by proxy ARP.
fn routed_pod(lab: &Lab, place: &str, dev: &str, address: &str) -> Result<()> {
    let pod = lab.extra(place)?;
    lab.batch(
        "node1",
        &format!("link add {dev} type veth peer name eth0 netns {}\nlink set {dev} up\n", pod.name()),
    )?;
    lab.ns("node1").sysctl(&[
        (&format!("ipv4/conf/{dev}/proxy_arp"), "1"),
        (&format!("ipv4/conf/{dev}/rp_filter"), "0"),
        (&format!("ipv4/neigh/{dev}/proxy_delay"), "0"),
    ])?;
    lab.batch(
        place,
        &format!(
            "link set eth0 up\naddr add {address}/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n"
        ),
    )?;
    lab.sh("node1", &format!("ip route add {address} dev {dev}")).map(drop)
}

/// A macvlan pod on node1's `eth0`, with 172.16.25.61.
fn macvlan_pod(lab: &Lab) -> Result<()> {
    let pod = lab.extra("podw")?;
    lab.sh(
        "node1",
        &format!("ip link add link eth0 name eth0 netns {} type macvlan mode bridge", pod.name()),
    )?;
    lab.batch(
        "podw",
        "link set eth0 up\naddr add 172.16.25.61/24 dev eth0\nroute add default via 172.16.25.1\n",
    )
}
