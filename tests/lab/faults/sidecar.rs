// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sidecar's redirection.

use anyhow::Result;

use super::{Expect, Fault, MESH, PASSES, SERVER, Seen, services::serve_pod2};
use crate::{Lab, causes::says, probe::Probe, topology::Family};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "osm-ok",
        about: "control: the sidecar's redirection works",
        probe: Probe::MeshOut,
        expect: Expect::SeenAs(Seen::Mesh),
        expect6: None,
        says: says(MESH, &[]).by_hand(PASSES),
        apply: |lab, _| has_mesh(lab),
    },
    Fault {
        name: "osm-envoy-down",
        about: "traffic is redirected, but the proxy does not listen on 15001",
        probe: Probe::MeshOut,
        expect: Expect::Refused,
        expect6: None,
        says: says(MESH, &["redirected-to-nobody"]).by_hand(SERVER),
        apply: |lab, _| lab.stop("envoy-out"),
    },
    Fault {
        name: "osm-no-rules",
        about: "the init container failed: no rules, the proxy is bypassed",
        probe: Probe::MeshOut,
        expect: Expect::SeenAs(Seen::Mesh),
        expect6: None,
        says: says(MESH, &["sidecar-bypassed"]).by_hand(PASSES),
        apply: |lab, _| lab.iptables("mesh", Family::V4, "-t nat -F").map(drop),
    },
    Fault {
        name: "osm-uid",
        about: "the proxy runs as another user than the rules let pass: it is redirected to itself",
        probe: Probe::MeshOut,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(MESH, &["redirect-loop"]).by_hand(SERVER),
        apply: |lab, _| {
            lab.stop("envoy-out")?;
            lab.serve("envoy-out", "mesh", "proxy-out --listen 0.0.0.0:15001 --uid 1600")
        },
    },
    Fault {
        name: "osm-port-excl",
        about: "a port that should not go through the proxy does, and the proxy does not listen",
        probe: Probe::MeshPort,
        expect: Expect::Refused,
        expect6: None,
        says: says(MESH, &["redirected-to-nobody"]).by_hand(SERVER),
        apply: |lab, _| {
            lab.stop("envoy-out")?;
            serve_pod2(lab, "redis", "http", 6379, "redis")
        },
    },
];

fn has_mesh(lab: &Lab) -> Result<()> {
    if lab.spec().mesh { Ok(()) } else { anyhow::bail!("the lab is up without the sidecar pod") }
}
