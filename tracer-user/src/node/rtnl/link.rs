// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::node::netlink::{attributes, ip, ne32, text};

// include/uapi/linux/if_link.h
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Program ids by mode: in the driver, on skbs, in hardware.
const IFLA_XDP_BY_MODE: [u16; 3] = [5, 6, 7];
const IFLA_VRF_TABLE: u16 = 1;
/// include/uapi/linux/if.h
const IFF_LOWER_UP: u32 = 1 << 16;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// A network device as RTM_NEWLINK describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub ifindex: u32,
    /// Safe to print.
    pub name: String,
    /// IFLA_INFO_KIND ("veth", "bridge"); `None`: hardware, or the loopback.
    pub kind: Option<String>,
    /// ARPHRD_*.
    pub hardware: u16,
    /// IFF_*.
    pub flags: u32,
    pub mtu: u32,
    pub master: Option<u32>,
    /// IFLA_LINK: the other end of a veth pair, the lower device.
    pub link: Option<u32>,
    /// IFLA_LINK_NETNSID: the namespace `link` is in, when it is another one, as numbered by this one.
    pub link_nsid: Option<i32>,
    pub mac: Vec<u8>,
    pub vxlan: Option<Vxlan>,
    /// The root queueing discipline ("noqueue", "tbf").
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub qdisc: String,
    /// Ids of the XDP programs on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xdp: Vec<u32>,
    /// As a port of its bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// RFC 2863: 6 up, 7 lower layer down, 2 down, 5 dormant; 0 unknown (as most virtual devices).
    #[serde(default)]
    pub operstate: u8,
    /// `ip link set group`; 0 is the default one.
    #[serde(default)]
    pub group: u32,
    /// The routing table of a VRF device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf_table: Option<u32>,
}

/// A port of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// BR_STATE_*: 3 forwards.
    pub state: u8,
    /// It does not reach other isolated ports.
    pub isolated: bool,
    /// Multicast for which nobody asked is not handed to it (mcast_flood off).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_multicast: bool,
    /// Broadcasts are not handed to it (bcast_flood off).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_broadcast: bool,
    /// A frame may leave by the port that it came in by; `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    pub vni: u32,
    /// Destination port.
    pub port: u16,
    pub local: Option<IpAddr>,
    /// Lower device.
    pub link: Option<u32>,
}

impl Link {
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// It has a carrier, or needs none.
    pub fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }

    pub fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }

    /// Two ends, of which one may be in another namespace.
    pub fn is_veth(&self) -> bool {
        matches!(self.kind.as_deref(), Some("veth" | "netkit"))
    }

    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Packets start with the IP header: no link-layer addresses (tun, ipip, wireguard ...).
    pub fn is_layer3(&self) -> bool {
        !matches!(self.hardware, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK | libc::ARPHRD_IEEE802)
    }

    /// The payload of an RTM_NEWLINK message (`struct ifinfomsg`, attributes).
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(16)?;
        // A bridge's AF_BRIDGE messages describe its ports, not devices.
        if kind != libc::RTM_NEWLINK || i32::from(fixed[0]) != libc::AF_UNSPEC {
            return None;
        }
        let mut link = Self {
            hardware: u16::from_ne_bytes([fixed[2], fixed[3]]),
            ifindex: ne32(&fixed[4..])?,
            flags: ne32(&fixed[8..])?,
            ..Self::default()
        };
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = ne32(value).unwrap_or_default(),
                libc::IFLA_MASTER => link.master = ne32(value).filter(|i| *i != 0),
                libc::IFLA_LINK => link.link = ne32(value).filter(|i| *i != 0),
                libc::IFLA_LINK_NETNSID => link.link_nsid = ne32(value).map(|n| n as i32).filter(|n| *n >= 0),
                libc::IFLA_ADDRESS => {
                    link.mac = value.get(..value.len().min(32)).unwrap_or_default().to_vec();
                }
                libc::IFLA_LINKINFO => link.parse_info(value),
                libc::IFLA_QDISC => link.qdisc = text(value),
                libc::IFLA_OPERSTATE => link.operstate = value.first().copied().unwrap_or_default(),
                libc::IFLA_GROUP => link.group = ne32(value).unwrap_or_default(),
                libc::IFLA_XDP => link.xdp = xdp(value),
                _ => {}
            }
        }
        Some(link)
    }

    fn parse_info(&mut self, info: &[u8]) {
        let find = |wanted| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        self.kind = find(libc::IFLA_INFO_KIND).map(text).filter(|k| !k.is_empty());
        if find(IFLA_INFO_SLAVE_KIND).map(text).is_some_and(|kind| kind == "bridge") {
            let data = find(IFLA_INFO_SLAVE_DATA).unwrap_or_default();
            let byte = |wanted| attributes(data).find(|(kind, _)| *kind == wanted)?.1.first().copied();
            self.port = byte(IFLA_BRPORT_STATE).map(|state| Port {
                state,
                isolated: byte(IFLA_BRPORT_ISOLATED).is_some_and(|on| on != 0),
                hairpin: byte(IFLA_BRPORT_MODE).map(|on| on != 0),
                no_multicast: byte(IFLA_BRPORT_MCAST_FLOOD) == Some(0),
                no_broadcast: byte(IFLA_BRPORT_BCAST_FLOOD) == Some(0),
            });
        }
        if self.is_kind("vrf") {
            let data = find(libc::IFLA_INFO_DATA).unwrap_or_default();
            self.vrf_table =
                attributes(data).find(|(kind, _)| *kind == IFLA_VRF_TABLE).and_then(|(_, value)| ne32(value));
        }
        if self.is_kind("vxlan") {
            self.vxlan = Some(find(libc::IFLA_INFO_DATA).map(Vxlan::parse).unwrap_or_default());
        }
    }
}

