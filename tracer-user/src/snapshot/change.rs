// SPDX-License-Identifier: MIT OR Apache-2.0
//! A change of one namespace: what it does to what was read, and the command that does it on the machine.

use std::net::IpAddr;
use std::sync::Arc;

use super::model::NetnsEvidence;
use super::rule_insert::{insert_command, insert_rule};
use crate::firewall::{Backend, Rule as FirewallRule, RuleRef, TableFamily};
use crate::node::IpPrefix;
use crate::node::rtnl::{Address, FdbEntry, Neighbour, NextHop, Route, Rule};
use crate::text::{escape, mac as mac_words};

// include/uapi/linux/rtnetlink.h
const RTPROT_KERNEL: u8 = 2;
const RTPROT_BIRD: u8 = 12;
const RTPROT_DHCP: u8 = 16;
const RTPROT_BGP: u8 = 186;
/// What Felix sets by default (FelixConfiguration deviceRouteProtocol).
const RTPROT_FELIX: u8 = 80;
const RT_SCOPE_LINK: u8 = 253;
const IFF_LOWER_UP: u32 = 0x1_0000;
const NUD_PERMANENT: u16 = 0x80;
/// RTNH_F_ONLINK
pub(crate) const ONLINK: u8 = 4;
/// BR_STATE_FORWARDING
const FORWARDING: u8 = 3;

/// One change of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a device up: its addresses and their routes work again, routes by gateways stay lost.
    DeviceUp(u32),
    /// Makes a device a port of a bridge.
    JoinBridge {
        port: u32,
        bridge: u32,
    },
    /// Lets a bridge port forward.
    ForwardAtPort(u32),
    /// Lets a frame leave by the bridge port that it came in by.
    HairpinOn(u32),
    /// A bridge port that reaches other isolated ones again.
    EndIsolation(u32),
    /// By its path under /proc/sys.
    Sysctl {
        path: String,
        value: i64,
    },
    /// Makes the kernel ask for a MAC again.
    DeleteNeighbour {
        ifindex: u32,
        address: IpAddr,
    },
    DeleteAddress {
        ifindex: u32,
        address: IpAddr,
    },
    /// A neighbour entry that stays, as agents write them for the ends of their tunnels.
    SetNeighbour {
        ifindex: u32,
        address: IpAddr,
        mac: Vec<u8>,
    },
    /// The node that a vxlan device sends frames for this MAC to.
    SetForwarding {
        ifindex: u32,
        mac: Vec<u8>,
        remote: IpAddr,
    },
    AddRoute(Route),
    DeleteRoute(Route),
    AddRoutingRule(Rule),
    DeleteRoutingRule(Rule),
    /// Of iptables or nftables.
    DeleteRule(RuleRef),
    /// Before the rule at this place; number 0: behind all rules of the chain. The rule's text is what the tool takes.
    InsertRule {
        place: RuleRef,
        rule: Box<FirewallRule>,
    },
}

