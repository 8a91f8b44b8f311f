// SPDX-License-Identifier: MIT OR Apache-2.0
//! The egress path hop by hop, as measured: pod, node 1, tunnel, node 2, out; and the way back.

use tracer_user::node::Hook;

use super::{
    CNI0, DONE_MARK, EGRESS, ETH0, FLANNEL, IN, NODE1, NODE2, OUT, POD, Pkt, REPLY_MARK, REQUEST_MARK, VETH,
    World, ip,
};

pub const N1: [u8; 4] = [172, 16, 25, 11];
pub const N2: [u8; 4] = [172, 16, 25, 12];
pub const EIP: &str = "172.16.25.189";

pub fn syn() -> Pkt {
    Pkt::tcp("10.200.0.22", 41234, "172.16.25.183", 80)
}

pub fn syn_ack() -> Pkt {
    Pkt {
        reply: true,
        skb: 0xffff_8880_0000_2000,
        flags: 0x12,
        seq: 9000,
        ack: 1001,
        id: 0,
        ..Pkt::tcp("172.16.25.183", 80, EIP, 41234)
    }
}

impl World {
    /// Rows 1 to 5: the pod sends, up to the bridge. The mark is set in mangle PREROUTING.
    pub fn request_to_bridge(&mut self, p: &mut Pkt) {
        self.nf(p, POD, Hook::Output, (0, ETH0), 800);
        self.nf(p, POD, Hook::Postrouting, (0, ETH0), 500);
        self.tc(p, POD, ETH0, OUT, 700);
        self.tc(p, NODE1, VETH, IN, 2900);
        p.mark = REQUEST_MARK;
        p.ct = (0xc1, 0, p.ct.2);
        self.nf(p, NODE1, Hook::Prerouting, (CNI0, 0), 1400);
        self.tc(p, NODE1, CNI0, IN, 800);
    }

    /// Rows 6 to 11: routed by its mark into the tunnel, and out.
    pub fn request_through_node1(&mut self, p: &mut Pkt) {
        self.request_to_bridge(p);
        self.fib(p, NODE1, (255, -11, None, 0), 300);
        self.fib(p, NODE1, (649_573_604, 0, Some("192.200.201.40"), EGRESS), 400);
        self.fib_reverse(p, NODE1, 254, CNI0, 300);
        p.mark = DONE_MARK;
        p.ttl -= 1;
        self.nf(p, NODE1, Hook::Forward, (CNI0, EGRESS), 900);
        self.nf(p, NODE1, Hook::Postrouting, (0, EGRESS), 800);
        self.tc(p, NODE1, EGRESS, OUT, 900);
        p.outer = Some((N1, N2, 100));
        let outer = Pkt { src: ip("172.16.25.11"), dst: ip("172.16.25.12"), ..*p };
        self.fib(&outer, NODE1, (254, 0, None, ETH0), 500);
        self.nf(p, NODE1, Hook::Output, (0, ETH0), 700);
        self.nf(p, NODE1, Hook::Postrouting, (EGRESS, ETH0), 600);
        self.tc(p, NODE1, ETH0, OUT, 900);
    }

    /// Rows 12 to 18: in by the tunnel, SNAT, out.
    pub fn request_through_node2(&mut self, p: &mut Pkt) {
        p.mark = 0;
        self.tc(p, NODE2, ETH0, IN, 11_000);
        self.nf(p, NODE2, Hook::Prerouting, (ETH0, 0), 1200);
        self.nf(p, NODE2, Hook::Input, (ETH0, 0), 1000);
        p.outer = None;
        p.ct = (0, 0, 2);
        self.tc(p, NODE2, EGRESS, IN, 1900);
        p.mark = DONE_MARK;
        p.ct = (0xc2, REPLY_MARK, p.ct.2);
        self.nf(p, NODE2, Hook::Prerouting, (EGRESS, 0), 1500);
        self.fib(p, NODE2, (254, 0, None, ETH0), 500);
        p.ttl -= 1;
        self.nf(p, NODE2, Hook::Forward, (EGRESS, ETH0), 900);
        p.src = ip(EIP);
        self.nf(p, NODE2, Hook::Postrouting, (0, ETH0), 1300);
        let original = Pkt { src: ip("10.200.0.22"), ..*p };
        let reply = Pkt { src: p.dst, dst: p.src, sport: p.dport, dport: p.sport, ..*p };
        self.conntrack(p, &original, &reply);
        self.tc(p, NODE2, ETH0, OUT, 800);
    }

