// SPDX-License-Identifier: MIT OR Apache-2.0
//! Container runtimes that misbehave, and big ones: a server of our own speaks the interface.

use crate::runtime;

use std::time::{Duration, Instant};

use runtime::{Answer, Fake, pod};
use tracer_user::cli::{Invocation, Parsed, Plan, SystemResolver, parse};
use tracer_user::node::Netns;
use tracer_user::target::cri::Cri;
use tracer_user::target::{Backend as _, Backends, Kind};

/// The plan of a command line, or the error.
fn plan(fake: &Fake, line: &str) -> Result<Plan, String> {
    let words = ["egwtrace", "--runtime-endpoint", fake.socket()];
    let words = words.into_iter().chain(line.split_whitespace());
    let Ok(Parsed::Run(Invocation::Trace(args))) = parse(words) else { panic!("{line}") };
    let backends = Backends::of_this_node(args.runtime_endpoint.as_deref()).map_err(|e| e.to_string())?;
    Plan::new(&args, &backends.all(), &SystemResolver).map_err(|e| e.to_string())
}

#[test]
fn a_pod_by_its_name_among_unknown_fields() {
    let fake =
        Fake::with_pods(vec![pod("shop/web", 0), pod("shop/checkout-1", 1), pod("blog/web", 2)]).growing();
    let found = plan(&fake, "--pod shop/web --dst 192.0.2.1 --src 192.0.2.9").unwrap();
    assert_eq!(found.targets[0].name, "shop/web");
    assert_eq!(found.targets[0].netns, Some(Netns::current().unwrap()));
    let found = plan(&fake, "--pod checkout --dst 192.0.2.1 --src 192.0.2.9").unwrap();
    assert_eq!(found.targets[0].name, "shop/checkout-1");
    assert_eq!(found.notices[0], "shop/checkout-1 is the only pod here whose name begins with \"checkout\"");
    assert_eq!(
        plan(&fake, "--pod web").unwrap_err(),
        "--pod \"web\" fits 2 pods: blog/web, shop/web; give one of them as NAMESPACE/NAME, several with --pod for \
         each, or labels with --selector"
    );
    let two = plan(&fake, "--pod shop/web --pod blog/web --dst 192.0.2.1 --src 192.0.2.9").unwrap();
    assert_eq!(two.targets.len(), 2);
    let error = plan(&fake, "--pod shop/wbe").unwrap_err();
    assert!(
        error.starts_with("no pod \"shop/wbe\" here (did you mean \"shop/web\"?); asked: fake 1.0 at "),
        "{error}"
    );
    let error = plan(&fake, "--pod test/checkout-1").unwrap_err();
    assert!(error.contains("did you mean \"shop/checkout-1\""), "{error}");
}

#[test]
fn labels_choose_pods() {
    let fake = Fake::with_pods(vec![pod("shop/web", 0), pod("shop/checkout-1", 1), pod("blog/web", 2)]);
    let names = |line: &str| -> Vec<String> {
        let line = format!("{line} --src 192.0.2.9 --dst 192.0.2.1");
        plan(&fake, &line).unwrap().targets.iter().map(|t| t.name.clone()).collect()
    };
    assert_eq!(names("-l app=web"), ["blog/web", "shop/web"]);
    assert_eq!(names("-l app=web -n shop"), ["shop/web"]);
    let error = plan(&fake, "-l app=nothing").unwrap_err();
    assert!(
        // What is here is listed, where that is few: namespaces of others too.
        error.starts_with("no pod with these labels here") && error.contains("; asked: "),
        "{error}"
    );
}

#[test]
fn a_hostile_name_is_escaped() {
    let fake = Fake::with_pods(vec![pod("shop/we\x1b[2Jb", 0), pod("shop/we\u{202e}b", 1)]);
    let error = plan(&fake, "--pod shop/we").unwrap_err();
    assert!(error.contains("shop/we\\x1b[2Jb, shop/we\\u{202e}b"), "{error}");
}

#[test]
fn what_is_not_ready_is_said() {
    let mut stopped = pod("shop/old", 0);
    stopped.state = 1;
    let fake = Fake::with_pods(vec![stopped]);
    let error = plan(&fake, "--pod shop/old").unwrap_err();
    assert_eq!(
        error,
        "pod \"shop/old\" is not running: its sandbox is not ready; it may be starting, or have ended"
    );
}

