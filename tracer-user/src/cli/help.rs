// SPDX-License-Identifier: MIT OR Apache-2.0
//! The long texts of --help.

pub(super) const ABOUT: &str = "Follow one flow through a Kubernetes node, live, hop by hop";

pub(super) const LONG_ABOUT: &str = "\
Follow one flow through a Kubernetes node, live, hop by hop.

Prints, for every packet of the flow and of its answers, one line per hop: where it was, the mark, the \
translation, the route taken, the time since the hop before; and where it was dropped and why. It only \
watches: no packet, rule, queue or setting is changed, and nothing remains after it ends.

--pod, --selector, --container, --netns, --pid, --src or --dst alone is enough.";

pub(super) const CHECK: &str = "\
Walk the path that a packet would take and name the first thing that is wrong. Nothing is sent, nothing is changed.

Routes are asked of the kernel itself, with the mark and the device; iptables (both back ends), nftables and ipsets \
are read and walked for this packet; neighbours, forwarding entries, MTUs, sysctls and listening sockets are looked \
up on the way. What cannot be known without a packet, or from here, is listed as not known.";

pub(super) const CHECK_AFTER: &str = "\
Examples:
  egwtrace check --pod default/visitor --dst 172.16.25.183:80
  egwtrace check --src 10.200.0.22 --dst 172.16.25.183:80     (on the gateway)
  egwtrace check --pod visitor --dst 10.96.0.10:53 --proto udp -o json

Exit codes: 0 nothing wrong found (or only possibly), 1 something is wrong, 2 cannot check.
Root is needed, or CAP_NET_ADMIN and CAP_NET_RAW, and CAP_SYS_ADMIN to enter other network namespaces.
Pods on the way that have no name under /run/netns, and the users of proxies, take CAP_SYS_PTRACE too.";

pub(super) const EXPLAIN: &str = "\
Name causes from a recording: what `egwtrace --record FILE` wrote, on this or another machine. No privilege is needed.";

pub(super) const EXPLAIN_AFTER: &str = "\
Examples:
  egwtrace --pod visitor --dst 172.16.25.183:80 --duration 10s --record night.rec
  egwtrace explain night.rec
  ssh node1 cat night.rec | egwtrace explain -

Exit codes: 0 explained, 2 the file cannot be read.";

pub(super) const SRC: &str = "Source: IP, CIDR, IP:PORT, [IPv6]:PORT, host name, HOST:PORT";

pub(super) const SRC_LONG: &str = "\
Source: IP, CIDR, IP:PORT, [IPv6]:PORT, host name, HOST:PORT, pod/NS/NAME

Answers are followed too. A host name stands for all its addresses.";

pub(super) const AFTER: &str = "\
Examples:
  egwtrace --pod default/visitor --dst 172.16.25.183:80
  egwtrace --dst api.example.com:443 --drops
  egwtrace --src 10.200.0.22 --proto icmp --count 4

Exit codes: 0 traced, 1 a drop was seen (with --fail-on-drop), 2 cannot trace. More with --help.";

pub(super) const AFTER_LONG: &str = "\
Examples:
  A pod's connection to a server outside, on the node of the pod:
      egwtrace --pod default/visitor --dst 172.16.25.183:80

  All pods of a deployment here, by their labels:
      egwtrace -n shop -l app=checkout --drops

  The other half of the first, on the node that is its gateway (the pod is not there):
      egwtrace --src 10.200.0.22 --dst 172.16.25.183:80

  Everything that is dropped on the way to a name, IPv4 and IPv6:
      egwtrace --dst api.example.com:443 --drops

  Both nodes of a lab in one run:
      egwtrace --node-netns node1 --node-netns node2 --pod visitor --dst 172.16.25.183

  To a service, by its name (asks the API server):
      egwtrace --pod shop/checkout- --dst svc/web.shop:http

  What a process sends over IPv6:
      egwtrace --pid 4242 --dst '[fd00::80]:443'

  In a script: is anything lost in the next ten seconds?
      egwtrace --pod visitor --duration 10s --fail-on-drop -o json > journeys.json

  Before there is any traffic: would it work?
      egwtrace check --pod visitor --dst 172.16.25.183:80

  Take it home: record, and look at it elsewhere:
      egwtrace --pod visitor --duration 10s --record night.rec
      egwtrace explain night.rec

Exit codes:
  0  traced, whatever ended it: --count, --duration, Ctrl-C, SIGTERM, a closed pipe
  1  with --fail-on-drop: at least one packet of the flow was dropped
  2  the command line or the machine does not allow tracing; standard error says why, in one line

Data goes to standard output, everything else to standard error. Root is needed, or CAP_BPF,
CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN (to enter network namespaces).";
