use std::os::fd::AsFd;
use tracer_user::{bpf::*, node::*};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t0 = std::time::Instant::now();
    let btf = btf::KernelBtf::load().unwrap();
    let (f, _) = btf.resolve_fields();
    let mut c = tracer_common::Config::default();
    c.dst[0] = IpPrefix::host(a[1].parse().unwrap()).to_common();
    c.dst_count = 1;
    let mut t = Tracer::load(c, &f, &btf).unwrap();
    let reasons = btf.reasons();
    println!("loaded {:?}", t0.elapsed());
    for s in t.status() {
        if s.why_not.is_some() {
            println!("{s:?}");
        }
    }
    let open = |n: &str| Netns::open(&std::path::Path::new("/run/netns").join(n), n).unwrap();
    let pod = open(&a[2]);
    let nodes: Vec<_> = a[3..].iter().map(|n| open(n)).collect();
    let mut obs = Observer::open(&nodes, Some(&pod)).unwrap();
    let t1 = std::time::Instant::now();
    let o = obs.observe(&[IpPrefix::host(a[1].parse().unwrap())]).unwrap();
    println!("observed {:?} {:?}", t1.elapsed(), o.notices);
    let mut ports = vec![];
    let all: Vec<Netns> = obs.namespaces().cloned().collect();
    for ns in o.topology.namespaces.values() {
        t.watch(ns.id).unwrap();
        let h = all.iter().find(|n| n.id() == ns.id).unwrap();
        for d in ns.devices.values() {
            if let DeviceKind::Vxlan { port, .. } = d.kind {
                ports.push(port);
            }
            if let Some(r) = d.watched {
                println!(
                    "{} {} {:?} {:?}",
                    ns.name,
                    d.name,
                    r,
                    t.attach_tc(h.as_fd(), ns.id, d.ifindex, d.layer3).map_err(|e| e.to_string())
                );
            }
        }
        for h in &ns.hooks {
            println!("   {:?}", h);
        }
        for p in standing(ns) {
            let r = t.attach_position(h.as_fd(), p.position);
            if let Err(e) = r {
                println!("{e}");
            }
        }
    }
    ports.sort();
    ports.dedup();
    t.set_vxlan_ports(&ports).unwrap();
    println!("ready {:?}", t0.elapsed());
    let syms = Symbols::new();
    syms.load().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(4);
    let mut first = 0;
    while std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(10));
        t.drain(100000, |e| {
            use tracer_common::Kind::*;
            if first==0 {first=e.ts;}
            let ns = o.topology.namespaces.get(&e.netns);
            let dev = |i:u32| ns.and_then(|n|n.devices.get(&i)).map(|d|d.name.clone()).unwrap_or(format!("if{i}"));
            let ad=|b:[u8;16]| { let a=std::net::Ipv6Addr::from(b); a.to_ipv4_mapped().map(|x|x.to_string()).unwrap_or(a.to_string()) };
            let tup=format!("{}:{}>{}:{}", ad(e.src),e.sport,ad(e.dst),e.dport);
            let head=format!("{:9.1} {:x} cpu{} seq{} f{:x} d{} {:8} {:?}", (e.ts-first) as f64/1000., e.skb&0xffffff, e.cpu,e.seq,e.flow&0xfff,e.dir, ns.map(|n|n.name.as_str()).unwrap_or("?"), e.kind().unwrap());
            match e.kind().unwrap() {
                Stack => println!("{head} {}", e.stack().iter().take_while(|x|**x!=0).map(|x| syms.lookup(*x).map(|s|s.0.to_string()).unwrap_or_default()).collect::<Vec<_>>().join("<")),
                Drop => println!("{head} dev {} {} at {:?} mark {:x} len {} {tup} fl{:x}", dev(e.ifindex), reasons.drop(e.reason()), syms.lookup(e.location()), e.mark, e.len, e.flags),
                Fib => println!("{head} table {} err {} gw {} dev {} mark {:x} iif {} fl{:x} {tup}", e.fib_table(), e.fib_error(), ad(e.fib_gateway()), dev(e.ifindex), e.mark, dev(e.l4a), e.flags),
                Tc => println!("{head} {} {} mark {:x} len {} l3 {} ttl {} tf{:x} seq{} id{} gso{}x{} ct {:x}/{:x}/{:x} outer {:?} {tup} fl{:x}", dev(e.ifindex), if e.point==0 {"in"} else {"out"}, e.mark, e.len,e.l3len(), e.ttl, e.tcp_flags,e.l4a,e.ip_id,e.gso_segs,e.gso_size, e.ct()&0xffff,e.ct_status(),e.ct_mark(), e.outer_v4(), e.flags),
                Nf => println!("{head} {} pos{} {}->{} mark {:x} ct {:x}/{:x}/{:x}/{} outer {:?} {tup} fl{:x}", Hook::parse(e.point).unwrap().name(), e.position, dev(e.ifindex), dev(e.out_ifindex()), e.mark,e.ct()&0xffff,e.ct_status(),e.ct_mark(), e.ct_info(), e.outer_v4(), e.flags),
                _ => println!("{head} point {} pos {} {tup} l4a {} fl{:x}", e.point, e.position, e.l4a, e.flags),
            }
        });
    }
    println!("{:?}", t.counters());
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .filter(|l| l.starts_with("VmRSS") || l.starts_with("VmHWM"))
            .collect::<Vec<_>>()
            .join(" ")
    );
}