/// The ids in an IFLA_XDP.
fn xdp(value: &[u8]) -> Vec<u32> {
    let find = |wanted| attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if find(IFLA_XDP_ATTACHED).is_none_or(|mode| mode.first() == Some(&0)) {
        return Vec::new();
    }
    let mut ids: Vec<u32> = IFLA_XDP_BY_MODE.into_iter().filter_map(find).filter_map(ne32).collect();
    if ids.is_empty() {
        ids.extend(find(IFLA_XDP_PROG_ID).and_then(ne32));
    }
    ids
}

impl Vxlan {
    fn parse(data: &[u8]) -> Self {
        let mut vxlan = Self::default();
        for (kind, value) in attributes(data) {
            match kind {
                IFLA_VXLAN_ID => vxlan.vni = ne32(value).unwrap_or_default(),
                // The one value here that is in network order.
                IFLA_VXLAN_PORT => {
                    vxlan.port = value.first_chunk().map_or(0, |b| u16::from_be_bytes(*b));
                }
                IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => {
                    vxlan.local = ip(value).filter(|a| !a.is_unspecified());
                }
                IFLA_VXLAN_LINK => vxlan.link = ne32(value).filter(|i| *i != 0),
                _ => {}
            }
        }
        vxlan
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::netlink::Request;

    fn message(name: &[u8]) -> Vec<u8> {
        let mut fixed = [0u8; 16];
        fixed[2..4].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        fixed[4..8].copy_from_slice(&5u32.to_ne_bytes());
        fixed[8] = 1;
        let data = Request::one("", 0, &[])
            .attribute(IFLA_VXLAN_ID, &100u32.to_ne_bytes())
            .attribute(IFLA_VXLAN_PORT, &7789u16.to_be_bytes())
            .attribute(IFLA_VXLAN_LOCAL, &[10, 0, 0, 1])
            .attribute(IFLA_VXLAN_LINK, &2u32.to_ne_bytes());
        let info = Request::one("", 0, &[])
            .attribute(libc::IFLA_INFO_KIND, b"vxlan\0")
            .attribute(libc::IFLA_INFO_DATA, &data.payload);
        let xdp = Request::one("", 0, &[])
            .attribute(IFLA_XDP_ATTACHED, &[1])
            .attribute(IFLA_XDP_BY_MODE[0], &7u32.to_ne_bytes());
        Request::one("", 0, &fixed)
            .attribute(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_MTU, &1450u32.to_ne_bytes())
            .attribute(libc::IFLA_LINKINFO, &info.payload)
            .attribute(libc::IFLA_QDISC, b"tbf\0")
            .attribute(libc::IFLA_XDP, &xdp.payload)
            .payload
    }

    #[test]
    fn a_vxlan_device() {
        let link = Link::parse(libc::RTM_NEWLINK, &message(b"egress.vxlan\0")).unwrap();
        assert_eq!((link.ifindex, link.name.as_str(), link.mtu), (5, "egress.vxlan", 1450));
        assert!(link.is_up() && !link.is_layer3());
        assert_eq!((link.qdisc.as_str(), link.xdp.as_slice()), ("tbf", &[7][..]));
        assert_eq!(
            link.vxlan,
            Some(Vxlan { vni: 100, port: 7789, local: Some([10, 0, 0, 1].into()), link: Some(2) })
        );
    }

    #[test]
    fn a_port_of_a_bridge() {
        let data = Request::one("", 0, &[])
            .attribute(IFLA_BRPORT_STATE, &[0])
            .attribute(IFLA_BRPORT_ISOLATED, &[1])
            .attribute(IFLA_BRPORT_MCAST_FLOOD, &[0])
            .attribute(IFLA_BRPORT_BCAST_FLOOD, &[1]);
        let info = Request::one("", 0, &[])
            .attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0")
            .attribute(IFLA_INFO_SLAVE_DATA, &data.payload);
        let fixed = [0u8; 16];
        let payload = Request::one("", 0, &fixed).attribute(libc::IFLA_LINKINFO, &info.payload).payload;
        let link = Link::parse(libc::RTM_NEWLINK, &payload).unwrap();
        assert_eq!(
            link.port,
            Some(Port { state: 0, isolated: true, hairpin: None, no_multicast: true, no_broadcast: false })
        );
    }

    #[test]
    fn a_hostile_name_is_kept_printable() {
        let link = Link::parse(libc::RTM_NEWLINK, &message(b"\xff\x1b[31m\0junk")).unwrap();
        assert_eq!(link.name, "\\xff\\x1b[31m");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Link::parse(libc::RTM_NEWLINK, &bytes);
            let _ = Vxlan::parse(&bytes);
        }

        #[test]
        fn a_damaged_message_never_panics(at in 0usize..120, byte: u8, cut in 0usize..140) {
            let mut bytes = message(b"eth0\0");
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            bytes.truncate(cut);
            let _ = Link::parse(libc::RTM_NEWLINK, &bytes);
        }
    }
}
