// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kinds of packets besides the usual: SCTP, VLAN tags, segments that travel as one; a service over IPv6.

use std::{ffi::CString, io, mem};

use anyhow::Result;
use tests::{Lab, Spec, ns::Ns, probe::Probe, topology::Family};

use crate::{
    journey::Journey,
    running::{skip_unless_able, trace},
};

/// Sends one datagram or frame on a raw socket, inside `ns`.
fn send_raw(ns: &Ns, family: i32, protocol: i32, to: &Target, bytes: &[u8]) -> Result<()> {
    ns.run(|| {
        // SAFETY: plain system calls; the address and the bytes are valid for the call.
        unsafe {
            let socket = libc::socket(family, libc::SOCK_RAW, protocol);
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            let (address, length) = to.address();
            let sent = libc::sendto(socket, bytes.as_ptr().cast(), bytes.len(), 0, address, length);
            let error = io::Error::last_os_error();
            libc::close(socket);
            if sent < 0 { Err(error) } else { Ok(()) }
        }
    })??;
    Ok(())
}

enum Target {
    Ip(libc::sockaddr_in),
    Device(libc::sockaddr_ll),
}

impl Target {
    fn ip(octets: [u8; 4]) -> Self {
        // SAFETY: all zero is a valid address.
        let mut address: libc::sockaddr_in = unsafe { mem::zeroed() };
        address.sin_family = libc::AF_INET as u16;
        address.sin_addr.s_addr = u32::from_ne_bytes(octets);
        Self::Ip(address)
    }

    fn device(ns: &Ns, name: &str) -> Result<Self> {
        let name = CString::new(name)?;
        // SAFETY: a string that ends in a zero; all zero is a valid address.
        let (index, mut address) = (ns.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) })?, unsafe {
            mem::zeroed::<libc::sockaddr_ll>()
        });
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        Ok(Self::Device(address))
    }

    fn address(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::Ip(address) => ((&raw const *address).cast(), mem::size_of_val(address) as u32),
            Self::Device(address) => ((&raw const *address).cast(), mem::size_of_val(address) as u32),
        }
    }
}

#[test]
fn sctp_is_followed_by_its_ports() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:9899 --proto sctp")?;
    // An INIT chunk; whether the kernel has SCTP does not matter to the way of the packet.
    let mut init = [0_u8; 32];
    init[..2].copy_from_slice(&4242_u16.to_be_bytes());
    init[2..4].copy_from_slice(&9899_u16.to_be_bytes());
    (init[12], init[15], init[19]) = (1, 20, 1);
    let checksum = crc32c(&init);
    init[8..12].copy_from_slice(&checksum.to_le_bytes());
    send_raw(&lab.ns("visitor"), libc::AF_INET, 132, &Target::ip([172, 16, 25, 183]), &init)?;
    trace.until_journeys(|all| !all.is_empty())?;
    let traced = trace.stop()?.clean()?;
    let request = &traced.journeys[0];
    assert_eq!((request.kind(), request.ends().as_str()), ("SCTP", "10.200.0.22:p → 172.16.25.183:p"));
    assert_eq!(request.ending(), "left node1 by eth0");
    assert!(request.hops().iter().any(|hop| hop.starts_with("node1 egress.vxlan out")));
    Ok(())
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

#[test]
fn a_segment_with_a_wrong_checksum_is_told_as_that() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.iptables("node1", Family::V4, "-I FORWARD -m conntrack --ctstate INVALID -j DROP")?;
    let trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:80")?;
    // From port 4242, a SYN, its checksum 0x1234.
    let segment = [0x10, 0x92, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0x12, 0x34, 0, 0];
    let to = Target::ip([172, 16, 25, 183]);
    send_raw(&lab.ns("visitor"), libc::AF_INET, libc::IPPROTO_TCP, &to, &segment)?;
    std::thread::sleep(std::time::Duration::from_millis(800));
    let traced = trace.stop()?.clean()?;
    let cause = &traced.summary["causes"][0];
    assert_eq!(cause["id"], "conntrack-invalid", "{:#}", traced.summary);
    assert!(
        cause["title"].as_str().is_some_and(|title| title.contains("TCP checksum is wrong")),
        "{cause:#}"
    );
    Ok(())
}

