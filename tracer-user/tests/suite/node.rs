// SPDX-License-Identifier: MIT OR Apache-2.0
//! The netlink side against real namespaces. Needs root; skips without.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tracer_user::cli::{Invocation, Parsed, Plan, SystemResolver, parse};
use tracer_user::node::{
    DeviceKind, Family, Hook, HookOwner, IpPrefix, Namespace, Netns, Observer, PathRole, Watcher, named,
};
use tracer_user::target::NamedNamespaces;

/// Namespaces that are deleted with the guard.
struct Lab(Vec<String>);

impl Lab {
    /// `None`, with the reason printed, when this cannot be done here.
    fn new(test: &str, names: &[&str]) -> Option<Self> {
        // SAFETY: no arguments, no memory.
        if unsafe { libc::geteuid() } != 0 {
            println!("SKIP {test} needs root");
            return None;
        }
        let mut lab = Self(Vec::new());
        for name in names {
            let full = format!("egwt-node-{}-{test}-{name}", std::process::id());
            run(&format!("ip netns add {full}"));
            lab.0.push(full);
        }
        Some(lab)
    }

    fn name(&self, short: &str) -> &str {
        self.0.iter().find(|n| n.ends_with(&format!("-{short}"))).unwrap()
    }

    fn netns(&self, short: &str) -> Netns {
        Netns::open(&Path::new("/run/netns").join(self.name(short)), short).unwrap()
    }