impl Change {
    /// The namespace as it would be with the change.
    #[must_use]
    pub fn apply(&self, before: &NetnsEvidence) -> NetnsEvidence {
        let mut after = before.clone();
        match self {
            Self::DeviceUp(ifindex) => device_up(&mut after, *ifindex),
            Self::JoinBridge { port, bridge } => {
                let port = after.links.iter_mut().find(|link| link.ifindex == *port);
                if let Some(port) = port {
                    port.master = Some(*bridge);
                    port.port = Some(crate::node::rtnl::Port { state: FORWARDING, ..Default::default() });
                }
            }
            Self::ForwardAtPort(ifindex) => port(&mut after, *ifindex, |port| port.state = FORWARDING),
            Self::HairpinOn(ifindex) => port(&mut after, *ifindex, |port| port.hairpin = Some(true)),
            Self::EndIsolation(ifindex) => port(&mut after, *ifindex, |port| port.isolated = false),
            Self::Sysctl { path, value } => {
                Arc::make_mut(&mut after.sysctls).insert(path.clone(), value.to_string());
                // These two are written to every device's own, too.
                let devices = match path.as_str() {
                    "net/ipv4/ip_forward" => "net/ipv4/conf/",
                    "net/ipv6/conf/all/forwarding" => "net/ipv6/conf/",
                    _ => return after,
                };
                for (other, own) in Arc::make_mut(&mut after.sysctls) {
                    if other.starts_with(devices) && other.ends_with("/forwarding") {
                        *own = value.to_string();
                    }
                }
            }
            Self::DeleteNeighbour { ifindex, address } => {
                after.neighbours.retain(|entry| entry.ifindex != *ifindex || entry.address != *address);
            }
            Self::DeleteAddress { ifindex, address } => delete_address(&mut after, *ifindex, *address),
            Self::SetNeighbour { ifindex, address, mac } => {
                after.neighbours.retain(|entry| entry.ifindex != *ifindex || entry.address != *address);
                after.neighbours.push(Neighbour {
                    ifindex: *ifindex,
                    address: *address,
                    mac: mac.clone(),
                    state: NUD_PERMANENT,
                });
            }
            Self::SetForwarding { ifindex, mac, remote } => {
                let same = |entry: &FdbEntry| entry.own && entry.ifindex == *ifindex && entry.mac == *mac;
                after.fdb.retain(|entry| !same(entry));
                after.fdb.push(FdbEntry {
                    ifindex: *ifindex,
                    master: None,
                    mac: mac.clone(),
                    vlan: None,
                    remote: Some(*remote),
                    own: true,
                    state: NUD_PERMANENT,
                });
            }
            Self::AddRoute(route) => Arc::make_mut(&mut after.routes).push(route.clone()),
            Self::DeleteRoute(route) => Arc::make_mut(&mut after.routes).retain(|other| other != route),
            Self::AddRoutingRule(rule) => {
                after.rules.push(rule.clone());
                after.rules.sort_by_key(|rule| rule.priority);
            }
            Self::DeleteRoutingRule(rule) => after.rules.retain(|other| other != rule),
            Self::InsertRule { place, rule } => insert_rule(&mut after, place, rule),
            Self::DeleteRule(gone) => {
                for table in Arc::make_mut(&mut after.rulesets) {
                    let same = table.family == gone.family
                        && table.backend == gone.backend
                        && table.name == gone.table;
                    for chain in table.chains.iter_mut().filter(|chain| same && chain.name == gone.chain) {
                        Arc::make_mut(&mut chain.rules)
                            .retain(|rule| rule.number != gone.number || rule.handle != gone.handle);
                    }
                }
            }
        }
        after
    }

    /// The command that does it in the namespace; `None`: there is none for this object.
    pub fn command(&self, netns: &NetnsEvidence) -> Option<String> {
        let device = |ifindex: u32| {
            let link = netns.link_by_index(ifindex)?;
            Some(escape(&link.name).into_owned())
        };
        Some(match self {
            Self::DeviceUp(ifindex) => format!("ip link set {} up", device(*ifindex)?),
            Self::JoinBridge { port, bridge } => {
                format!("ip link set {} master {}", device(*port)?, device(*bridge)?)
            }
            Self::ForwardAtPort(ifindex) => {
                format!("bridge link set dev {} state {FORWARDING}", device(*ifindex)?)
            }
            Self::HairpinOn(ifindex) => format!("bridge link set dev {} hairpin on", device(*ifindex)?),
            Self::EndIsolation(ifindex) => format!("bridge link set dev {} isolated off", device(*ifindex)?),
            Self::Sysctl { path, value } => format!("sysctl -w {}={value}", sysctl_name(path)),
            Self::DeleteNeighbour { ifindex, address } => {
                format!("ip neigh del {address} dev {}", device(*ifindex)?)
            }
            Self::DeleteAddress { ifindex, address } => {
                let of = |a: &&Address| a.ifindex == *ifindex && a.address == *address;
                let own = netns.addresses.iter().find(of)?;
                format!("ip addr del {address}/{} dev {}", own.prefix_len, device(*ifindex)?)
            }
            Self::SetNeighbour { ifindex, address, mac } => format!(
                "ip neigh replace {address} lladdr {} dev {} nud permanent",
                mac_words(mac),
                device(*ifindex)?
            ),
            Self::SetForwarding { ifindex, mac, remote } => format!(
                "bridge fdb replace {} dev {} dst {remote} self permanent",
                mac_words(mac),
                device(*ifindex)?
            ),
            Self::AddRoute(route) => format!("{} route add {}", ip(route), route_words(netns, route)),
            Self::DeleteRoute(route) => format!("{} route del {}", ip(route), route_words(netns, route)),
            Self::AddRoutingRule(rule) => format!("{} rule add {}", family(rule.ipv6), rule_words(rule)?),
            Self::DeleteRoutingRule(rule) => format!("{} rule del {}", family(rule.ipv6), rule_words(rule)?),
            Self::DeleteRule(rule) => delete_rule(rule)?,
            Self::InsertRule { place, rule } => insert_command(place, rule)?,
        })
    }

