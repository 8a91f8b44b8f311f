// SPDX-License-Identifier: MIT OR Apache-2.0
//! EgressGateway's objects, as its API server serves them: which policy selects a flow, what it gives it, and what is
//! said when something is wrong with them.
#![expect(clippy::unwrap_used, reason = "a test")]

use proptest::prelude::*;
use serde_json::{Value, from_value as read, json};
use tracer_user::cluster::Meta;
use tracer_user::cluster::egress::{
    ClusterInfo, Eip, Endpoint, EndpointSlice, Gateway, LabelSelector, Objects, Pod, Policy, PolicyRef,
    Tunnel, judge, lines, owners, set_names,
};
use tracer_user::node::IpPrefix;

fn policy(changes: &Value) -> Policy {
    let mut object = json!({
        "apiVersion": "egressgateway.spidernet.io/v1beta1",
        "kind": "EgressPolicy",
        "metadata": {
            "name": "test", "namespace": "default", "resourceVersion": "7", "generation": 3,
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]
        },
        "spec": {
            "egressGatewayName": "gw",
            "egressIP": {"allocatorPolicy": "default", "useNodeIP": false},
            "appliedTo": {"podSelector": {"matchLabels": {"app": "visitor"}}},
            "destSubnet": ["172.16.25.183/32"],
            "priority": 100
        },
        "status": {"eip": {"ipv4": "172.16.25.189"}, "node": "node2"}
    });
    merge(&mut object, changes);
    read(object).unwrap()
}

