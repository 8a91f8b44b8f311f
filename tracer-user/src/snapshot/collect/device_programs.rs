// SPDX-License-Identifier: MIT OR Apache-2.0
//! What else looks at packets on devices: XDP programs, tc filters, programs at TCX.

use std::collections::BTreeSet;

use crate::node::bpf_query;
use crate::node::rtnl::{Link, Qdisc, Rtnl};
use crate::snapshot::{AttachPoint, Attached};

/// In the namespace of the calling thread. What cannot be read is left out: on an old kernel there is nothing to read.
pub(super) fn read(rtnl: &mut Rtnl, links: &[Link], qdiscs: &[Qdisc]) -> Vec<Attached> {
    let mut out = Vec::new();
    let own = bpf_query::OwnPrograms::read();
    let name = |id: u32| bpf_query::program_name(id);
    for link in links {
        let ifindex = link.ifindex;
        for id in &link.xdp {
            let kind = "XDP program".to_owned();
            out.push(Attached { ifindex, at: AttachPoint::Xdp, kind, id: Some(*id), name: name(*id) });
        }
        for (egress, at) in [(false, AttachPoint::Ingress), (true, AttachPoint::Egress)] {
            for id in bpf_query::tcx(ifindex, egress, &own) {
                let kind = "TCX program".to_owned();
                out.push(Attached { ifindex, at, kind, id: Some(id), name: name(id) });
            }
        }
    }
    let hooked: BTreeSet<u32> = qdiscs
        .iter()
        .filter(|q| matches!(q.kind.as_str(), "clsact" | "ingress"))
        .map(|q| q.ifindex)
        .collect();
    for ifindex in hooked {
        for filter in rtnl.filters(ifindex).unwrap_or_default() {
            let at = if filter.egress { AttachPoint::Egress } else { AttachPoint::Ingress };
            let kind = format!("tc {} filter", filter.kind);
            let found = Attached {
                ifindex,
                at,
                kind,
                id: filter.program,
                name: filter.program.map(name).unwrap_or_default(),
            };
            // A filter of another kind comes with messages about its tables.
            if !out.contains(&found) {
                out.push(found);
            }
        }
    }
    out
}
