// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cluster against an API server of our own, which does everything that one can do wrong.
#![cfg(feature = "kube")]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use crate::api;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Answer, ApiServer, node, pod, service, slice};
use serde_json::json;
use tracer_user::cli::{ClusterResolver, Invocation, Parsed, Plan, parse};
use tracer_user::cluster::{Cluster, Known, Reach, State, Wish};
use tracer_user::target::{Backends, own_addresses};

const LONG: Duration = Duration::from_secs(20);

fn reach(kubeconfig: &Path) -> Result<Reach, String> {
    let wish = Wish { kubeconfig: Some(kubeconfig.into()), ..Wish::default() };
    Reach::find(&wish).map_err(|error| error.to_string())
}

fn cluster(kubeconfig: &Path) -> Cluster {
    reach(kubeconfig).unwrap().cluster().unwrap().clone()
}

/// The plan of a command line, or the error.
fn plan(server: &ApiServer, line: &str) -> Result<Plan, String> {
    plan_with(&server.kubeconfig("token: secret-token"), line)
}

fn plan_with(kubeconfig: &Path, line: &str) -> Result<Plan, String> {
    let words =
        ["egwtrace", "--kubeconfig", kubeconfig.to_str().unwrap(), "--runtime-endpoint", "/nonexistent.sock"];
    let words = words.into_iter().chain(line.split_whitespace());
    let args = match parse(words) {
        Ok(Parsed::Run(Invocation::Trace(args))) => args,
        Ok(_) => panic!("{line}"),
        Err(error) => return Err(error.to_string()),
    };
    let reach = Reach::find(&args.wish()).map_err(|e| e.to_string())?;
    let nodes = tracer_user::cli::nodes(&args).map_err(|e| e.to_string())?;
    let backends =
        Backends::of_this_node(None).map_err(|e| e.to_string())?.with_cluster(reach.cluster(), &nodes);
    let mut plan = Plan::new(&args, &backends.all(), &ClusterResolver(&reach)).map_err(|e| e.to_string())?;
    plan.reach = reach;
    Ok(plan)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < end, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn named(known: &Known, address: &str) -> Option<String> {
    known.names.owner(ip(address))
}

fn shop() -> ApiServer {
    let server = ApiServer::start();
    server.put("nodes", node("node2", "192.0.2.12"));
    server.put(
        "services",
        service(
            "shop",
            "web",
            "10.96.0.9",
            json!([{ "name": "http", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" }]),
        ),
    );
    server.put("endpointslices", slice("shop", "web", ("http", 8080), &[("web-1", "10.0.1.5")]));
    server.put("pods", pod("shop", "web-1", "10.0.1.5", ("node2", "192.0.2.12")));
    server
}

#[test]
fn names_come_and_change_while_nobody_waits() {
    let server = shop();
    let cluster = cluster(&server.kubeconfig("token: t"));
    cluster.watch();
    let known = cluster.known();
    until("a service's name", || named(known, "10.96.0.9").as_deref() == Some("service shop/web"));
    until("a node's name", || named(known, "192.0.2.12").as_deref() == Some("node node2"));
    let begun = Instant::now();
    let first = named(known, "10.0.1.5");
    assert!(begun.elapsed() < Duration::from_secs(1), "a look-up must not wait");
    assert_eq!(first, None);
    until("a pod's name", || named(known, "10.0.1.5").as_deref() == Some("pod shop/web-1 on node2"));
    assert_eq!(server.count("status.podIP%3D10.0.1.5"), 1, "asked once");
    assert_eq!(server.count("/pods?"), 1, "nobody else");
    assert_eq!(server.count("resourceVersion=0"), 1, "from the server's memory");
    // Somebody else has the address of the service now.
    server.delete("services", "shop", "web");
    server.put("services", service("blog", "new", "10.96.0.9", json!([])));
    until("the new service's name", || named(known, "10.96.0.9").as_deref() == Some("service blog/new"));
    for (_, state) in known.states() {
        assert_eq!(state, State::Known);
    }
}

#[test]
fn streams_that_end_and_changes_that_are_forgotten() {
    let server = shop();
    let cluster = cluster(&server.kubeconfig("token: t"));
    cluster.watch();
    let known = cluster.known();
    until("a stream", || server.count("/services?watch=1") == 1 && named(known, "10.96.0.9").is_some());
    server.close_streams();
    server.put("services", service("a", "during", "10.96.0.10", json!([])));
    until("a change while the stream was closed", || named(known, "10.96.0.10").is_some());
    assert_eq!(server.count("/services?limit"), 1, "no new list: the changes were all told");
    // 410: a new list, in which one is gone.
    server.close_streams();
    server.delete("services", "shop", "web");
    server.forget();
    until("what was deleted meanwhile is gone", || named(known, "10.96.0.9").is_none());
    assert_eq!(server.count("/services?limit"), 2);
    assert_eq!(known.services.state(), State::Known);
}

#[test]
fn lists_in_pages() {
    let server = ApiServer::start();
    for number in 0..1203 {
        let address = format!("10.96.{}.{}", number / 250, number % 250);
        server.put("services", service("shop", &format!("s{number}"), &address, json!([])));
    }
    let cluster = cluster(&server.kubeconfig("token: t"));
    cluster.watch();
    until("all of them", || cluster.known().services.all().len() == 1203);
    assert_eq!(server.count("/services?limit=500"), 3);
    until("the last one's name", || {
        named(cluster.known(), "10.96.4.202").as_deref() == Some("service shop/s1202")
    });
}

#[test]
fn one_kind_that_is_refused_takes_nothing_else_away() {
    let server = shop();
    server.answer(
        "services",
        Answer::Status(403, "services is forbidden: User \"system:node:x\" cannot list\u{1b}[2J"),
    );
    let cluster = cluster(&server.kubeconfig("token: t"));
    cluster.watch();
    let known = cluster.known();
    until("the node's name", || named(known, "192.0.2.12").is_some());
    until("the refusal", || matches!(known.services.state(), State::Failed(_)));
    let State::Failed(why) = known.services.state() else { panic!() };
    assert!(why.starts_with("403: services is forbidden") && why.contains("\\x1b[2J"), "{why}");
    // Granted later.
    server.answer_again("services");
    until("the service's name", || named(known, "10.96.0.9").is_some());
}

#[test]
fn answers_that_are_none() {
    for (answer, says) in [
        (Answer::Body("{\"items\": [{\"metadata\": 7}]}"), "the answer cannot be read ("),
        (Answer::Body("<html>"), "the answer cannot be read (expected value"),
        (Answer::Body(""), "the answer cannot be read (EOF"),
        (Answer::Endless(80 << 20), "the answer cannot be read (longer than 64 MiB)"),
        (Answer::Stream("{\"type\": \"ADDED\", \"object\": []}\n"), "the answer cannot be read ("),
        (Answer::Stream("nonsense\n"), "the answer cannot be read (expected"),
        (Answer::Status(500, "etcd is gone"), "500: etcd is gone"),
        (Answer::Status(429, ""), "429"),
    ] {
        let server = shop();
        server.answer("services", answer.clone());
        let cluster = cluster(&server.kubeconfig("token: t"));
        cluster.watch();
        let known = cluster.known();
        until(says, || matches!(known.services.state(), State::Failed(_)));
        let State::Failed(why) = known.services.state() else { panic!() };
        assert!(why.starts_with(says), "{answer:?}: {why}");
        assert!(server.count("/services?limit") < 4, "not asked without a pause");
        server.answer_again("services");
        until("it recovers", || known.services.state() == State::Known);
    }
}

#[test]
fn a_slow_server_and_none_at_all() {
    let server = shop();
    server.world.lock().unwrap().delay = Duration::from_secs(40);
    let begun = Instant::now();
    let error = plan(&server, "--pod shop/web-1 --dst 192.0.2.1").unwrap_err();
    // A few times five seconds, whatever else the machine does.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(
        error.contains("cannot say where it runs: no answer within 5 s; accepted: --src with its address"),
        "{error}"
    );
    let nobody = server.kubeconfig_to("http://127.0.0.1:1", "", "token: t");
    let error = plan_with(&nobody, "--dst svc/web:80").unwrap_err();
    assert!(
        error.starts_with("--dst \"svc/web:80\": the API server at http://127.0.0.1:1 cannot say: cannot connect: Connection refused"),
        "{error}"
    );
    // What needs no server does not wait for one.
    let begun = Instant::now();
    plan_with(&nobody, "--dst 192.0.2.1").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_pod_of_another_node_is_followed_by_its_addresses() {
    let server = shop();
    server.put("pods", pod("blog", "web-1", "10.0.1.7", ("node3", "192.0.2.13")));
    server.put("pods", pod("shop", "checkout-7d9f-x", "10.0.1.8", ("node3", "192.0.2.13")));
    let mut ended = pod("shop", "job-1", "10.0.1.9", ("node3", "192.0.2.13"));
    ended["status"]["phase"] = json!("Succeeded");
    server.put("pods", ended);
    let mut host = pod("kube-system", "proxy", "192.0.2.13", ("node3", "192.0.2.13"));
    host["spec"]["hostNetwork"] = json!(true);
    server.put("pods", host);

    let found = plan(&server, "--pod shop/web-1 --dst 192.0.2.1").unwrap();
    assert_eq!(found.filter.to_string(), "10.0.1.5 → 192.0.2.1");
    assert_eq!(found.notices, ["shop/web-1 runs on node node2: followed here by its address"]);
    let found = plan(&server, "--pod checkout- --dst 192.0.2.1").unwrap();
    assert_eq!(found.filter.to_string(), "10.0.1.8 → 192.0.2.1");
    assert!(
        found.notices[1].contains("is the only pod of the cluster whose name begins with \"checkout-\""),
        "{:?}",
        found.notices
    );
    let found = plan(&server, "-l app=web --dst 192.0.2.1").unwrap();
    assert_eq!(found.filter.to_string(), "{10.0.1.7, 10.0.1.5} → 192.0.2.1");
    let found = plan(&server, "-l app=web -n shop --dst 192.0.2.1").unwrap();
    assert_eq!(found.filter.to_string(), "10.0.1.5 → 192.0.2.1");
    let found = plan(&server, "--pod proxy --dst 192.0.2.1").unwrap();
    assert!(found.notices[1].contains("what others on its node send"), "{:?}", found.notices);
    for (line, says) in [
        ("--pod web-1", "--pod \"web-1\" fits 2 pods: blog/web-1, shop/web-1; give one of them"),
        ("--pod web", "--pod \"web\" fits 2 pods: blog/web-1, shop/web-1; give one of them"),
        ("--pod shop/job-1", "pod \"shop/job-1\" is not running: it has ended"),
        // What is here is listed, where that is few: namespaces of others too.
        ("--pod nobody", "no pod \"nobody\" here"),
        ("-l app=nothing", "no pod with these labels here"),
    ] {
        let error = plan(&server, line).unwrap_err();
        assert!(error.starts_with(says), "{line}: {error}");
    }
    let error = plan(&server, "--pod nobody").unwrap_err();
    assert!(error.contains(&format!("the API server at {}", server.url())), "{error}");
}

#[test]
fn a_pod_of_this_node_that_no_runtime_knows() {
    let here = own_addresses(&[tracer_user::node::Netns::current().unwrap()]);
    let Some(own) = here.iter().find(|a| a.is_ipv4()) else {
        println!("SKIP no address here");
        return;
    };
    let server = shop();
    server.put("pods", pod("shop", "lost", "10.0.1.30", ("node1", &own.to_string())));
    let found = plan(&server, "--pod shop/lost --dst 192.0.2.1").unwrap();
    assert!(
        found.notices[0]
            .starts_with("shop/lost runs on this node (node1), but no container runtime here knows it"),
        "{:?}",
        found.notices
    );
}

#[test]
fn a_pod_that_is_followed_is_not_lost_with_the_server() {
    use tracer_user::target::{Backend as _, ClusterPods, PodName, Wanted};
    let server = shop();
    server.put("pods", pod("shop", "web-2", "10.0.1.6", ("node1", "192.0.2.11")));
    let mut ending = pod("shop", "web-3", "10.0.1.7", ("node2", "192.0.2.12"));
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    server.put("pods", ending);
    let here = vec![ip("192.0.2.11")];
    let pods = ClusterPods::new(cluster(&server.kubeconfig("token: t")), here).following();
    let wanted = Wanted::Pod(PodName { namespace: Some("shop".into()), name: "web-".into() });
    let names = || -> Vec<String> {
        pods.list_for(&wanted).unwrap().iter().map(|known| known.name.clone()).collect()
    };
    // Without the one of this node, which its runtime knows, and the one that ends.
    assert_eq!(names(), ["web-1"]);
    let asked = server.count("/pods");
    assert_eq!(
        (names(), server.count("/pods")),
        (vec!["web-1".to_owned()], asked),
        "not asked again at once"
    );
    server.answer("pods", Answer::Status(503, ""));
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(names(), ["web-1"]);
    assert!(server.count("/pods") > asked);
    server.answer_again("pods");
    server.delete("pods", "shop", "web-1");
    until("its end", || names().is_empty());
}

#[test]
fn services_as_destinations() {
    let server = shop();
    server.put("services", service("blog", "web", "10.96.0.20", json!([])));
    let mut external = service("shop", "db", "", json!([{ "name": "sql", "port": 5432 }]));
    external["spec"]["type"] = json!("ExternalName");
    external["spec"]["externalName"] = json!("localhost");
    server.put("services", external);
    let mut headless = service("shop", "peers", "None", json!([{ "name": "http", "port": 80 }]));
    headless["spec"]["clusterIPs"] = json!(["None"]);
    server.put("services", headless);

    for (line, flow) in [
        ("--dst svc/shop/web:80", "any → 10.96.0.9:80"),
        ("--dst svc/web.shop:http", "any → 10.96.0.9:80 tcp"),
        ("--dst svc/web:dns -n shop", "any → 10.96.0.9:53 udp"),
        ("--dst svc/web.shop.svc", "any → 10.96.0.9"),
        ("--dst svc/shop/web --dport 80", "any → 10.96.0.9:80"),
        ("--dst pod/shop/web-1:8080", "any → 10.0.1.5:8080"),
        ("--src pod/shop/web-1 --dst svc/shop/web:80", "10.0.1.5 → 10.96.0.9:80"),
        ("--pod shop/web-1 --dst svc/shop/web:80", "10.0.1.5 → 10.96.0.9:80"),
    ] {
        assert_eq!(plan(&server, line).map(|plan| plan.filter.to_string()).as_deref(), Ok(flow), "{line}");
    }
    let found = plan(&server, "--dst svc/shop/db:sql").unwrap();
    assert!(
        found.filter.to_string().contains("127.0.0.1") && found.filter.dport == Some(5432),
        "{}",
        found.filter
    );
    assert!(found.notices[0].contains("service shop/db is another name for localhost"));
    let found = plan(&server, "--dst svc/shop/web:80").unwrap();
    assert_eq!(found.notices, ["service shop/web: 1 ready endpoint: shop/web-1 10.0.1.5:8080 on node2"]);
    for (line, says) in [
        (
            "--dst svc/web:80",
            "--dst \"svc/web:80\": fits 2 services: blog/web, shop/web; give one of them with its namespace",
        ),
        ("--dst svc/shop/nothing", "--dst \"svc/shop/nothing\": no service \"shop/nothing\" in the cluster"),
        (
            "--dst svc/shop/web:https",
            "--dst \"svc/shop/web:https\": service shop/web has no port \"https\" (it has 80 http, 53 UDP dns)",
        ),
        (
            "--dst svc/shop/peers",
            "--dst \"svc/shop/peers\": service shop/peers is headless and has no ready endpoint",
        ),
        (
            "--dst svc/shop/web:dns --proto tcp",
            "--proto tcp and --dst \"svc/shop/web:dns\" cannot both match: that port is udp",
        ),
        (
            "--dst svc/shop/web:http --dport 80",
            "--dst \"svc/shop/web:http\" and --dport \"80\" cannot both match: the port is said twice",
        ),
        ("--dst svc/shop/web -n blog", "--dst \"svc/shop/web\" and --namespace \"blog\" cannot both match"),
        ("--src svc/shop/web", "--src \"svc/shop/web\": a service sends nothing by itself"),
        (
            "--dst svc/shop/web:http --proto icmp",
            "--proto icmp and --dst \"svc/shop/web:http\" cannot both match",
        ),
    ] {
        let error = plan(&server, line).unwrap_err();
        assert!(error.starts_with(says) && !error.contains('\n'), "{line}: {error}");
    }
    server.answer("endpointslices", Answer::Status(403, ""));
    let found = plan(&server, "--dst svc/shop/web:80").unwrap();
    assert_eq!(found.notices, ["endpoints of service shop/web are not known: 403"]);
}

#[test]
fn a_token_that_is_renewed() {
    let server = shop();
    let token = server.dir().join("token");
    std::fs::write(&token, "first").unwrap();
    server.world.lock().unwrap().token = Some("first".into());
    let cluster = cluster(&server.kubeconfig(&format!("tokenFile: {}", token.display())));
    cluster.watch();
    let known = cluster.known();
    until("a name", || named(known, "10.96.0.9").is_some());
    std::thread::sleep(Duration::from_secs(6));
    std::fs::write(&token, "second").unwrap();
    server.world.lock().unwrap().token = Some("second".into());
    server.put("services", service("a", "later", "10.96.0.77", json!([])));
    server.close_streams();
    until("a name with the new token", || named(known, "10.96.0.77").is_some());
    assert_eq!(known.services.state(), State::Known);
}

#[test]
fn a_program_that_gives_credentials_out() {
    let server = shop();
    server.world.lock().unwrap().token = Some("from-exec".into());
    let script = server.dir().join("plugin");
    let exec = |body: &str, interactive: &str| {
        std::fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let user = format!(
            "exec: {{ apiVersion: client.authentication.k8s.io/v1, command: ./plugin, args: [get], \
             env: [{{ name: WHO, value: exec }}], interactiveMode: {interactive} }}"
        );
        plan_with(&server.kubeconfig(&user), "--dst svc/shop/web:80").map(|plan| plan.filter.to_string())
    };
    let good = r#"test "$1" = get && case "$KUBERNETES_EXEC_INFO" in *ExecCredential*) echo '{"status": {"token": "from-'$WHO'"}}';; esac"#;
    assert_eq!(exec(good, "IfAvailable").as_deref(), Ok("any → 10.96.0.9:80"));
    for (body, interactive, says) in [
        (
            "echo secret-of-the-plugin; echo secret-of-the-plugin >&2; exit 3",
            "Never",
            "failed (exit status: 3)",
        ),
        ("echo secret-of-the-plugin", "Never", "printed something that is no ExecCredential"),
        ("echo '{\"status\": {}}'", "Never", "gave neither a token nor a certificate"),
        (good, "Always", "wants to ask questions, and there is nobody to answer"),
    ] {
        let error = exec(body, interactive).unwrap_err();
        assert!(error.contains(says), "{body}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    // One that hangs: whoever waits is told, and it does not stay.
    let pid = server.dir().join("pid");
    let begun = Instant::now();
    let error = exec(&format!("echo $$ > {}; exec sleep 600", pid.display()), "Never").unwrap_err();
    assert!(error.contains("no answer within 8 s") && begun.elapsed() < Duration::from_secs(60), "{error}");
    let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    until("the plugin is ended", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn kubeconfigs_of_all_kinds() {
    let server = shop();
    let file = server.dir().join("other");
    for (content, says) in [
        (&b""[..], "it is empty"),
        (b"\xff\xfea", "it is UTF-16"),
        (b"\x00\x01\x02", "not a kubeconfig"),
        (b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\nusers: [*d,*d,*d]", "not a kubeconfig"),
        (b"token: [secret-token", "not a kubeconfig"),
        (b"users: secret-token\nclusters: 7", "not a kubeconfig"),
        (b"apiVersion: v1\nkind: Config\n", "no current-context; accepted: --context NAME"),
        (b"current-context: x\n", "its context \"x\" is not in it"),
        (b"current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\n", "its cluster \"c\" is not in it"),
        (b"current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {}}]\n", "its cluster has no server"),
        (b"current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'http://a b'}}]\n", "its cluster's server is no URL"),
        (b"current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'ftp://a'}}]\n", "its cluster's server is no URL that begins with https://"),
        (b"current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: a}}]\nusers: [{name: u, user: {auth-provider: {name: gcp}}}]\n", "auth-provider (gcp)"),
        (b"current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'https://a', certificate-authority-data: 'secret-token!'}}]\n", "its certificate-authority is not base64"),
        (b"current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'https://a', certificate-authority: /nowhere/ca}}]\n", "its certificate-authority /nowhere/ca: No such file"),
    ] {
        std::fs::write(&file, content).unwrap();
        let error = reach(&file).unwrap_err();
        assert!(error.contains(says) && error.starts_with(file.to_str().unwrap()), "{error}");
        assert!(!error.contains("secret") && !error.contains('\n'), "{error}");
    }
    for odd in ["/nonexistent", "/dev/null", "/"] {
        let error = reach(Path::new(odd)).unwrap_err();
        assert!(
            error.starts_with(&format!("{odd}: ")) && error.contains("; accepted: a kubeconfig file"),
            "{error}"
        );
    }
    let kubeconfig = server.kubeconfig("token: t");
    let wish = Wish { kubeconfig: Some(kubeconfig), context: Some("nope".into()), none: false };
    let error = Reach::find(&wish).unwrap_err().to_string();
    assert!(error.starts_with("no context \"nope\" in ") && error.ends_with(" (it has lab)"), "{error}");
}

/// A server with TLS, which wants a certificate of its clients. Keys and certificates are beside the server's source
/// and good for nothing else.
fn with_tls() -> ApiServer {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api").join(name);
    let certificate = |name: &str| CertificateDer::from_pem_file(file(name)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![certificate("server.pem")],
            PrivateKeyDer::from_pem_file(file("server.key")).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = ApiServer::on(
        listener,
        Arc::new(move |stream| {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            Box::new(rustls::StreamOwned::new(connection, stream))
        }),
    );
    server.put("services", service("shop", "web", "10.96.0.9", json!([])));
    server
}

#[test]
fn tls_and_certificates_of_clients() {
    let server = with_tls();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api");
    let file = |name: &str| dir.join(name).display().to_string();
    let url = format!("https://127.0.0.1:{}", server.port());
    let (ca, user) = (
        format!("certificate-authority: {}", file("ca.pem")),
        format!("client-certificate: {}, client-key: {}", file("client.pem"), file("client.key")),
    );
    let ask = |url: &str, ca: &str, user: &str| {
        plan_with(&server.kubeconfig_to(url, ca, user), "--dst svc/shop/web")
            .map(|plan| plan.filter.to_string())
    };
    assert_eq!(ask(&url, &ca, &user).as_deref(), Ok("any → 10.96.0.9"));
    let other_name = format!("{ca}, tls-server-name: api.test");
    assert_eq!(ask(&url, &other_name, &user).as_deref(), Ok("any → 10.96.0.9"));
    assert_eq!(ask(&url, "insecure-skip-tls-verify: true", &user).as_deref(), Ok("any → 10.96.0.9"));
    let own = format!("certificate-authority: {}", file("client.pem"));
    for (ca, user, says) in [
        (own.as_str(), user.as_str(), "cannot connect: invalid peer certificate: "),
        (&format!("{ca}, tls-server-name: other.test"), &user, "cannot connect: invalid peer certificate: "),
        (&ca, "token: t", "cannot connect: "),
        (
            &ca,
            &format!("client-certificate: {}, client-key: {}", file("client.pem"), file("ca.pem")),
            "its client-key is no key in PEM",
        ),
        (
            &ca,
            &format!("client-certificate: {}, client-key: {}", file("client.pem"), file("server.key")),
            "do not go together",
        ),
        (&ca, &format!("client-certificate: {}", file("client.pem")), "its client-key is missing"),
    ] {
        let error = ask(&url, ca, user).unwrap_err();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn credentials_are_nowhere_to_be_seen() {
    let server = shop();
    let kubeconfig = server.kubeconfig("token: secret-token");
    let reach = reach(&kubeconfig).unwrap();
    let shown = format!("{reach:?}");
    assert!(!shown.contains("secret-token"), "{shown}");
    server.answer("services", Answer::Status(403, "no"));
    let error = plan(&server, "--dst svc/web:80").unwrap_err();
    assert!(!error.contains("secret-token"), "{error}");
    let password = server.kubeconfig_to("http://me:secret-token@127.0.0.1:1", "", "token: t");
    let error = plan_with(&password, "--dst svc/web:80").unwrap_err();
    assert!(!error.contains("secret-token"), "{error}");
}