/// RFC 7396.
fn merge(into: &mut Value, changes: &Value) {
    let (Value::Object(into), Value::Object(changes)) = (&mut *into, changes) else {
        *into = changes.clone();
        return;
    };
    for (key, value) in changes {
        match value {
            Value::Null => drop(into.remove(key)),
            _ => merge(into.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

fn gateway() -> Gateway {
    read(json!({
        "metadata": {"name": "gw"},
        "spec": {"ippools": {"ipv4": ["172.16.25.180-172.16.25.189"]},
                 "nodeSelector": {"selector": {"matchLabels": {"egress": "true"}}}},
        "status": {"ipUsage": {"ipv4Free": 9, "ipv4Total": 10}, "nodeList": [
            {"name": "node3", "status": "Ready", "eips": null},
            {"name": "node2", "status": "Ready", "eips": [
                {"ipv4": "172.16.25.189", "policies": [{"name": "test", "namespace": "default"}]}]}]}
    }))
    .unwrap()
}

fn tunnel(node: &str, mark: &str, address: &str) -> Tunnel {
    read(json!({
        "metadata": {"name": node}, "spec": {},
        "status": {"mark": mark, "phase": "Ready", "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "tunnel": {"ipv4": address, "mac": "66:c5:d6:cc:29:54", "parent": {"name": "eth0"}}}
    }))
    .unwrap()
}

fn pod() -> Pod {
    Pod {
        namespace: "default".into(),
        name: "visitor".into(),
        labels: labels(&[("app", "visitor")]),
        namespace_labels: Some(labels(&[("kubernetes.io/metadata.name", "default"), ("team", "a")])),
        addresses: vec!["10.200.0.22".parse().unwrap()],
        node: Some("node1".into()),
        host_network: false,
    }
}

fn labels(of: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn objects(policies: Vec<Policy>) -> Objects {
    Objects {
        policies,
        gateways: Some(vec![gateway()]),
        tunnels: Some(vec![
            tunnel("node1", "0x2698ee37", "192.200.142.89"),
            tunnel("node2", "0x26b7b4e4", "192.200.201.40"),
        ]),
        cluster: Some(ClusterInfo::of(&json!({"status": {
            "clusterIP": {"ipv4": ["10.96.0.0/12"]}, "extraCidr": ["10.5.0.0/16"],
            "nodeIP": {"node1": {"ipv4": ["172.16.25.11"]}, "node2": {"ipv4": ["172.16.25.12"], "ipv6": null}},
            "podCIDR": {"default-ipv4-ippool": {"ipv4": ["10.200.0.0/16"]}}, "podCidrMode": "auto"}}))),
        slices: None,
        pods: vec![pod()],
    }
}

fn to(text: &str) -> IpPrefix {
    IpPrefix::host(text.parse().unwrap())
}

const THERE: &str = "172.16.25.183";

/// The header's line, and below it what it warns of.
fn said(objects: &Objects, pod: &Pod, destination: &str) -> String {
    let all = lines(objects, std::slice::from_ref(pod), &[to(destination)]);
    all.iter()
        .flat_map(|line| [line.text.clone()].into_iter().chain(line.troubles.clone()))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_policy_that_is_all_right() {
    let objects = objects(vec![policy(&json!({}))]);
    assert_eq!(
        said(&objects, &pod(), THERE),
        "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4"
    );
    let judged = judge(&objects, &pod(), Some(&to(THERE)));
    let assigned = &judged.selecting[0].assigned;
    assert_eq!(assigned.node, Some("node2"));
    assert_eq!(assigned.eip, Eip::Address("172.16.25.189".parse().unwrap()));
    assert_eq!(assigned.mark, Some(0x26b7_b4e4));
    assert!(!assigned.local && assigned.troubles.is_empty() && judged.nearest.is_none());
    // To anywhere, and on its own gateway.
    assert_eq!(judge(&objects, &pod(), None).selecting.len(), 1);
    let there = Pod { node: Some("node2".into()), ..pod() };
    assert_eq!(
        said(&objects, &there, THERE),
        "default/test: gateway node2 (this pod's own node: no tunnel, no mark), EIP 172.16.25.189"
    );
}

#[test]
fn what_a_policy_fails_on() {
    let only = "none: the only one does not select this flow\n";
    let cluster = |changes: Value| {
        let mut all = json!({"metadata": {"namespace": null, "name": "all"}});
        merge(&mut all, &changes);
        policy(&all)
    };
    let empty =
        "spec.destSubnet of EgressPolicy default/test is empty (all but the cluster's own networks), and ";
    for (policy, destination, expected) in [
        (policy(&json!({})), "172.16.25.184", "spec.destSubnet of EgressPolicy default/test has no 172.16.25.184".to_owned()),
        (policy(&json!({})), "fd00::1", "spec.destSubnet of EgressPolicy default/test has no IPv6 network, and so not fd00::1".into()),
        (
            policy(&json!({"spec": {"appliedTo": {"podSelector": {"matchLabels": {"app": "shop"}}}}})),
            THERE,
            "spec.appliedTo.podSelector of EgressPolicy default/test wants app=shop, the pod has app=visitor".into(),
        ),
        (
            policy(&json!({"spec": {"appliedTo": {"podSelector": null}}})),
            THERE,
            "spec.appliedTo.podSelector of EgressPolicy default/test is absent, and so it selects no pod".into(),
        ),
        (
            policy(&json!({"spec": {"appliedTo": {"podSelector": null, "podSubnet": ["10.200.0.0/16"]}}})),
            THERE,
            "EgressPolicy default/test has only spec.appliedTo.podSubnet, which EgressGateway does not evaluate".into(),
        ),
        (
            policy(&json!({"metadata": {"namespace": "shop"}})),
            THERE,
            "EgressPolicy shop/test is for pods of namespace shop only".into(),
        ),
        (
            policy(&json!({"spec": {"destSubnet": []}})),
            "10.97.0.1",
            format!("{empty}10.97.0.1 is of these: 10.96.0.0/12 in status.clusterIP of the EgressClusterInfo"),
        ),
        (
            policy(&json!({"spec": {"destSubnet": []}})),
            "172.16.25.12",
            format!("{empty}172.16.25.12 is of these: 172.16.25.12 in status.nodeIP of the EgressClusterInfo"),
        ),
        (
            cluster(json!({"spec": {"appliedTo": {"namespaceSelector": {"matchLabels": {"team": "b"}}}}})),
            THERE,
            "spec.appliedTo.namespaceSelector of EgressClusterPolicy all wants team=b, namespace default has team=a".into(),
        ),
    ] {
        assert_eq!(said(&objects(vec![policy]), &pod(), destination), format!("{only}{expected}"));
    }
}

#[test]
fn what_a_policy_selects() {
    for (changes, destination) in [
        (json!({"spec": {"destSubnet": null}}), "8.8.8.8"),
        (json!({"spec": {"destSubnet": ["0.0.0.0/0"]}}), "10.97.0.1"),
        (json!({"spec": {"appliedTo": {"podSelector": {"matchLabels": null}}}}), THERE),
        (json!({"metadata": {"namespace": null}}), THERE),
        (json!({"metadata": {"namespace": null}, "spec": {"appliedTo": {"namespaceSelector": {}}}}), THERE),
        // Only cluster policies have one.
        (json!({"spec": {"appliedTo": {"namespaceSelector": {"matchLabels": {"team": "b"}}}}}), THERE),
    ] {
        let objects = objects(vec![policy(&changes)]);
        assert_eq!(judge(&objects, &pod(), Some(&to(destination))).selecting.len(), 1, "{changes}");
    }
    let going = policy(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert!(judge(&objects(vec![going]), &pod(), None).selecting.is_empty());
}

#[test]
fn the_nearest_is_the_one_that_only_lacks_the_destination() {
    let all = objects(vec![
        policy(
            &json!({"metadata": {"name": "a"}, "spec": {"appliedTo": {"podSelector": {"matchLabels": {"app": "x"}}}}}),
        ),
        policy(&json!({"metadata": {"name": "b", "namespace": "shop"}})),
        policy(&json!({"metadata": {"name": "c"}, "spec": {"destSubnet": ["10.1.0.0/16"]}})),
        policy(&json!({"metadata": {"name": "d"}, "spec": {"destSubnet": ["10.1.0.0/16"],
            "appliedTo": {"podSelector": {"matchLabels": {"app": "x"}}}}})),
    ]);
    assert_eq!(
        said(&all, &pod(), THERE),
        "none of 4 selects this flow\nspec.destSubnet of EgressPolicy default/c has no 172.16.25.183"
    );
}

#[test]
fn what_is_not_known_is_not_denied() {
    let mut all = objects(vec![policy(&json!({"spec": {"destSubnet": []}}))]);
    all.cluster = None;
    assert_eq!(
        said(&all, &pod(), "8.8.8.8"),
        "not known whether one selects this flow\nspec.destSubnet of EgressPolicy default/test is empty (all but the \
         cluster's own networks), and those are not known (EgressClusterInfo)"
    );
    let unknown = Pod { namespace_labels: None, ..pod() };
    let by = |selector: Value| {
        objects(vec![policy(
            &json!({"metadata": {"namespace": null}, "spec": {"appliedTo": {"namespaceSelector": selector}}}),
        )])
    };
    let all = by(json!({"matchLabels": {"team": "b"}}));
    assert_eq!(
        said(&all, &unknown, THERE),
        "not known whether one selects this flow\nspec.appliedTo.namespaceSelector of EgressClusterPolicy test asks \
         for labels of namespace default, which are not known"
    );
    // Its name it has in any case.
    let all = by(json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}}));
    assert_eq!(judge(&all, &unknown, None).selecting.len(), 1);
    // Of a network, a part.
    let all = objects(vec![policy(&json!({}))]);
    let part = judge(&all, &pod(), Some(&IpPrefix::new("172.16.0.0".parse().unwrap(), 16).unwrap()));
    assert!(part.nearest.is_some_and(|near| near.is_unknown()));
}

#[test]
fn what_is_wrong_in_the_objects() {
    type Change = fn(&mut Objects);
    let cases: &[(Change, &str)] = &[
        (
            |o| o.gateways = Some(Vec::new()),
            "default/test: no gateway\nEgressGateway gw, which spec.egressGatewayName of EgressPolicy default/test \
             names, does not exist",
        ),
        (
            |o| o.gateways.as_mut().unwrap()[0].status.node_list.clear(),
            "default/test: no gateway\nEgressGateway gw of EgressPolicy default/test has no node: status.nodeList is empty",
        ),
        (
            |o| {
                let list = &mut o.gateways.as_mut().unwrap()[0].status.node_list;
                list[1].eips.clear();
                list[0].status = "HeartbeatTimeout".into();
                list[1].status = String::new();
            },
            "default/test: no gateway\nno node of EgressGateway gw of EgressPolicy default/test is Ready: node3 is \
             HeartbeatTimeout, node2 is in no phase yet",
        ),
        (
            |o| {
                o.gateways.as_mut().unwrap()[0].status.node_list[1].eips.clear();
                o.policies[0].spec.egress_ip.ipv4 = "172.16.25.7".into();
            },
            "default/test: no gateway\nspec.egressIP.ipv4 of EgressPolicy default/test, 172.16.25.7, is not in \
             spec.ippools.ipv4 of EgressGateway gw",
        ),
        (
            |o| o.gateways.as_mut().unwrap()[0].status.node_list[1].eips.clear(),
            "default/test: no gateway\nEgressGateway gw has given EgressPolicy default/test no node and no address: \
             status.nodeList does not list it",
        ),
        (
            |o| o.gateways.as_mut().unwrap()[0].status.node_list[1].eips[0].address.ipv4.clear(),
            "default/test: gateway node2, no EIP, mark 0x26b7b4e4\nEgressPolicy default/test has no egress IPv4 \
             address: status.eip.ipv4 is empty",
        ),
        (
            |o| {
                o.gateways.as_mut().unwrap()[0].status.node_list[1].eips[0].address.ipv4.clear();
                o.policies[0].spec.egress_ip.use_node_ip = true;
            },
            "default/test: gateway node2, EIP that node's own address, mark 0x26b7b4e4",
        ),
        (
            |o| o.gateways.as_mut().unwrap()[0].status.node_list[1].status = "NodeNotReady".into(),
            "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4\nnode2, the gateway of EgressPolicy \
             default/test, is NodeNotReady in status.nodeList of EgressGateway gw, and no other took over",
        ),
        (
            |o| o.policies[0].status.node = "node3".into(),
            "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4\nstatus.node of EgressPolicy default/test \
             says node3, status.nodeList of EgressGateway gw, which agents follow, says node2",
        ),
        (
            |o| drop(o.tunnels.as_mut().unwrap().pop()),
            "default/test: gateway node2, EIP 172.16.25.189\nthere is no EgressTunnel node2 for the gateway of \
             EgressPolicy default/test: agents make no rule for it",
        ),
        (
            |o| o.tunnels.as_mut().unwrap()[1].status.phase = "Failed".into(),
            "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4\nstatus.phase of EgressTunnel node2 is \
             Failed, not Ready",
        ),
        (
            |o| o.tunnels.as_mut().unwrap()[1].status.mark = "0xzz".into(),
            "default/test: gateway node2, EIP 172.16.25.189\nstatus.mark of EgressTunnel node2 is \"0xzz\": agents \
             make no rules",
        ),
        (
            |o| drop(o.tunnels.as_mut().unwrap().remove(0)),
            "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4\nthere is no EgressTunnel node1 for the \
             pod's node: it has no tunnel to the gateway",
        ),
        (
            |o| o.policies[0].spec.dest_subnet.push("10.1.2.3".into()),
            "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4\nspec.destSubnet[1] of EgressPolicy \
             default/test is \"10.1.2.3\", which is no ADDRESS/LENGTH: agents stop at it",
        ),
        (
            |o| o.slices = Some(vec![slice("10.200.0.7")]),
            "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4\nno EgressEndpointSlice of EgressPolicy \
             default/test has the pod's address 10.200.0.22 (it has 10.200.0.7): agents do not know the pod",
        ),
        (
            |o| o.slices = Some(vec![slice("10.200.0.22")]),
            "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4",
        ),
        // What may not be read is taken from the policy's own status, and no fault is made of it.
        (|o| (o.gateways, o.tunnels) = (None, None), "default/test: gateway node2, EIP 172.16.25.189"),
    ];
    for (change, expected) in cases {
        let mut all = objects(vec![policy(&json!({}))]);
        change(&mut all);
        assert_eq!(said(&all, &pod(), THERE), *expected);
    }
}

fn slice(address: &str) -> EndpointSlice {
    EndpointSlice {
        metadata: Meta {
            namespace: "default".into(),
            name: "test-x".into(),
            labels: [("spidernet.io/policy-name".to_owned(), "test".to_owned())].into(),
            ..Meta::default()
        },
        endpoints: vec![Endpoint {
            namespace: "default".into(),
            pod: "visitor".into(),
            ipv4: vec![address.into()],
            node: "node1".into(),
            ..Endpoint::default()
        }],
    }
}

#[test]
fn several_policies_are_all_named() {
    let mut all = objects(vec![
        policy(&json!({})),
        policy(&json!({"metadata": {"name": "other"}, "spec": {"priority": 1}})),
    ]);
    let eips = &mut all.gateways.as_mut().unwrap()[0].status.node_list;
    eips[0].eips.push(
        serde_json::from_value(
            json!({"ipv4": "172.16.25.180", "policies": [{"name": "other", "namespace": "default"}]}),
        )
        .unwrap(),
    );
    all.tunnels.as_mut().unwrap().push(tunnel("node3", "26000003", "192.200.0.3"));
    // status.node of the copy says node2.
    all.policies[1].status.node = "node3".into();
    assert_eq!(
        said(&all, &pod(), THERE),
        "default/other: gateway node3, EIP 172.16.25.180, mark 0x26000003\n\
         default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4\n\
         2 policies select this flow, and which of them acts is not defined: EgressGateway writes their rules in no \
         fixed order (spec.priority is not read)"
    );
}

#[test]
fn a_pod_of_the_nodes_network() {
    let host = Pod { host_network: true, ..pod() };
    assert_eq!(
        said(&objects(vec![policy(&json!({}))]), &host, THERE),
        "none: the pod has its node's network, and EgressGateway marks only what nodes forward"
    );
    assert!(lines(&objects(Vec::new()), &[pod()], &[]).is_empty());
}

#[test]
fn addresses_have_names() {
    let mut all = objects(vec![policy(&json!({}))]);
    let named = |all: &Objects| -> Vec<String> {
        owners(all).into_iter().map(|(address, name)| format!("{address} {name}")).collect()
    };
    assert_eq!(
        named(&all),
        [
            "172.16.25.189 gateway EIP of default/test",
            "192.200.142.89 egress tunnel of node1",
            "192.200.201.40 egress tunnel of node2"
        ]
    );
    let more = PolicyRef { name: "all\u{1b}".into(), namespace: String::new() };
    all.gateways.as_mut().unwrap()[0].status.node_list[1].eips[0].policies.push(more);
    assert_eq!(named(&all)[0], "172.16.25.189 gateway EIP of all\\x1b and 1 more");
}

#[test]
fn sets_are_called_as_the_agent_calls_them() {
    let of = |namespace: &str| PolicyRef { name: "test".into(), namespace: namespace.into() };
    assert_eq!(
        set_names(&of("default"), false),
        ["egress-src-v4-738bb014438bdbfe7", "egress-dst-v4-738bb014438bdbfe7"]
    );
    assert_eq!(set_names(&of("default"), true)[0], "egress-src-v6-738bb014438bdbfe7");
    assert_ne!(set_names(&of(""), false), set_names(&of("default"), false));
}

#[test]
fn older_versions_are_read_too() {
    let gateway: Gateway = read(json!({"metadata": {"name": "gw"}, "status": {"nodeList": [
        {"name": "node2", "status": "Ready", "epis": [{"ipv4": "1.2.3.4", "policies": [{"name": "test"}]}]}]}}))
    .unwrap();
    assert_eq!(gateway.status.node_list[0].eips[0].policies[0].name, "test");
    let info = ClusterInfo::of(&json!({"status": {"egressIgnoreCIDR": {
        "nodeIP": {"ipv4": ["172.16.25.11"]}, "podCIDR": {"ipv4": ["10.200.0.0/16"]}}}}));
    assert_eq!(
        info.networks,
        [
            ("status.egressIgnoreCIDR.nodeIP".to_owned(), "172.16.25.11".to_owned()),
            ("status.egressIgnoreCIDR.podCIDR".to_owned(), "10.200.0.0/16".to_owned())
        ]
    );
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z0-9./:-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(
                prop::sample::select(vec![
                    "metadata",
                    "spec",
                    "status",
                    "name",
                    "namespace",
                    "appliedTo",
                    "podSelector",
                    "matchLabels",
                    "matchExpressions",
                    "destSubnet",
                    "eip",
                    "ipv4",
                    "nodeList",
                    "eips",
                    "policies",
                    "mark",
                    "tunnel",
                ]),
                inner,
                0..5
            )
            .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    /// Whatever an API server answers, it is read or refused, and what is read is written down and read back.
    #[test]
    fn any_json(object in values()) {
        let mut all = objects(Vec::new());
        if let Ok(policy) = read::<Policy>(object.clone()) {
            all.policies.push(policy);
        }
        if let Ok(gateway) = read::<Gateway>(object.clone()) {
            all.gateways = Some(vec![gateway]);
        }
        if let Ok(tunnel) = read::<Tunnel>(object.clone()) {
            all.tunnels = Some(vec![tunnel]);
        }
        all.cluster = Some(ClusterInfo::of(&object));
        all.slices = read::<EndpointSlice>(object).ok().map(|slice| vec![slice]);
        let _ = said(&all, &pod(), THERE);
        let _ = owners(&all);
        let text = serde_json::to_string(&all).unwrap();
        let again = serde_json::from_str::<Objects>(&text).unwrap();
        prop_assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }

    /// An empty list of destinations is for exactly what no network of the cluster has.
    #[test]
    fn destinations(address in any::<u32>()) {
        let address = std::net::Ipv4Addr::from_bits(address);
        let all = objects(vec![policy(&json!({"spec": {"destSubnet": []}}))]);
        let selected = !judge(&all, &pod(), Some(&IpPrefix::host(address.into()))).selecting.is_empty();
        let inside = ["10.96.0.0/12", "10.5.0.0/16", "10.200.0.0/16", "172.16.25.11/32", "172.16.25.12/32"];
        let inside = inside.iter().any(|n| {
            let (net, len) = n.split_once('/').unwrap();
            IpPrefix::new(net.parse().unwrap(), len.parse().unwrap()).unwrap().contains(address.into())
        });
        prop_assert_eq!(selected, !inside);
    }

    /// A policy selects a pod exactly when its selector's labels are among the pod's.
    #[test]
    fn pods(wanted in prop::collection::btree_map("[ab]", "[xy]", 0..3), has in prop::collection::btree_map("[ab]", "[xy]", 0..3)) {
        let mut one = policy(&json!({}));
        one.spec.applied_to.pod_selector = Some(LabelSelector { match_labels: Some(wanted.clone()), match_expressions: None });
        let pod = Pod { labels: has.clone(), ..pod() };
        let all = objects(vec![one]);
        let selected = !judge(&all, &pod, Some(&to(THERE))).selecting.is_empty();
        prop_assert_eq!(selected, wanted.iter().all(|(k, v)| has.get(k) == Some(v)));
    }
}
