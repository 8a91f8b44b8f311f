// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods by name, labels and container; those that cannot be followed.

use anyhow::Result;
use tests::Spec;

use super::{Node, cri::PodSpec};

#[test]
fn a_pods_packets_to_another_pod_over_both_families() -> Result<()> {
    let Some(node) = Node::up(Spec::unique().with_ipv6())? else { return Ok(()) };
    let web = node.web("shop/web-7d9f")?;
    let client = node.idle("shop/client")?;
    for (address, ipv6) in [(web.addresses[0], false), (web.addresses[1], true)] {
        assert_eq!(address.is_ipv6(), ipv6, "{:?}", web.addresses);
        let mut trace = node.trace(&format!("--pod shop/client --dst {address} --dport 80"))?;
        assert!(node.get(&client, &web, ipv6)?.contains("hello"));
        trace.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN-ACK"))?;
        let traced = trace.stop()?.clean()?;
        let syn = traced.first("SYN");
        assert!(syn.hops()[0].starts_with("shop/client"), "{:#?}", syn.hops());
        assert!(syn.hops().iter().any(|hop| hop.starts_with("node1 veth")), "{:#?}", syn.hops());
        assert_eq!(traced.first("SYN-ACK").ending(), "delivered in shop/client");
    }
    // The other end, by the beginning of its name: the pod's both addresses.
    let mut trace = node.trace(&format!("--pod shop/web- --dport 80 --src {}", client.addresses[0]))?;
    node.get(&client, &web, false)?;
    trace.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN"))?;
    let traced = trace.stop()?.clean()?;
    assert_eq!(traced.first("SYN").ending(), "delivered in shop/web-7d9f");
    assert!(
        traced
            .notices
            .iter()
            .any(|n| n.to_string().contains("shop/web-7d9f is the only pod here whose name begins")),
        "{:?}",
        traced.notices
    );
    Ok(())
}

#[test]
fn pods_of_one_name_several_pods_and_containers() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    let labels = |value| vec![("app", value)];
    let front = PodSpec { labels: labels("front"), ..PodSpec::default() };
    let shop = node.kubelet.run("shop/web", &front)?;
    let blog = node.kubelet.run("blog/web", &front)?;
    let other = node.web("shop/other")?;

    let refused = node.refused("--pod web")?;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        refused.errors.contains("--pod \"web\" fits 2 pods: blog/web, shop/web; give one of them"),
        "{}",
        refused.errors
    );
    let refused = node.refused("--container app")?;
    assert!(refused.errors.contains("fits 3 containers: "), "{}", refused.errors);
    let refused = node.refused("--pod nowhere/web")?;
    assert!(
        refused.errors.contains("(did you mean \"") && refused.errors.contains("shop/web"),
        "{}",
        refused.errors
    );

    // In one namespace; both of them by their label; by name; one of them as a container.
    let (a, b) = (shop.addresses[0].to_string(), blog.addresses[0].to_string());
    for (line, followed) in [
        ("--pod web -n blog".to_owned(), vec![&b]),
        ("-l app=front".to_owned(), vec![&a, &b]),
        ("-l app=front -n shop".to_owned(), vec![&a]),
        ("--pod shop/web --pod blog/web".to_owned(), vec![&a, &b]),
        (format!("--container {}", &shop.container[..12]), vec![&a]),
        ("--container blog/web/app".to_owned(), vec![&b]),
    ] {
        let mut trace = node.trace(&format!("{line} --dst {} --dport 80", other.addresses[0]))?;
        node.get(&shop, &other, false)?;
        node.get(&blog, &other, false)?;
        trace.until_journeys(|all| {
            let begun =
                |from: &String| all.iter().any(|j| j.kind() == "SYN" && j.ends().starts_with(from.as_str()));
            followed.iter().all(|from| begun(from))
        })?;
        let traced = trace.stop()?.clean()?;
        let wanted = followed.len();
        assert_eq!(traced.all("SYN").count(), wanted, "{line}:\n{}", traced.list());
    }
    Ok(())
}

#[test]
fn pods_that_cannot_be_followed_are_told_in_clear_words() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    let host =
        node.kubelet.run("kube-system/proxy", &PodSpec { host_network: true, ..PodSpec::default() })?;
    let old = node.idle("shop/old")?;
    let web = node.web("shop/web")?;

    let refused = node.refused("--pod proxy")?;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        refused.errors.contains(
            "\"kube-system/proxy\" is on the host's network: it has no network namespace of its own"
        ),
        "{}",
        refused.errors
    );
    // Told apart by its destination, it is followed by the node's addresses.
    let mut trace = node.trace(&format!("--pod proxy --dst {}:80", web.addresses[0]))?;
    node.get(&host, &web, false)?;
    trace.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN-ACK"))?;
    let traced = trace.stop()?.clean()?;
    assert!(traced.first("SYN").ends().starts_with("10.200.0.1:"), "{}", traced.list());
    assert!(traced.notices.iter().any(|n| n.to_string().contains("is on the host's network")));

    node.kubelet.stop(&old)?;
    let refused = node.refused("--pod shop/old")?;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        refused.errors.contains("pod \"shop/old\" is not running: its sandbox is not ready"),
        "{}",
        refused.errors
    );
    Ok(())
}

#[test]
fn a_container_that_kubernetes_does_not_know() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    node.containers.run_plain("c0ffee0001", "db")?;
    for name in ["db", "default/db", "c0ffee"] {
        // Nothing gave it an address: what passes its devices is followed all the same.
        let traced =
            node.refused(&format!("--container {name} --src 192.0.2.9 --dst 192.0.2.1 --duration 100ms"))?;
        assert_eq!((traced.status.code(), traced.errors.as_str()), (Some(0), ""), "{name}");
        assert!(
            traced.lines.iter().any(|line| line.starts_with("container default/db ")),
            "{:#?}",
            traced.lines
        );
    }
    let refused = node.refused("--container db")?;
    assert!(refused.errors.contains("\"default/db\" has no address yet"), "{}", refused.errors);
    let refused = node.refused("--container d")?;
    assert!(refused.errors.contains("no container \"d\" here"), "{}", refused.errors);
    Ok(())
}
