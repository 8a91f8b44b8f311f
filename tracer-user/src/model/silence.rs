// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why nobody answers who asks for an address on a link (ARP, neighbour solicitations), as far as the state of the
//! namespaces shows it; and what is ruled out where it does not.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::bridge_ports::Segment;
use super::peers::no_neighbour;
use super::route_words::ip_command;
use super::world::{Host, World};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::fib::{Decision, Question, RefusedBy};
use crate::firewall::{CtState, PacketView, attribute_drop};
use crate::node::rtnl::{Address, FdbEntry, Link};
use crate::node::{Family, Hook, Interval, IpPrefix};

// include/uapi/linux/if_addr.h
pub(super) const IFA_F_DADFAILED: u32 = 0x08;
pub(super) const IFA_F_TENTATIVE: u32 = 0x40;

// IF_OPER_*, include/uapi/linux/if.h
const OPER_DOWN: u8 = 2;
const OPER_LOWER_DOWN: u8 = 3;

/// Who asks for what.
#[derive(Clone)]
pub(crate) struct SilentHop {
    pub(crate) asker: Arc<Host>,
    /// The device of the asker that the question goes out by.
    pub(crate) ifindex: u32,
    pub(crate) address: IpAddr,
    /// The source of what waits for the answer.
    pub(crate) source: IpAddr,
    /// The address is a gateway's, not the packet's own destination.
    pub(crate) is_gateway: bool,
}

impl SilentHop {
    fn link(&self) -> Option<&Link> {
        self.asker.link(self.ifindex)
    }

    fn device(&self) -> String {
        self.asker.device(self.ifindex)
    }

    /// What the state of the namespaces shows to be the reason.
    pub(crate) fn reason(&self, world: &mut dyn World) -> Option<Finding> {
        if let Some(found) = self.no_carrier().or_else(|| self.macvlan(world)) {
            return Some(found);
        }
        if let Some(link) = self.link().filter(|link| link.vxlan.is_some()) {
            let floods = |e: &FdbEntry| e.own && e.ifindex == link.ifindex && e.mac.iter().all(|b| *b == 0);
            let alone = !self.asker.evidence.fdb.iter().any(floods);
            return alone.then(|| no_neighbour(&world.watched(), &self.asker, link, self.address));
        }
        let Some(segment) = Segment::of(world, &self.asker, self.ifindex) else {
            return self.proxy(world).or_else(|| self.silent_owner(world));
        };
        segment
            .blocked(world, self.address)
            .or_else(|| self.solicitation_dropped(&segment))
            .or_else(|| segment.unheard(world, self.address))
            .or_else(|| self.unusable(world, &segment))
            .or_else(|| self.wrong_mask(&segment))
            .or_else(|| self.wrong_gateway(&segment))
            .or_else(|| self.silent_owner(world))
    }

    fn no_carrier(&self) -> Option<Finding> {
        let link = self.link()?;
        if link.is_up() && !matches!(link.operstate, OPER_DOWN | OPER_LOWER_DOWN) {
            return None;
        }
        let (device, name) = (self.device(), self.asker.name());
        let state = if link.is_up() { "has no carrier" } else { "is down" };
        let finding = Finding::new(
            &c::DEVICE_DOWN,
            Certain,
            format!("{device} of {name} {state}: nobody hears who asks for {} there", self.address),
        )
        .checked(state, self.asker.command(format!("ip link show {device}")));
        Some(self.at(if link.is_up() {
            finding.fix(format!("bring up what {device} leads to (its cable, its peer, a port of it)"))
        } else {
            finding.fix(self.asker.command(format!("ip link set {device} up")))
        }))
    }

