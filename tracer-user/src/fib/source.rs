// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of its own addresses a host sends from.

use std::net::{IpAddr, Ipv6Addr};

use super::flow::TableAnswer;
use super::tables::Fib;
use crate::node::IpPrefix;
use crate::node::rtnl::Address;

/// Labels of RFC 6724 as the kernel is born with them (net/ipv6/addrlabel.c); what `ip addrlabel` changed is not read.
const LABELS: [(Ipv6Addr, u8, u8); 7] = [
    (Ipv6Addr::LOCALHOST, 128, 0),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 4),
    (Ipv6Addr::UNSPECIFIED, 96, 3),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 6),
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28, 7),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 2),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 5),
];
const DEFAULT_LABEL: u8 = 1;
const LINK_SCOPE: u8 = 2;
const GLOBAL_SCOPE: u8 = 14;

impl Fib<'_> {
    /// An IPv4 address of this host (`__ip_dev_find`).
    pub(super) fn is_own4(&self, address: IpAddr) -> bool {
        self.device_of(address).is_some()
    }

    /// The device that has it, or whose local route covers it.
    pub(super) fn device_of(&self, address: IpAddr) -> Option<u32> {
        let own = self.from.addresses.iter().find(|own| own.address == address);
        own.map(|own| own.ifindex).or_else(|| match self.ask4(&self.bare(address), &[LOCAL]) {
            TableAnswer::Hit(hit) if hit.route.kind == libc::RTN_LOCAL => Some(hit.hops.first()?.0.ifindex),
            _ => None,
        })
    }

    /// `inet_select_addr`: of a device towards `to`, else of the VRF, else of any other device.
    pub(super) fn select_source4(&self, ifindex: u32, to: Option<IpAddr>, scope: u8) -> Option<IpAddr> {
        let localnet = if self.either(ifindex, "route_localnet") != 0 {
            libc::RT_SCOPE_LINK
        } else {
            libc::RT_SCOPE_HOST
        };
        let mut fallback = None;
        for own in self.own4(ifindex).filter(|own| !own.is_secondary()) {
            if own.scope.min(localnet) > scope {
                continue;
            }
            if to.is_none_or(|to| own.network().is_some_and(|network| network.contains(to))) {
                return Some(own.address);
            }
            fallback = fallback.or(Some(own.address));
        }
        let vrf = self.vrf_of(ifindex);
        let on = |device: u32| {
            let fits = |own: &&Address| {
                !own.is_secondary() && own.scope != libc::RT_SCOPE_LINK && own.scope <= scope
            };
            self.own4(device).find(fits).map(|own| own.address)
        };
        fallback.or_else(|| (vrf != 0).then(|| on(vrf)).flatten()).or_else(|| {
            let all = self.from.links.iter().map(|link| link.ifindex);
            all.filter(|device| self.vrf_of(*device) == vrf).find_map(on)
        })
    }

    pub(super) fn own4(&self, ifindex: u32) -> impl Iterator<Item = &Address> {
        self.from.addresses.iter().filter(move |own| own.ifindex == ifindex && own.address.is_ipv4())
    }

    /// `ipv6_dev_get_saddr`: RFC 6724, section 5, as far as the kernel does it.
    pub(super) fn select_source6(&self, to: IpAddr, ifindex: u32) -> Option<IpAddr> {
        let IpAddr::V6(to) = to else { return None };
        let vrf = self.vrf_of(ifindex);
        let one_device = to.is_multicast()
            || scope_of(to) <= LINK_SCOPE
            || self.own(true, ifindex, "use_oif_addrs_only") != 0;
        let devices: Vec<u32> = if one_device {
            vec![ifindex]
        } else {
            // The VRF first, then all in the order of the kernel's list.
            let all = self.from.links.iter().map(|link| link.ifindex);
            let ports = all.filter(|device| self.vrf_of(*device) == vrf && *device != vrf);
            (vrf != 0).then_some(vrf).into_iter().chain(ports).collect()
        };
        let mut best: Option<([i32; 7], Ipv6Addr)> = None;
        for device in devices {
            let temporary = self.own(true, device, "use_tempaddr") >= 2;
            for own in self.from.addresses.iter().filter(|own| own.ifindex == device) {
                let IpAddr::V6(address) = own.address else { continue };
                if own.is_tentative() || address.is_unspecified() || address.is_multicast() {
                    continue;
                }
                let score = score(own, address, to, device == ifindex, temporary);
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, address));
                }
            }
        }
        best.map(|(_, address)| address.into())
    }
}

const LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;

/// The rules of `ipv6_get_saddr_eval`, the most important first; the greater the better.
fn score(own: &Address, address: Ipv6Addr, to: Ipv6Addr, by_device: bool, temporary: bool) -> [i32; 7] {
    let (scope, wanted) = (i32::from(scope_of(address)), i32::from(scope_of(to)));
    let common = (address.to_bits() ^ to.to_bits()).leading_zeros() as i32;
    [
        i32::from(address == to),
        // The smallest one that is wide enough; else the widest.
        if scope >= wanted { -scope } else { scope - 128 },
        i32::from(!own.is_deprecated() && own.flags & libc::IFA_F_OPTIMISTIC == 0),
        i32::from(by_device),
        i32::from(label(address) == label(to)),
        i32::from(own.is_secondary() == temporary),
        common.min(i32::from(own.prefix_len)),
    ]
}

/// RFC 4291, section 2.7, extended to unicast; unique local addresses are global.
fn scope_of(address: Ipv6Addr) -> u8 {
    if address.is_multicast() {
        return (address.segments()[0] & 0xf) as u8;
    }
    if address.is_unicast_link_local() || address.is_loopback() {
        return LINK_SCOPE;
    }
    if address.segments()[0] & 0xffc0 == 0xfec0 { 5 } else { GLOBAL_SCOPE }
}

fn label(address: Ipv6Addr) -> u8 {
    let fits = |(net, length, _): &&(Ipv6Addr, u8, u8)| {
        IpPrefix::new((*net).into(), *length).is_some_and(|net| net.contains(address.into()))
    };
    LABELS.iter().find(fits).map_or(DEFAULT_LABEL, |(_, _, label)| *label)
}