    /// The kernel checks less with it.
    pub fn loosens_a_check(&self) -> bool {
        matches!(self, Self::Sysctl { path, .. } if path.ends_with("/rp_filter"))
    }

    /// Puts back what an agent should have written, and will when it works again.
    pub fn restores(&self) -> bool {
        match self {
            Self::SetNeighbour { .. } | Self::SetForwarding { .. } | Self::AddRoute(_) => true,
            // One that names a flow is nobody's.
            Self::InsertRule { rule, .. } => {
                !rule.matches.iter().any(|m| matches!(m.what, crate::firewall::Criterion::Source(_)))
            }
            _ => false,
        }
    }

    /// Whose state it is, where that shows: it may write it again.
    pub fn owner(&self) -> Option<&'static str> {
        match self {
            Self::AddRoute(route) | Self::DeleteRoute(route) => match route.protocol {
                RTPROT_BIRD => Some("BIRD (Calico)"),
                RTPROT_FELIX => Some("Felix (Calico)"),
                RTPROT_BGP => Some("a BGP daemon"),
                RTPROT_DHCP => Some("the DHCP client"),
                _ => None,
            },
            Self::DeleteRule(rule) => {
                let owners = [
                    ("KUBE-ROUTER-", "kube-router"),
                    ("KUBE-", "kube-proxy or kubelet"),
                    ("cali-", "Felix (Calico)"),
                    ("EGRESSGATEWAY-", "EgressGateway's agent"),
                    ("DOCKER", "docker"),
                    ("CNI-", "the CNI plugin"),
                    ("FLANNEL", "flannel"),
                    ("CILIUM_", "Cilium"),
                    ("ISTIO_", "Istio"),
                    ("ts-", "tailscale"),
                ];
                owners.iter().find(|(prefix, _)| rule.chain.starts_with(prefix)).map(|(_, owner)| *owner)
            }
            _ => None,
        }
    }
}

fn port(netns: &mut NetnsEvidence, ifindex: u32, set: impl Fn(&mut crate::node::rtnl::Port)) {
    let link = netns.links.iter_mut().find(|link| link.ifindex == ifindex);
    if let Some(port) = link.and_then(|link| link.port.as_mut()) {
        set(port);
    }
}

/// fib_add_ifaddr for each address: the routes that the kernel makes by itself.
fn device_up(netns: &mut NetnsEvidence, ifindex: u32) {
    if let Some(link) = netns.links.iter_mut().find(|link| link.ifindex == ifindex) {
        link.flags |= libc::IFF_UP as u32 | IFF_LOWER_UP;
        link.operstate = 0;
    }
    let own: Vec<Address> = netns.addresses.iter().filter(|a| a.ifindex == ifindex).cloned().collect();
    for address in own {
        let hops = vec![NextHop { ifindex, ..NextHop::default() }];
        let local = Route {
            destination: IpPrefix::host(address.address),
            table: libc::RT_TABLE_LOCAL.into(),
            kind: libc::RTN_LOCAL,
            protocol: RTPROT_KERNEL,
            next_hops: hops.clone(),
            ..Route::default()
        };
        let network = IpPrefix::new(address.address, address.prefix_len).map(|destination| Route {
            destination,
            protocol: RTPROT_KERNEL,
            scope: RT_SCOPE_LINK,
            source: address.address.is_ipv4().then_some(address.address),
            priority: if address.address.is_ipv4() { 0 } else { 256 },
            next_hops: hops,
            ..Route::default()
        });
        for route in [Some(local), network].into_iter().flatten() {
            let known = |r: &Route| {
                r.destination == route.destination && r.table == route.table && r.kind == route.kind
            };
            if !netns.routes.iter().any(known) {
                Arc::make_mut(&mut netns.routes).push(route);
            }
        }
    }
}