    /// Between a macvlan device and the host of its parent nothing passes, in either direction.
    fn macvlan(&self, world: &mut dyn World) -> Option<Finding> {
        let link = self.link()?.clone();
        let (pod, child, host, parent) = if is_macvlan(&link) {
            let (host, parent) = world.lower(&self.asker, &link)?;
            host.owns(self.address).then_some(())?;
            (self.asker.clone(), link, host, parent)
        } else {
            let owner =
                world.watched().into_iter().find(|h| h.id != self.asker.id && h.owns(self.address))?;
            let child =
                owner.owner(self.address).and_then(|i| owner.link(i)).filter(|l| is_macvlan(l))?.clone();
            let (host, parent) = world.lower(&owner, &child)?;
            (host.id == self.asker.id && parent == self.ifindex).then_some(())?;
            (owner, child, host, parent)
        };
        let kind = child.kind.clone().unwrap_or_default();
        let (there, below) = (host.name(), host.device(parent));
        let (name, device) = (pod.name(), pod.device(child.ifindex));
        let of_pod = pod.evidence.addresses.iter().find(|a| {
            a.ifindex == child.ifindex && a.address.is_ipv4() == self.address.is_ipv4() && a.scope == 0
        });
        let pods = of_pod.map_or_else(|| "ADDRESS-OF-THE-POD".to_owned(), |a| a.address.to_string());
        let ip = ip_command(self.address);
        let mode = if kind == "ipvlan" { "ipvlan mode l2" } else { "macvlan mode bridge" };
        let finding = Finding::new(
            &c::NEIGHBOUR_SILENT,
            Certain,
            format!(
                "{device} of {name} is a {kind} device on {below} of {there}: between the two nothing passes, so {} does not hear who asks for it",
                self.address
            ),
        )
        .checked(format!("{device} is {kind}, its parent is {below} of {there}"), pod.command(format!("ip -d link show {device}")))
        .checked(
            format!("{} asks for {} by {}", self.asker.name(), self.address, self.device()),
            self.asker.command(format!("ip neigh show {} dev {}", self.address, self.device())),
        );
        Some(self.at(if of_pod.is_none() {
            finding
        } else {
            finding.fix(format!(
                "{} (the host needs a {kind} device of its own on {below} to reach its pods)",
                [
                    format!("ip link add link {below} name mvhost type {mode}"),
                    "ip link set mvhost up".to_owned(),
                    format!("{ip} route add {pods} dev mvhost"),
                ]
                .map(|command| host.command(command))
                .join("; ")
            ))
        }))
    }

    /// A veth that is in no bridge: the host at its other end answers for others by proxy ARP only.
    fn proxy(&self, world: &mut dyn World) -> Option<Finding> {
        let link = self.link().filter(|l| l.is_veth() && l.master.is_none())?.clone();
        let (host, ifindex) = world.peer(&self.asker, &link)?;
        let end = host.link(ifindex)?.clone();
        if end.master.is_some() || self.address.is_ipv6() || host.owns(self.address) {
            return None;
        }
        let (address, name, device) = (self.address, host.name(), host.device(ifindex));
        let key = |device: &str| format!("net.ipv4.conf.{}.proxy_arp", device.replace('.', "/"));
        let is_on = |device: &str| host.sysctl(&format!("net/ipv4/conf/{device}/proxy_arp")) == Some(1);
        let show = host.command(format!(
            "ip addr show to {address}; {}",
            host.command(format!("sysctl {}", key(&end.name)))
        ));
        if !(is_on("all") || is_on(&end.name)) {
            let finding = Finding::new(
                &c::NEIGHBOUR_SILENT,
                Certain,
                format!("nobody has {address} behind {}: its other end is {device} of {name}, which neither has that address nor answers for it (proxy_arp is 0)", self.device()),
            )
            .checked(format!("{name} does not have {address}, and proxy_arp of {device} is 0"), show);
            return Some(self.at(finding.fix(format!(
                "{}, where the pod is routed by proxy ARP; else correct the gateway: {}",
                host.command(format!("sysctl -w {}=1", key(&end.name))),
                self.asker.command("ip route")
            ))));
        }
        let evidence = host.evidence.clone();
        let question = Question::to(address).from(self.source).input(ifindex);
        let fib = evidence.fib_about(&[address, self.source]);
        let answer = fib.lookup(&question);
        let why = match &answer.certain()?.decision {
            Decision::Routed(routed) if routed.kind == libc::RTN_UNICAST => {
                if routed.hops.iter().any(|hop| hop.ifindex != ifindex) {
                    return None;
                }
                format!("its route to {address} leads back to {device}")
            }
            Decision::Routed(_) => return None,
            Decision::Refused(refusal) => match refusal.by {
                RefusedBy::ForwardingOff => format!("{name} does not forward"),
                RefusedBy::Source(_) => {
                    format!("{name} does not take packets from {} on {device}", self.source)
                }
                _ => format!("{name} has no route to {address}"),
            },
            Decision::Unknown(_) => return None,
        };
        let get = host.command(format!("ip route get {address} from {} iif {device}", self.source));
        let finding = Finding::new(
            &c::NEIGHBOUR_SILENT,
            Certain,
            format!("{name} does not answer for {address} on {device}, though proxy_arp is on: proxy ARP answers only for what it has a route to by another device, and {why}"),
        )
        .checked(why, get)
        .checked(format!("{name} does not have {address} itself, and proxy_arp of {device} is 1"), show);
        Some(self.at(finding.fix(format!(
            "{} (or restore the route that led to it, often the default route)",
            host.command(format!("ip addr add {address}/32 dev {device}"))
        ))))
    }