#[test]
fn a_tagged_packet_is_seen_with_its_tag_and_where_it_ends() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:9")?;
    // Ethernet to the bridge, 802.1Q tag 5, IPv4, UDP.
    let mut frame = vec![2, 0, 0, 0xc0, 0, 1, 2, 0, 0, 0, 0, 0x22, 0x81, 0, 0, 5, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 7, 0, 0, 64, 17, 0, 0, 10, 200, 0, 22, 172, 16, 25, 183]);
    frame.extend([0x10, 0x92, 0, 9, 0, 8, 0, 0]);
    let visitor = lab.ns("visitor");
    let device = Target::device(&visitor, "eth0")?;
    send_raw(&visitor, libc::AF_PACKET, i32::from((libc::ETH_P_ALL as u16).to_be()), &device, &frame)?;
    trace.until_journeys(|all| !all.is_empty())?;
    let traced = trace.stop()?.clean()?;
    let tagged = &traced.journeys[0];
    assert_eq!(tagged.value["packet"]["vlan"], 5, "{:#}", tagged.value);
    assert_eq!(&tagged.hops()[..2], ["visitor eth0 out", "node1 vethpod in"], "{:#?}", tagged.hops());
    Ok(())
}

#[test]
fn segments_that_travel_as_one_are_told_with_their_number() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183")?;
    Probe::Up.run(&lab, Family::V4)?;
    trace.until_journeys(|all| all.iter().any(|journey| journey.kind().starts_with("FIN")))?;
    let traced = trace.stop()?.clean()?;
    let large: Vec<&Journey> =
        traced.journeys.iter().filter(|journey| journey.value["packet"]["gso"].is_object()).collect();
    assert!(!large.is_empty(), "{}", traced.list());
    for journey in large {
        let packet = &journey.value["packet"];
        let number = |value: &serde_json::Value| value.as_u64().expect("a number");
        let (size, segments) = (number(&packet["gso"]["size"]), number(&packet["gso"]["segments"]));
        let length = number(&packet["l3_length"]);
        assert!(segments >= 2 && size * (segments - 1) < length, "{packet}");
    }
    assert_eq!(traced.count("vanished") + traced.count("dropped"), 0, "{}", traced.list());
    Ok(())
}

#[test]
fn a_cluster_ip_over_ipv6_is_followed_through_its_translation() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh().with_ipv6())?;
    let service = tests::topology::cluster_ip(Family::V6);
    let mut trace = trace(&lab, "node1", &format!("--pod @visitor --dst [{service}]:80"))?;
    Probe::Svc.run(&lab, Family::V6)?;
    trace.until_closed()?;
    let traced = trace.stop()?.clean()?;
    let (syn, answer) = (traced.first("SYN"), traced.first("SYN-ACK"));
    let dnat = format!("node1 PREROUTING DNAT [{service}]:80 → [fd00:200:2::22]:80");
    let back = format!("node1 POSTROUTING un-DNAT [fd00:200:2::22]:80 → [{service}]:80");
    assert!(syn.hops().iter().any(|hop| hop.starts_with(&dnat)), "{:#?}", syn.hops());
    assert!(answer.hops().iter().any(|hop| hop.starts_with(&back)), "{:#?}", answer.hops());
    assert_eq!((syn.ending(), answer.ending()), ("left node1 by eth0".into(), "delivered in visitor".into()));
    assert_eq!(answer.flow(), syn.flow());
    Ok(())
}

#[test]
fn the_programs_tell_what_they_make_of_each_packet() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let line = "--pod @visitor --dst 172.16.25.183:80 --proto tcp --debug-bpf";
    let mut trace = trace(&lab, "node1", line)?;
    Probe::Egw.run(&lab, Family::V4)?;
    trace.until_closed()?;
    let traced = trace.stop()?;
    assert_eq!(traced.status.code(), Some(0), "{}", traced.errors);
    for said in ["tc: ours, skb ", "netfilter: ours, skb ", "conntrack: the flow has entry "] {
        let line = traced.errors.lines().find(|line| line.contains(said));
        let line = line.unwrap_or_else(|| panic!("no {said:?} in {}", traced.errors));
        assert!(line.starts_with("bpf ") && line.contains(" proto 6 flow "), "{line}");
        assert!(line.contains(": 10.200.0.22 ") && line.contains(" → 172.16.25.183 80 "), "{line}");
    }
    Ok(())
}