/// The routes of the address go with it.
fn delete_address(netns: &mut NetnsEvidence, ifindex: u32, address: IpAddr) {
    let Some(at) = netns.addresses.iter().position(|a| a.ifindex == ifindex && a.address == address) else {
        return;
    };
    let gone = netns.addresses.remove(at);
    let network = IpPrefix::new(gone.address, gone.prefix_len);
    let still = netns
        .addresses
        .iter()
        .any(|a| a.ifindex == ifindex && IpPrefix::new(a.address, a.prefix_len) == network);
    Arc::make_mut(&mut netns.routes).retain(|route| {
        let by_it = route.next_hops.iter().any(|hop| hop.ifindex == ifindex);
        let own = route.kind == libc::RTN_LOCAL && route.destination == IpPrefix::host(address);
        let its_network =
            route.protocol == RTPROT_KERNEL && Some(route.destination) == network && by_it && !still;
        !own && !its_network && route.source != Some(address)
    });
}

fn sysctl_name(path: &str) -> String {
    // Between dots a slash stands for a dot: net.ipv4.conf.eth0/100.rp_filter.
    path.replace('.', "\u{0}").replace('/', ".").replace('\u{0}', "/")
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "ip -6" } else { "ip" }
}

fn ip(route: &Route) -> &'static str {
    family(route.destination.is_ipv6())
}

/// As `ip route` takes it.
pub fn route_words(netns: &NetnsEvidence, route: &Route) -> String {
    let kind = match route.kind {
        libc::RTN_BLACKHOLE => "blackhole ",
        libc::RTN_UNREACHABLE => "unreachable ",
        libc::RTN_PROHIBIT => "prohibit ",
        libc::RTN_THROW => "throw ",
        libc::RTN_LOCAL => "local ",
        _ => "",
    };
    let to = if route.destination.is_empty() { "default".to_owned() } else { route.destination.to_string() };
    let hop = route.next_hops.first().copied().unwrap_or_default();
    let via = hop.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let device = netns.link_by_index(hop.ifindex).filter(|_| !kind.starts_with(['b', 'u', 'p', 't']));
    let device = device.map_or_else(String::new, |link| format!(" dev {}", escape(&link.name)));
    let metric = if route.priority == 0 { String::new() } else { format!(" metric {}", route.priority) };
    if let Some(id) = route.nexthop_id {
        return format!("{to} nhid {id}{metric} table {}", route.table);
    }
    let main = route.table == u32::from(libc::RT_TABLE_MAIN);
    let table = if main { String::new() } else { format!(" table {}", route.table) };
    let onlink = if hop.flags & ONLINK != 0 { " onlink" } else { "" };
    format!("{kind}{to}{via}{device}{onlink}{metric}{table}")
}

/// As `ip rule` takes it; `None`: it asks for what is not known.
fn rule_words(rule: &Rule) -> Option<String> {
    if !rule.conditions.unknown.is_empty() {
        return None;
    }
    let does = match (rule.action, rule.goto) {
        (1, _) => format!("lookup {}", crate::text::table_name(rule.table)),
        (2, Some(to)) => format!("goto {to}"),
        _ => rule.does().to_owned(),
    };
    let selector = rule.selector();
    let selector = selector.strip_prefix("from all ").unwrap_or(&selector);
    Some(format!("priority {} {selector} {does}", rule.priority))
}

fn delete_rule(rule: &RuleRef) -> Option<String> {
    let tool = if rule.family == TableFamily::Ip6 { "ip6tables" } else { "iptables" };
    let RuleRef { family, table, chain, number, handle, .. } = rule;
    match rule.backend {
        _ if *number == 0 => None,
        Backend::Nft => {
            handle.map(|handle| format!("nft delete rule {family} {table} {chain} handle {handle}"))
        }
        Backend::IptablesNft => Some(format!("{tool}-nft -t {table} -D {chain} {number}")),
        Backend::IptablesLegacy => Some(format!("{tool}-legacy -t {table} -D {chain} {number}")),
    }
}