    /// A neighbour solicitation is a packet like any other, and where the bridge asks netfilter, a rule may drop it.
    fn solicitation_dropped(&self, segment: &Segment) -> Option<Finding> {
        const SOLICITATION: (u8, u8) = (135, 0);
        let IpAddr::V6(wanted) = self.address else { return None };
        let host = &segment.host;
        // What the bridge's own host asks goes by OUTPUT, without the bridge's help.
        segment.port.as_ref()?;
        if host.owns(self.address) || host.sysctl("net/bridge/bridge-nf-call-ip6tables") != Some(1) {
            return None;
        }
        // The solicited-node multicast address (RFC 4291, 2.7.1).
        let low = wanted.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, low[13], low[14], low[15]]);
        let bridge = host.device(segment.bridge.ifindex);
        let mut packet = PacketView::new(58, self.source, group.into())
            .mark(0)
            .devices(&segment.bridge.name, &segment.bridge.name);
        packet.icmp = Some(SOLICITATION);
        packet.ct_state = Some(CtState::Untracked);
        let at = Interval {
            netns: host.id,
            family: Family::Ipv6,
            hook: Hook::Forward,
            after: i32::MIN,
            until: i32::MAX,
            learned: false,
        };
        let found = attribute_drop(host.evidence.as_ref(), &at, &packet);
        let rule = found.rules.first().filter(|_| found.certain)?;
        let kind = if rule.number == 0 { &c::POLICY } else { &c::RULE };
        let (name, to) = (host.name(), self.address);
        Some(
            Finding::new(
                kind,
                Likely,
                format!("{rule} on {name} drops the neighbour solicitations for {to}: nobody on {bridge} hears who is asked for"),
            )
            .checked(
                format!("{} got no answer to its question for {to}", self.asker.name()),
                self.asker.command(format!("ip -6 neigh show {to}")),
            )
            .checked(
                format!("{bridge} hands bridged packets to ip6tables, and the walk of a solicitation ends there"),
                host.command(format!("ip6tables -t {} -vnL {} --line-numbers", rule.table, rule.chain)),
            )
            .fix(
                ["135", "136"]
                    .map(|kind| host.command(format!("ip6tables -I FORWARD -p icmpv6 --icmpv6-type {kind} -j ACCEPT")))
                    .join("; "),
            )
            .about(rule.place())
            .at(crate::cause::Place {
                netns: name,
                hook: Some("FORWARD".to_owned()),
                rule: Some(rule.place()),
                ..crate::cause::Place::default()
            }),
        )
    }

    /// Whoever has the address may not use it yet, or never.
    fn unusable(&self, world: &mut dyn World, segment: &Segment) -> Option<Finding> {
        let owner = segment.owner(world, self.address)?;
        let address = owner.evidence.addresses.iter().find(|a| a.address == self.address)?;
        not_used(&owner, address)
    }

    /// The asker takes an address for one of its own network that the bridge's host does not.
    fn wrong_mask(&self, segment: &Segment) -> Option<Finding> {
        let of = |a: &&Address| a.address == self.source && a.ifindex == self.ifindex;
        let own = self.asker.evidence.addresses.iter().find(of).filter(|_| !self.is_gateway)?;
        let host = &segment.host;
        let (theirs, network) = host
            .evidence
            .addresses
            .iter()
            .filter(|a| a.ifindex == segment.bridge.ifindex && a.prefix_len > own.prefix_len)
            .find_map(|a| Some((a, IpPrefix::new(a.address, a.prefix_len)?)))
            .filter(|(_, network)| network.contains(self.source) && !network.contains(self.address))?;
        let (name, device, ip) = (self.asker.name(), self.device(), ip_command(self.source));
        let (right, wrong) = (theirs.prefix_len, own.prefix_len);
        let bridge = host.device(segment.bridge.ifindex);
        let finding = Finding::new(
            &c::WRONG_ROUTE,
            Likely,
            format!("{name} asks for {} on {device} itself, because its address is {}/{wrong}; the network of {bridge} on {} is {network}, and {} is not of it", self.address, self.source, host.name(), self.address),
        )
        .checked(format!("the mask of {device} is {wrong}, that of {bridge} {right}"), self.asker.command(format!("{ip} addr show dev {device}")));
        Some(
            self.at(finding.fix(
                [
                    format!("{ip} addr add {}/{right} dev {device}", self.source),
                    format!("{ip} addr del {}/{wrong} dev {device}", self.source),
                ]
                .map(|command| self.asker.command(command))
                .join("; "),
            )),
        )
    }

    /// The bridge of a pod's gateway has another address.
    fn wrong_gateway(&self, segment: &Segment) -> Option<Finding> {
        let host = &segment.host;
        // Behind an uplink there are hosts that were not read.
        let pods = self.asker.uplinks.is_empty();
        if !self.is_gateway || !pods || segment.port.is_none() || host.owns(self.address) {
            return None;
        }
        let near = |a: &&Address| {
            let network = IpPrefix::new(a.address, a.prefix_len);
            a.ifindex == segment.bridge.ifindex && network.is_some_and(|n| n.contains(self.source))
        };
        let own: Vec<IpAddr> = host.evidence.addresses.iter().filter(near).map(|a| a.address).collect();
        let [right] = own.as_slice() else { return None };
        let (name, device, ip) = (self.asker.name(), self.device(), ip_command(self.address));
        let bridge = host.device(segment.bridge.ifindex);
        let routes = self.asker.evidence.routes.iter();
        let by: Vec<String> = routes
            .filter(|r| r.next_hops.iter().any(|hop| hop.gateway == Some(self.address)))
            .map(|r| if r.destination.is_empty() { "default".to_owned() } else { r.destination.to_string() })
            .collect();
        let finding = Finding::new(
            &c::NEIGHBOUR_SILENT,
            Likely,
            format!("{name} asks for its gateway {} on {device}, and nobody that was read has that address: the bridge there, {bridge} of {}, has {right}", self.address, host.name()),
        )
        .checked(format!("{bridge} has {right}"), host.command(format!("ip addr show dev {bridge}")));
        Some(self.at(finding.fix(match by.as_slice() {
            [one] => self.asker.command(format!("{ip} route replace {one} via {right} dev {device}")),
            _ => format!("correct the gateway to {right}: {}", self.asker.command(format!("{ip} route"))),
        })))
    }

    /// Nothing that was read explains it: what was asked, what is ruled out, and where to look next.
    pub(crate) fn unexplained(&self, world: &mut dyn World) -> Finding {
        let (name, device, address) = (self.asker.name(), self.device(), self.address);
        let what = if address.is_ipv4() { "arp" } else { "icmp6" };
        let whose = if self.is_gateway { "the gateway " } else { "" };
        let mut ruled_out = Vec::new();
        if self.link().is_some_and(|link| link.is_up() && link.has_carrier()) {
            ruled_out.push(format!("{device} is up and has a carrier"));
        }
        let segment = Segment::of(world, &self.asker, self.ifindex);
        let (at, on) = match &segment {
            Some(segment) => {
                let bridge = segment.host.device(segment.bridge.ifindex);
                if segment.port.is_some() {
                    ruled_out.push(format!(
                        "{device} is in {bridge} of {}, whose ports forward and flood",
                        segment.host.name()
                    ));
                }
                if address.is_ipv6() && segment.host.sysctl("net/bridge/bridge-nf-call-ip6tables") == Some(1)
                {
                    ruled_out.push(format!(
                        "no rule on {} is known to drop the solicitations",
                        segment.host.name()
                    ));
                }
                (segment.host.clone(), bridge)
            }
            None => (self.asker.clone(), device.clone()),
        };
        if !world.watched().iter().any(|host| host.owns(address)) {
            ruled_out.push(format!("no namespace that was read has {address}"));
        }
        let mut finding = Finding::new(
            &c::NEIGHBOUR_SILENT,
            Likely,
            format!(
                "{name} asks for {whose}{address} on {device} and gets no answer; why is not explained by what was read here"
            ),
        );
        if !ruled_out.is_empty() {
            finding = finding.fact(format!("ruled out: {}", ruled_out.join("; ")));
        }
        self.at(finding.fix(format!(
            "see whether the question gets there and who answers: {}",
            at.command(format!("tcpdump -nei {on} {what} and host {address}"))
        )))
    }

    fn at(&self, finding: Finding) -> Finding {
        finding.about(self.address).at(crate::cause::Place {
            netns: self.asker.name(),
            device: Some(self.device()),
            ..crate::cause::Place::default()
        })
    }
}