    /// Rows 21 to 26: the reply comes in, is un-NATed, and goes into the tunnel.
    pub fn reply_through_node2(&mut self, p: &mut Pkt) {
        p.ct = (0, 0, 0);
        self.tc(p, NODE2, ETH0, IN, 300_000);
        p.mark = REPLY_MARK;
        p.dst = ip("10.200.0.22");
        p.ct = (0xc2, REPLY_MARK, 3);
        self.nf(p, NODE2, Hook::Prerouting, (ETH0, 0), 1800);
        self.fib(p, NODE2, (647_556_663, 0, Some("192.200.142.89"), EGRESS), 500);
        p.mark = DONE_MARK;
        p.ttl -= 1;
        self.nf(p, NODE2, Hook::Forward, (ETH0, EGRESS), 900);
        self.nf(p, NODE2, Hook::Postrouting, (0, EGRESS), 700);
        self.tc(p, NODE2, EGRESS, OUT, 800);
        p.outer = Some((N2, N1, 100));
        self.nf(p, NODE2, Hook::Output, (0, ETH0), 900);
        self.nf(p, NODE2, Hook::Postrouting, (EGRESS, ETH0), 700);
        self.tc(p, NODE2, ETH0, OUT, 900);
    }

    /// Rows 26 to 30: in by the tunnel, to the pod.
    pub fn reply_through_node1(&mut self, p: &mut Pkt, wire_ns: u64) {
        p.mark = 0;
        p.outer = Some((N2, N1, 100));
        self.tc(p, NODE1, ETH0, IN, wire_ns);
        self.nf(p, NODE1, Hook::Prerouting, (ETH0, 0), 1200);
        self.nf(p, NODE1, Hook::Input, (ETH0, 0), 1000);
        p.outer = None;
        p.ct = (0, 0, 0);
        self.tc(p, NODE1, EGRESS, IN, 1900);
        p.ct = (0xc1, 0, 3);
        self.nf(p, NODE1, Hook::Prerouting, (EGRESS, 0), 1500);
        self.fib(p, NODE1, (254, 0, None, CNI0), 500);
        self.fib_reverse(p, NODE1, 254, ETH0, 200);
        p.ttl -= 1;
        self.nf(p, NODE1, Hook::Forward, (EGRESS, CNI0), 900);
        self.nf(p, NODE1, Hook::Postrouting, (0, CNI0), 700);
        self.tc(p, NODE1, CNI0, OUT, 700);
        self.tc(p, NODE1, VETH, OUT, 900);
        self.tc(p, POD, ETH0, IN, 2500);
        self.nf(p, POD, Hook::Prerouting, (ETH0, 0), 900);
        self.nf(p, POD, Hook::Input, (ETH0, 0), 800);
    }

    /// Flannel, pod to a pod of another node, without marks.
    pub fn flannel_out(&mut self, p: &mut Pkt) {
        self.tc(p, POD, ETH0, OUT, 1000);
        self.tc(p, NODE1, VETH, IN, 2500);
        self.nf(p, NODE1, Hook::Prerouting, (CNI0, 0), 1400);
        self.tc(p, NODE1, CNI0, IN, 800);
        self.fib(p, NODE1, (254, 0, Some("10.200.1.0"), FLANNEL), 400);
        p.ttl -= 1;
        self.nf(p, NODE1, Hook::Forward, (CNI0, FLANNEL), 900);
        self.nf(p, NODE1, Hook::Postrouting, (0, FLANNEL), 800);
        self.tc(p, NODE1, FLANNEL, OUT, 900);
        p.outer = Some((N1, N2, 1));
        self.nf(p, NODE1, Hook::Output, (0, ETH0), 700);
        self.nf(p, NODE1, Hook::Postrouting, (FLANNEL, ETH0), 600);
        self.tc(p, NODE1, ETH0, OUT, 900);
    }
}
