use tracer_user::bpf::*;
fn main() {
    let t0=std::time::Instant::now();
    let btf = btf::KernelBtf::load().unwrap();
    let (f, missing) = btf.resolve_fields();
    println!("btf {:?} missing {}", t0.elapsed(), missing.len());
    let mut c = tracer_common::Config::default();
    let mut a=[0u32;4]; a[2]=0xffff0000; a[3]=u32::from_ne_bytes([172,16,25,183]);
    c.dst[0]=tracer_common::Prefix{addr:a, mask:[!0;4]}; c.dst_count=1;
    let mut t = Tracer::load(c,&f,&btf).unwrap();
    drop(btf);
    println!("loaded {:?}", t0.elapsed());
    for s in t.status() { println!("{s:?}"); }
    let ns = std::fs::File::open(std::env::args().nth(1).unwrap()).unwrap();
    use std::os::fd::AsFd;
    let id = netns_inode(ns.as_fd()).unwrap();
    t.watch(id).unwrap();
    println!("tc {:?}", t.attach_tc(ns.as_fd(), id, 1, false).map_err(|e|e.to_string()));
    println!("{:?}", t0.elapsed());
    for (i,h) in tracer_user::node::Hook::ALL.iter().enumerate() {
      let p = tracer_user::node::Position{netns:id,family:tracer_user::node::Family::Ipv4,hook:*h,index:i as u8,priority:200};
      match t.attach_position(ns.as_fd(), p) { Ok(())=>println!("nf ok {h:?}"), Err(e)=>println!("{e}") }
    }
    println!("{:?}", t0.elapsed());
    for (n,c) in t.prog_stats() { println!("{n} {}",c.verified_insns); }
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l|l.starts_with("VmRSS")||l.starts_with("VmHWM")).collect::<Vec<_>>().join(" "));
    println!("seen {:?}", t.counters());
}
