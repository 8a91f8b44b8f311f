// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers ARP and neighbour solicitations for the egress IP, as EgressGateway's agent does: from
//! user space on a packet socket, because the address stands on no interface.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use crate::{ns::check, sockets};

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Ethernet header and ARP body for IPv4.
const ARP_LEN: usize = 14 + 28;
/// Ethernet and IPv6 headers, then a solicitation without options.
const SOLICIT_LEN: usize = 14 + 40 + 24;

/// An announcer, ready to run.
#[derive(Debug)]
pub struct Announcer {
    index: i32,
    mac: [u8; 6],
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    arp: OwnedFd,
    ndp: OwnedFd,
}

impl Announcer {
    /// Opens its sockets on the device `dev` of this namespace.
    ///
    /// # Errors
    /// When there is no such device, or the caller may not open packet sockets.
    pub fn new(dev: &str, addresses: &[IpAddr]) -> io::Result<Self> {
        let (index, mac) = sockets::device(dev)?;
        let ndp = packet_socket(index, ETH_P_IPV6)?;
        only_solicitations(&ndp)?;
        Ok(Self {
            index,
            mac,
            v4: addresses
                .iter()
                .filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
                .collect(),
            v6: addresses
                .iter()
                .filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None })
                .collect(),
            arp: packet_socket(index, ETH_P_ARP)?,
            ndp,
        })
    }

    /// Announces unasked for 5 s, and answers until killed.
    pub fn run(&self) {
        let start = Instant::now();
        let mut next = start;
        let mut frame = [0; 2048];
        loop {
            let now = Instant::now();
            let announcing = now < start + Duration::from_secs(5);
            if announcing && now >= next {
                self.announce();
                next += Duration::from_millis(1100);
            }
            let mut polls = [&self.arp, &self.ndp].map(|socket| libc::pollfd {
                fd: socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: two pollfds, which live across the call.
            unsafe { libc::poll(polls.as_mut_ptr(), 2, if announcing { 200 } else { -1 }) };
            if polls[0].revents != 0
                && let Some(reply) = receive(&self.arp, &mut frame).and_then(|frame| self.arp_reply(frame))
            {
                self.send(&self.arp, ETH_P_ARP, &reply);
            }
            if polls[1].revents != 0
                && let Some(reply) =
                    receive(&self.ndp, &mut frame).and_then(|frame| self.advertisement(frame))
            {
                self.send(&self.ndp, ETH_P_IPV6, &reply);
            }
        }
    }

    /// Gratuitous ARP as request and as reply, and an unsolicited advertisement.
    fn announce(&self) {
        for &ip in &self.v4 {
            for operation in [1, 2] {
                self.send(&self.arp, ETH_P_ARP, &self.arp_frame(operation, ip, BROADCAST, ip));
            }
        }
        for &ip in &self.v6 {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let frame = self.advertise(ip, [0x33, 0x33, 0, 0, 0, 1], all_nodes, 0x20);
            self.send(&self.ndp, ETH_P_IPV6, &frame);
        }
    }

    fn arp_reply(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let frame = frame.get(..ARP_LEN)?;
        if frame[14..22] != [0, 1, 8, 0, 6, 4, 0, 1] {
            return None;
        }
        let asker_mac: [u8; 6] = frame[22..28].try_into().ok()?;
        let asker = ipv4(&frame[28..32])?;
        let target = ipv4(&frame[38..42])?;
        let asked = self.v4.contains(&target) && asker != target;
        asked.then(|| self.arp_frame(2, target, asker_mac, asker))
    }

    fn arp_frame(&self, operation: u8, sender: Ipv4Addr, to_mac: [u8; 6], to: Ipv4Addr) -> Vec<u8> {
        let mut frame = ethernet(to_mac, self.mac, ETH_P_ARP);
        frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(self.mac);
        frame.extend(sender.octets());
        frame.extend(to_mac);
        frame.extend(to.octets());
        frame
    }

    fn advertisement(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let frame = frame.get(..SOLICIT_LEN)?;
        let asker_mac: [u8; 6] = frame[6..12].try_into().ok()?;
        let asker = ipv6(&frame[22..38])?;
        let target = ipv6(&frame[62..78])?;
        // Solicited, overriding; to an asker without address, to all nodes.
        if !self.v6.contains(&target) || asker.is_unspecified() {
            return None;
        }
        Some(self.advertise(target, asker_mac, asker, 0x60))
    }

    fn advertise(&self, ip: Ipv6Addr, to_mac: [u8; 6], to: Ipv6Addr, flags: u8) -> Vec<u8> {
        // RFC 4861 4.4: type, code, checksum, flags, target, option 2 (our link-layer address).
        let mut icmp = vec![136, 0, 0, 0, flags, 0, 0, 0];
        icmp.extend(ip.octets());
        icmp.extend([2, 1]);
        icmp.extend(self.mac);
        let sum = icmpv6_checksum(ip, to, &icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = ethernet(to_mac, self.mac, ETH_P_IPV6);
        frame.extend([0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 255]);
        frame.extend(ip.octets());
        frame.extend(to.octets());
        frame.extend(icmp);
        frame
    }

    fn send(&self, socket: &OwnedFd, protocol: u16, frame: &[u8]) {
        let address = link_address(self.index, protocol);
        // SAFETY: frame and address live across the call, with their true lengths. A frame that
        // cannot be sent (device down) is lost, as on a wire.
        unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
    }
}

fn packet_socket(index: i32, protocol: u16) -> io::Result<OwnedFd> {
    let socket = sockets::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol.to_be()))?;
    let address = link_address(index, protocol);
    // SAFETY: the address lives across the call, with its true length.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            mem::size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// Lets the kernel pass only neighbour solicitations to the socket: ordinary traffic costs nothing.
fn only_solicitations(socket: &OwnedFd) -> io::Result<()> {
    const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }
    // ldb [20] (next header); jeq ICMPv6; ldb [54] (type); jeq 135; accept or not.
    let mut program = [
        op(0x30, 0, 0, 20),
        op(0x15, 0, 3, 58),
        op(0x30, 0, 0, 54),
        op(0x15, 0, 1, 135),
        op(0x06, 0, 0, 2048),
        op(0x06, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies `len` instructions during the call; both live across it.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            mem::size_of_val(&filter) as libc::socklen_t,
        )
    })
}

fn receive<'a>(socket: &OwnedFd, frame: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: the kernel writes at most the buffer's length into it.
    let count =
        unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
    frame.get(..usize::try_from(count).ok()?)
}

fn link_address(index: i32, protocol: u16) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain old data; all zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    address
}

fn ethernet(to: [u8; 6], from: [u8; 6], protocol: u16) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(from);
    frame.extend(protocol.to_be_bytes());
    frame
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

/// RFC 4443 2.3, over the pseudo-header of RFC 8200 8.1.
fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, icmp: &[u8]) -> u16 {
    let length = icmp.len() as u32;
    let words = from.segments().into_iter().chain(to.segments()).map(u32::from);
    let body = icmp.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.chain(body).sum::<u32>() + length + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_its_checksum_in_place_sums_to_zero() {
        let from: Ipv6Addr = "fe80::1".parse().expect("an address");
        let to: Ipv6Addr = "ff02::1".parse().expect("an address");
        let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        icmp.extend(from.octets());
        icmp.extend([2, 1, 2, 0, 0, 0, 0, 1]);
        let sum = icmpv6_checksum(from, to, &icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());

        assert_eq!(icmpv6_checksum(from, to, &icmp), 0);
    }
}