#[test]
fn a_pod_on_the_hosts_network() {
    let mut host = pod("kube-system/proxy", 0);
    host.host_network = true;
    let fake = Fake::with_pods(vec![host]);
    let error = plan(&fake, "--pod proxy").unwrap_err();
    assert!(
        error.starts_with("\"kube-system/proxy\" is on the host's network: it has no network namespace"),
        "{error}"
    );
    let found = plan(&fake, "--pod proxy --src 192.0.2.9 --dst 192.0.2.1:53").unwrap();
    assert!(found.pod_netns().is_empty());
    assert!(found.notices[0].contains("is on the host's network"), "{:?}", found.notices);
}

#[test]
fn a_sandbox_that_says_nothing_of_its_namespace() {
    let mut odd = pod("shop/odd", 0);
    odd.info = "{\"pid\": \"none\"}".into();
    let fake = Fake::with_pods(vec![odd]);
    let error = plan(&fake, "--pod shop/odd").unwrap_err();
    assert!(
        error.contains(
            "says nothing about the network namespace of \"shop/odd\" (neither a path nor a process)"
        ) && error.contains("--pid PID"),
        "{error}"
    );
}

/// Each way in which what answers is no runtime, and the words for it; none may hang.
#[test]
fn misbehaving_runtimes_are_named_within_the_limit() {
    for (answer, expected) in [
        (Answer::Hang, "no answer within 2 s; the runtime hangs"),
        (Answer::Garbage(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff"), "does not speak gRPC ("),
        (Answer::Garbage(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "does not speak gRPC ("),
        (Answer::Close, "does not speak gRPC ("),
        (Answer::Http(404), "does not speak gRPC (HTTP status 404"),
        (Answer::Status(12, "unknown%20service%20runtime.v1.RuntimeService"), "unknown service runtime.v1"),
        (Answer::Status(7, "no\u{1b}[31m"), "(gRPC status 7)"),
        (Answer::Bytes(b"\x00\x00\x00\x00\x05\xff\xff\xff\xff\xff"), "the answer cannot be read"),
        (Answer::Bytes(b"\x00\x00"), "the answer cannot be read (it is empty)"),
        (Answer::Bytes(b"\x01\x00\x00\x00\x00"), "it is compressed"),
        (Answer::Bytes(b"\x00\x7f\xff\xff\xff"), "0 bytes where 2147483647 were announced"),
        (Answer::Endless, "longer than 16 MiB"),
    ] {
        let fake = Fake::answering(answer);
        let start = Instant::now();
        let error = plan(&fake, "--pod shop/web").unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(4), "{answer:?}: {:?}", start.elapsed());
        assert!(error.contains(expected) && error.contains(fake.socket()), "{answer:?}: {error}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}

#[test]
fn a_socket_that_nobody_listens_at() {
    let fake = Fake::answering(Answer::Close);
    let dead = fake.dead_socket();
    let words = ["egwtrace", "--runtime-endpoint", &dead, "--pod", "x"];
    let Ok(Parsed::Run(Invocation::Trace(args))) = parse(words) else { panic!() };
    let backends = Backends::of_this_node(args.runtime_endpoint.as_deref()).unwrap();
    let error = Plan::new(&args, &backends.all(), &SystemResolver).unwrap_err().to_string();
    assert!(
        error.contains(&dead)
            && error.contains("Connection refused")
            && error.contains("is the runtime running?"),
        "{error}"
    );
}

#[test]
fn five_hundred_pods_do_not_delay_the_start() {
    let pods = (0..500).map(|i| pod(&format!("shop/web-{i:03}"), i)).collect();
    let fake = Fake::with_pods(pods);
    let start = Instant::now();
    let found = plan(&fake, "--pod shop/web-321 --src 192.0.2.9 --dst 192.0.2.1").unwrap();
    let took = start.elapsed();
    eprintln!("one of 500 pods found in {took:?}");
    assert_eq!(found.targets[0].name, "shop/web-321");
    assert!(took < Duration::from_millis(500), "{took:?}");
    // What gives addresses their names comes beside the start.
    let runtime = Cri::new(fake.socket().as_ref(), Kind::Pods).unwrap();
    let start = Instant::now();
    let pods = runtime.list().unwrap();
    let addresses = runtime.addresses(&pods.iter().collect::<Vec<_>>());
    eprintln!("the addresses of 500 pods in {:?}", start.elapsed());
    assert_eq!(addresses.iter().flatten().flatten().count(), 1000);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