fn is_macvlan(link: &Link) -> bool {
    ["macvlan", "macvtap", "ipvlan"].iter().any(|kind| link.is_kind(kind))
}

/// A host that has addresses to send to there from, and uses none of them.
pub(crate) fn no_usable_address(host: &Host, to: IpAddr) -> Option<Finding> {
    let global = |a: &&Address| {
        a.address.is_ipv6()
            && to.is_ipv6()
            && a.scope == 0
            && host.link(a.ifindex).is_some_and(|l| !l.is_loopback())
    };
    let mut unused = host.evidence.addresses.iter().filter(global).map(|address| not_used(host, address));
    let first = unused.next()??;
    unused.all(|other| other.is_some()).then_some(first)
}

/// An IPv6 address that its host does not use: duplicate address detection.
fn not_used(host: &Host, address: &Address) -> Option<Finding> {
    let failed = address.flags & IFA_F_DADFAILED != 0;
    if !failed && address.flags & IFA_F_TENTATIVE == 0 {
        return None;
    }
    let (name, device, own) = (host.name(), host.device(address.ifindex), address.address);
    let whole = format!("{own}/{}", address.prefix_len);
    let (title, fix) = if failed {
        (
            format!(
                "{name} does not use its address {own} on {device}: duplicate address detection failed (dadfailed), somebody else answered for it, or its own question came back"
            ),
            [
                format!("ip -6 addr del {whole} dev {device}"),
                format!("ip -6 addr add {whole} dev {device} nodad"),
            ]
            .map(|command| host.command(command))
            .join("; ")
                + " (if no other host has it; routes that were lost with it are to be added again)",
        )
    } else {
        (
            format!(
                "{name} does not use its address {own} on {device} yet: duplicate address detection is under way (tentative)"
            ),
            "wait a second or two; a device without carrier stays so".to_owned(),
        )
    };
    Some(
        Finding::new(&c::ADDRESS_NOT_USED, if failed { Certain } else { Likely }, title)
            .checked(
                format!("{own} is {}", if failed { "dadfailed" } else { "tentative" }),
                host.command(format!("ip -6 addr show dev {device}")),
            )
            .fix(fix)
            .about(own)
            .at(crate::cause::Place { netns: name, device: Some(device), ..crate::cause::Place::default() }),
    )
}
