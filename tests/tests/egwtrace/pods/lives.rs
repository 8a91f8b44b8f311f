// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods that end and come again while they are traced; names; who takes what is delivered.

use anyhow::Result;
use tests::Spec;

use super::{Node, cri::PodSpec};

#[test]
#[ignore = "a node to look at by hand: EGWT_HOLD=seconds"]
fn hold() -> Result<()> {
    let Some(node) = Node::up(Spec::unique().with_ipv6())? else { return Ok(()) };
    let web = node.web("shop/web")?;
    let client = node.idle("shop/client-1")?;
    println!("web {:?} client {:?}", web.addresses, client.addresses);
    println!("node {} socket {}", node.lab.ns("node1").name(), node.containers.socket().display());
    let seconds = std::env::var("EGWT_HOLD").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    Ok(())
}

#[test]
fn both_ends_have_names_and_the_process_that_listens_too() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    let web = node.web("shop/web")?;
    let client = node.idle("shop/client")?;
    let mut trace = node.trace(&format!("--pod shop/client --dst {}:80", web.addresses[0]))?;
    // The pod at the other end is found beside the start.
    trace.until_says("shop/web (10.200.0.")?;
    node.get(&client, &web, false)?;
    trace.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN-ACK"))?;
    let traced = trace.stop()?.clean()?;
    let syn = traced.first("SYN");
    assert_eq!((syn.text("/packet/src_name"), syn.text("/packet/dst_name")), ("shop/client", "shop/web"));
    assert_eq!(syn.ending(), "delivered in shop/web");
    assert_eq!(
        (syn.text("/ending/process/name"), syn.value("/ending/process/port").as_u64()),
        ("httpd", Some(80))
    );
    let pid = syn.value("/ending/process/pid").as_u64().expect("a pid");
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
    assert_eq!(comm.trim(), "httpd");
    let answer = traced.first("SYN-ACK");
    assert_eq!(
        (answer.text("/packet/src_name"), answer.text("/packet/dst_name")),
        ("shop/web", "shop/client")
    );
    Ok(())
}

#[test]
fn a_pod_made_again_is_followed_at_its_new_address() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    let web = node.web("shop/web")?;
    let client = node.idle("shop/client")?;
    let line = format!("--pod shop/client --follow --dst {}:80", web.addresses[0]);
    let mut trace = node.trace(&line)?;
    node.get(&client, &web, false)?;
    trace.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN-ACK"))?;

    node.kubelet.delete(&client)?;
    trace.until_says("shop/client is gone: what takes its place will be followed")?;
    // Another pod that may well get the address that is free now: not ours.
    let stranger = node.idle("other/stranger")?;
    node.get(&stranger, &web, false)?;
    let again = node.idle("shop/client")?;
    assert_ne!(again.addresses, stranger.addresses);
    trace.until_says("shop/client is there: followed at 10.200.0.")?;
    node.get(&again, &web, false)?;
    let from = again.addresses[0].to_string();
    trace.until_journeys(|all| {
        all.iter()
            .any(|j| j.kind() == "SYN" && j.ends().starts_with(&from) && j.ending().starts_with("delivered"))
    })?;
    let traced = trace.stop()?.clean()?;
    // The sums name what is gone.
    assert!(!traced.summary.to_string().contains("netns:"), "{}", traced.summary);
    let syns: Vec<_> = traced.all("SYN").collect();
    assert_eq!(syns.len(), 2, "{}", traced.list());
    assert!(syns[1].hops()[0].starts_with("shop/client"), "{:#?}", syns[1].hops());
    Ok(())
}

#[test]
fn a_pod_that_ends_is_told_and_another_with_its_labels_is_followed() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    let labelled = PodSpec { labels: vec![("app", "client")], ..PodSpec::default() };
    let web = node.web("shop/web")?;
    let first = node.kubelet.run("shop/client-1", &labelled)?;
    let mut plain = node.trace(&format!("--pod shop/client-1 --dst {}:80", web.addresses[0]))?;
    let mut trace = node.trace(&format!("-l app=client --follow --dst {}:80", web.addresses[0]))?;
    let second = node.kubelet.run("shop/client-2", &labelled)?;
    trace.until_says("shop/client-2 is there: followed at ")?;
    node.get(&second, &web, false)?;
    node.kubelet.delete(&first)?;
    plain.until_says("network namespace shop/client-1 is gone")?;
    trace.until_says("shop/client-1 is gone")?;
    let traced = trace.stop()?.clean()?;
    assert!(traced.first("SYN").hops()[0].starts_with("shop/client-2"), "{}", traced.list());
    assert_eq!(plain.stop()?.clean()?.count("packets"), 0);
    Ok(())
}

#[test]
fn the_text_has_the_names() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    let web = node.web("shop/web")?;
    let client = node.idle("shop/client")?;
    let mut trace = node.trace_text(&format!("--pod shop/client --dst {}:80", web.addresses[0]))?;
    trace.until_says("runs here: its side is watched too")?;
    node.get(&client, &web, false)?;
    trace.until_says("          shop/client → shop/web")?;
    trace.until_says("delivered to shop/web, httpd (pid ")?;
    let traced = trace.stop()?;
    assert_eq!((traced.status.code(), traced.errors.as_str()), (Some(0), ""));
    Ok(())
}