    /// Runs the lines of a script with `{name}` replaced, each in a namespace: `name: command`.
    fn script(&self, script: &str) {
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let (at, command) = line.split_once(": ").unwrap();
            let mut command = command.to_owned();
            for full in &self.0 {
                command = command.replace(&format!("{{{}}}", full.rsplit('-').next().unwrap()), full);
            }
            run(&format!("nsenter --net=/run/netns/{} {command}", self.name(at)));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A node with a bridge, two pods on it and a third one routed, two vxlan devices, an uplink (a veth into
/// another namespace), and policy routing.
const NODE: &str = "
    node: ip link set lo up
    node: ip link add eth0 type veth peer name n0 netns {out}
    node: ip link add br0 type bridge
    node: ip link add veth1 type veth peer name eth0 netns {pod}
    node: ip link add veth2 type veth peer name eth0 netns {other}
    node: ip link add routed type veth peer name eth1 netns {other}
    node: ip link set veth1 master br0
    node: ip link set veth2 master br0
    node: ip link set eth0 up
    node: ip link set br0 up
    node: ip link set veth1 up
    node: ip link set veth2 up
    node: ip link set routed up
    out: ip link set n0 up
    node: ip addr add 172.16.0.11/24 dev eth0
    node: ip -6 addr add fd16::11/64 dev eth0 nodad
    node: ip addr add 10.200.0.1/24 dev br0
    node: ip route add default via 172.16.0.1
    node: ip route add 10.200.9.9/32 dev routed
    node: ip link add vx1 type vxlan id 100 dstport 7789 local 172.16.0.11 dev eth0 nolearning
    node: ip link add vx2 type vxlan id 1 dstport 8472 local 172.16.0.11 nolearning
    node: ip addr add 192.200.0.1/16 dev vx1
    node: ip link set vx1 up
    node: ip rule add fwmark 0x26b7b4e4 lookup 649573604 priority 99
    node: ip route add default via 192.200.0.2 dev vx1 table 649573604
    pod: ip link set lo up
    pod: ip link set eth0 up
    pod: ip addr add 10.200.0.22/24 dev eth0
    pod: ip route add default via 10.200.0.1
    other: ip link set eth0 up
    other: ip link set eth1 up
    other: ip addr add 10.200.0.33/24 dev eth0
";

fn roles(namespace: &Namespace) -> Vec<(&str, PathRole)> {
    let mut out: Vec<_> =
        namespace.devices.values().filter_map(|d| Some((d.name.as_str(), d.watched?))).collect();
    out.sort_by_key(|(name, _)| *name);
    out
}

fn host(address: &str) -> IpPrefix {
    IpPrefix::host(address.parse().unwrap())
}

#[test]
fn the_devices_of_a_pods_path() {
    use PathRole::{Bridge, Pod, PodHost, Transit, Tunnel, Uplink};
    let Some(lab) = Lab::new("path", &["node", "pod", "other", "out"]) else { return };
    lab.script(NODE);
    let (node, pod) = (lab.netns("node"), lab.netns("pod"));

    let mut observer = Observer::open(std::slice::from_ref(&node), Some(&pod)).unwrap();
    let seen = observer.observe(&[host("10.200.0.22"), host("192.0.2.1")]).unwrap();
    assert_eq!(seen.notices, [""; 0]);
    let inside = &seen.topology.namespaces[&pod.id()];
    assert_eq!(roles(inside), [("eth0", Pod), ("lo", Pod)]);
    let outside = &seen.topology.namespaces[&node.id()];
    let path = [("br0", Bridge), ("eth0", Uplink), ("veth1", PodHost), ("vx1", Tunnel), ("vx2", Tunnel)];
    assert_eq!(roles(outside), path);

    let by_name = |name: &str| outside.devices.values().find(|d| d.name == name).unwrap();
    let pod_eth0 = inside.devices.values().find(|d| d.name == "eth0").unwrap();
    assert_eq!(by_name("veth1").link, Some((Some(pod.id()), pod_eth0.ifindex)));
    assert_eq!(pod_eth0.link, Some((Some(node.id()), by_name("veth1").ifindex)));
    assert_eq!(by_name("veth2").link.map(|(id, _)| id), Some(None), "the other pod is not watched");
    assert_eq!(by_name("veth1").master, Some(by_name("br0").ifindex));
    assert_eq!(
        by_name("vx1").kind,
        DeviceKind::Vxlan { vni: 100, port: 7789, local: Some([172, 16, 0, 11].into()) }
    );
    assert_eq!(by_name("lo").kind, DeviceKind::Loopback);
    assert_eq!((by_name("eth0").mac.len(), by_name("eth0").layer3), (6, false));
    assert!(by_name("eth0").addresses.contains(&"fd16::11".parse().unwrap()));

    // To the pod next door: its port is known once the bridge has seen it.
    lab.script("pod: ping -c1 -W5 10.200.0.33\n node: ping -c1 -W5 10.200.0.33");
    let seen = observer.observe(&[host("10.200.0.22"), host("10.200.0.33")]).unwrap();
    let mut with_port = path.to_vec();
    with_port.insert(3, ("veth2", Transit));
    assert_eq!(roles(&seen.topology.namespaces[&node.id()]), with_port);
    // To the routed pod, and without a pod of our own.
    lab.script("node: ping -c1 -W5 10.200.0.22");
    let mut observer = Observer::open(std::slice::from_ref(&node), None).unwrap();
    let seen = observer.observe(&[host("10.200.0.22"), host("10.200.9.9")]).unwrap();
    let transit = [
        ("br0", Transit),
        ("eth0", Uplink),
        ("routed", Transit),
        ("veth1", Transit),
        ("vx1", Tunnel),
        ("vx2", Tunnel),
    ];
    assert_eq!(roles(&seen.topology.namespaces[&node.id()]), transit);
}

#[test]
fn a_pod_of_another_node_is_said_to_be_one() {
    let Some(lab) = Lab::new("elsewhere", &["node", "pod", "other", "out"]) else { return };
    lab.script(NODE);
    let mut observer = Observer::open(&[lab.netns("out")], Some(&lab.netns("pod"))).unwrap();
    let notices = observer.observe(&[]).unwrap().notices.join("\n");
    assert!(notices.contains("no device of pod is connected to out"), "{notices}");
    assert!(notices.contains(&format!("--node-netns {}", lab.name("node"))), "{notices}");
    // A pod in its node's namespace is the node.
    let node = lab.netns("node");
    let mut observer = Observer::open(std::slice::from_ref(&node), Some(&node)).unwrap();
    assert_eq!(observer.observe(&[]).unwrap().topology.namespaces.len(), 1);
}

#[test]
fn hostile_device_names_break_nothing() {
    let Some(lab) = Lab::new("names", &["node"]) else { return };
    let name = lab.name("node");
    for device in [r"a\033[31mb", r"\377\376x", r"'\''x'\''", r"$x;y", r"\342\200\256z", "-rf", "*"] {
        run(&format!(
            "nsenter --net=/run/netns/{name} ip link add \"$(printf -- '{}')\" type bridge",
            device
        ));
    }
    let mut observer = Observer::open(&[lab.netns("node")], None).unwrap();
    let seen = observer.observe(&[]).unwrap();
    let devices = &seen.topology.namespaces.values().next().unwrap().devices;
    let mut names: Vec<&str> = devices.values().map(|d| d.name.as_str()).filter(|n| *n != "lo").collect();
    names.sort_unstable();
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(names.contains(&"a\\x1b[31mb") && names.contains(&"\\xff\\xfex"), "{names:?}");
    assert!(names.contains(&"\\u{202e}z"), "{names:?}");
}

#[test]
fn hooks_of_nft_and_both_iptables() {
    let Some(lab) = Lab::new("hooks", &["node"]) else { return };
    lab.script(
        "node: iptables-nft -t mangle -A PREROUTING -j ACCEPT
         node: iptables-nft -P FORWARD DROP
         node: iptables-legacy -t nat -A POSTROUTING -j MASQUERADE
         node: ip6tables-legacy -t raw -A OUTPUT -j ACCEPT
         node: nft add table inet t
         node: nft add chain inet t pre '{ type filter hook prerouting priority -5; }'
         node: nft add chain inet t first '{ type nat hook prerouting priority -90; }'",
    );
    let mut observer = Observer::open(&[lab.netns("node")], None).unwrap();
    let topology = observer.observe(&[]).unwrap().topology;
    let node = topology.namespaces.values().next().unwrap();
    let at = |family, hook| {
        let mut out: Vec<_> = node
            .hooks
            .iter()
            .filter(|e| e.family == family && e.hook == hook && !matches!(e.owner, HookOwner::Kernel { .. }))
            .map(|e| (e.priority, e.owner.label()))
            .collect();
        out.sort();
        out.into_iter().map(|(p, n)| format!("{p} {n}")).collect::<Vec<_>>()
    };
    assert_eq!(
        at(Family::Ipv4, Hook::Prerouting),
        ["-150 mangle", "-100 inet t first", "-100 nat", "-5 inet t pre"]
    );
    assert_eq!(at(Family::Ipv6, Hook::Prerouting), ["-300 raw", "-100 inet t first", "-5 inet t pre"]);
    assert_eq!(at(Family::Ipv4, Hook::Postrouting), ["100 nat"]);
    let forward = node.hooks.iter().filter(|e| e.hook == Hook::Forward && e.family == Family::Ipv4);
    let policies: Vec<bool> = forward
        .map(|e| matches!(&e.owner, HookOwner::Nft { table, policy_drop: true, .. } if table == "filter"))
        .collect();
    assert_eq!(policies, [true]);
    let kernel = |hook, name: &str| {
        node.hooks
            .iter()
            .any(|e| e.hook == hook && matches!(&e.owner, HookOwner::Kernel { name: n } if n.contains(name)))
    };
    assert!(kernel(Hook::Prerouting, "conntrack") && kernel(Hook::Postrouting, "nat"));
}

#[test]
fn a_change_is_told_once_and_soon() {
    let Some(lab) = Lab::new("watch", &["node"]) else { return };
    let node = lab.netns("node");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut watcher = Watcher::new([&node], &[]).unwrap();
        let mut next = async |limit| tokio::time::timeout(limit, watcher.changed()).await;
        let soon = Duration::from_millis(500);
        assert!(next(Duration::from_millis(60)).await.is_err(), "nothing has changed yet");

        lab.script("node: ip link add br0 type bridge");
        let change = next(soon).await.unwrap().unwrap();
        assert!(change.devices.contains(&node.id()) && change.hooks.is_empty(), "{change:?}");

        lab.script("node: nft add table ip t");
        assert!(next(soon).await.unwrap().unwrap().hooks.contains(&node.id()));

        lab.script("node: iptables-legacy -t mangle -A FORWARD -j ACCEPT");
        let change = next(Duration::from_millis(1500)).await.unwrap().unwrap();
        assert!(change.hooks.contains(&node.id()), "{change:?}");

        drop(lab);
        let change = next(Duration::from_millis(1500)).await.unwrap().unwrap();
        assert!(change.gone.contains(&node.id()), "{change:?}");
    });
    assert!(node.is_gone());
}

#[test]
fn five_hundred_devices_are_read_in_time() {
    let Some(lab) = Lab::new("many", &["node"]) else { return };
    let script: String = (0..500).map(|i| format!("link add d{i} type bridge\n")).collect();
    let file = std::env::temp_dir().join(format!("egwt-node-{}-batch", std::process::id()));
    std::fs::write(&file, script).unwrap();
    lab.script(&format!("node: ip -batch {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    let mut observer = Observer::open(&[lab.netns("node")], None).unwrap();
    let start = Instant::now();
    let seen = observer.observe(&[]).unwrap();
    let took = start.elapsed();
    assert_eq!(seen.topology.namespaces.values().next().unwrap().devices.len(), 501);
    eprintln!("501 devices: {took:?}");
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn the_time_for_a_pod() {
    let Some(lab) = Lab::new("time", &["node", "pod", "other", "out"]) else { return };
    lab.script(NODE);
    let start = Instant::now();
    let mut observer = Observer::open(&[lab.netns("node")], Some(&lab.netns("pod"))).unwrap();
    let opened = start.elapsed();
    observer.observe(&[host("10.200.0.33")]).unwrap();
    let first = start.elapsed();
    observer.observe(&[host("10.200.0.33")]).unwrap();
    eprintln!("open {opened:?}, first {:?}, again {:?}", first - opened, start.elapsed() - first);
    assert!(start.elapsed() < Duration::from_millis(500));
    assert!(named().iter().any(|(name, ..)| name == lab.name("node")));
}

fn plan(line: &str) -> Result<Plan, String> {
    let words = std::iter::once("egwtrace").chain(line.split_whitespace());
    let Ok(Parsed::Run(Invocation::Trace(args))) = parse(words) else { panic!("{line}") };
    Plan::new(&args, &[&NamedNamespaces], &SystemResolver).map_err(|e| e.to_string())
}

#[test]
fn from_the_command_line_to_the_devices() {
    let Some(mut lab) = Lab::new("plan", &["node", "pod", "other", "out"]) else { return };
    lab.script(NODE);
    lab.script("pod: ip -6 addr add fd20::22/64 dev eth0 nodad");
    let (node, pod) = (lab.name("node"), lab.name("pod"));

    let plan_v4 = plan(&format!("--node-netns {node} --pod default/{pod} --dst 192.0.2.1:80")).unwrap();
    assert_eq!(plan_v4.filter.to_string(), "10.200.0.22 → 192.0.2.1:80");
    assert_eq!(plan_v4.targets[0].name, format!("default/{pod}"));
    assert_eq!(plan_v4.nodes[0].name(), node);
    let plan_v6 =
        plan(&format!("--node-netns /run/netns/{node} --netns /run/netns/{pod} --dst [fd99::1]:80")).unwrap();
    assert_eq!(plan_v6.filter.to_string(), "fd20::22 → [fd99::1]:80");
    assert_eq!(plan_v6.targets[0].name, pod);
    assert_eq!(plan_v6.nodes[0].name(), node);

    let mut observer = Observer::open(&plan_v4.nodes, &plan_v4.pod_netns()).unwrap();
    let seen = observer.observe(&plan_v4.filter.ends()).unwrap();
    assert_eq!(seen.topology.namespaces.len(), 2);

    // A slip of the finger; two that fit.
    let error = plan(&format!("--pod {}", &pod[..pod.len() - 1])).unwrap_err();
    assert!(error.contains(&format!("did you mean \"{pod}\"")), "{error}");
    let prefix = pod.strip_suffix("-pod").unwrap().to_owned();
    let pod = pod.to_owned();
    lab.0.push(format!("{prefix}-{pod}"));
    run(&format!("ip netns add {prefix}-{pod}"));
    let error = plan(&format!("--pod {prefix}/{pod}")).unwrap_err();
    assert!(error.contains("fits 2 pods: ") && error.contains("say which one with --netns"), "{error}");
}
