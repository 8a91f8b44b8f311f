// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets dropped by XDP programs and tc filters.

use super::context::View;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{DropSite, Ending, Expected, Place};
use crate::node::NetnsId;
use crate::snapshot::{AttachPoint, Attached};

/// What stands at one side of a device.
pub(super) fn at<'a>(
    view: &View<'a>,
    netns: NetnsId,
    ifindex: u32,
    point: AttachPoint,
) -> impl Iterator<Item = &'a Attached> + use<'a> {
    let all = view.of(netns).into_iter().flat_map(|evidence| &evidence.programs);
    all.filter(move |found| found.ifindex == ifindex && found.at == point)
}

/// The drop reason, or the function that freed it, says where.
pub(super) fn point(reason: &str, symbol: &str) -> Option<AttachPoint> {
    match (reason, symbol) {
        ("XDP", _)
        | ("NOT_SPECIFIED", "veth_xdp_rcv_skb" | "do_xdp_generic" | "netif_receive_generic_xdp") => {
            Some(AttachPoint::Xdp)
        }
        ("TC_INGRESS" | "TC_INGRESS_HOOK", _) => Some(AttachPoint::Ingress),
        ("TC_EGRESS" | "TC_EGRESS_HOOK", _) => Some(AttachPoint::Egress),
        _ => None,
    }
}

/// A drop by one of them.
pub(super) fn dropped(view: &View<'_>, site: &DropSite, point: AttachPoint) -> Finding {
    let device = view.device_name(site.netns, site.ifindex);
    let name = view.netns(site.netns);
    let found: Vec<&Attached> = at(view, site.netns, site.ifindex, point).collect();
    let way = if point == AttachPoint::Egress { "goes out" } else { "comes in" };
    let (sure, who) = match found.as_slice() {
        [] if point == AttachPoint::Xdp => (Likely, "an XDP program".to_owned()),
        [] => (Certain, "a tc filter or BPF program".to_owned()),
        [one] => (Certain, one.to_string()),
        several => (Likely, several.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")),
    };
    let reason = match &*view.reason(site) {
        "NOT_SPECIFIED" => format!("freed in {}, without another reason", view.symbol(site)),
        reason => format!("the kernel's reason: {reason}"),
    };
    let finding = Finding::new(&c::PROGRAM, sure, format!("{who} on {device} of {name} drops what {way}"))
        .checked(reason, view.command(site.netns, show(&device, point)));
    let finding = match found.as_slice() {
        [Attached { id: Some(id), .. }] => finding
            .checked("the program, and when and by whom it was loaded", format!("bpftool prog show id {id}")),
        _ => finding,
    };
    finding
        .fix(format!(
            "correct that program, or have it removed by what put it on {device} (the CNI plugin, a firewall or DDoS agent)"
        ))
        .at(view.place(site.netns, site.ifindex))
}

/// The command that lists what stands there.
pub(super) fn show(device: &str, point: AttachPoint) -> String {
    match point {
        AttachPoint::Xdp => format!("ip -d link show dev {device}"),
        AttachPoint::Ingress => format!("tc filter show dev {device} ingress; bpftool net show dev {device}"),
        AttachPoint::Egress => format!("tc filter show dev {device} egress; bpftool net show dev {device}"),
    }
}

/// Nothing was seen of a packet after a place at which a program could have taken it: those leave no trace where they
/// redirect or swallow a packet, and drivers' XDP leaves none where it drops.
pub(super) fn suspect(view: &View<'_>) -> Option<Finding> {
    let Ending::Vanished { next, .. } = view.journey.ending else { return None };
    let last = view.journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. }))?;
    let behind = match last.place {
        Place::Device { ifindex, egress } => {
            let point = if egress { AttachPoint::Egress } else { AttachPoint::Ingress };
            at(view, last.netns, ifindex, point).next()
        }
        _ => None,
    };
    let before = match next {
        Expected::Device { netns, ifindex, .. } => {
            at(view, netns, ifindex, AttachPoint::Xdp).next().map(|found| (netns, found))
        }
        _ => None,
    };
    let (netns, found) = behind.map(|found| (last.netns, found)).or(before)?;
    let device = view.device_name(netns, found.ifindex);
    let name = view.netns(netns);
    let seen = match last.place {
        Place::Device { ifindex, .. } => view.device_name(last.netns, ifindex),
        Place::Hook { hook, .. } => hook.name().to_owned(),
        Place::Route { .. } => String::new(),
    };
    Some(
        Finding::new(&c::PROGRAM, Likely, format!("{found} on {device} of {name} takes the packet: it drops or redirects it without a word"))
            .checked(
                format!("the packet was not seen after {}, and the kernel reports no drop", seen),
                view.command(netns, show(&device, found.at)),
            )
            .fix(format!(
                "correct that program, or have it removed by what put it on {device} (the CNI plugin, a firewall or DDoS agent)"
            ))
            .at(view.place(netns, found.ifindex)),
    )
}

/// Dropped on a device that it was never sent to: what it came in by has a filter that redirects.
pub(super) fn redirected(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let last = view.journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. }))?;
    let Place::Device { ifindex, egress } = last.place else { return None };
    let related = |device: u32| {
        device == site.ifindex
            || view.device(site.netns, device).is_some_and(|d| d.master == Some(site.ifindex))
    };
    if last.netns != site.netns || site.ifindex == 0 || related(ifindex) {
        return None;
    }
    let point = if egress { AttachPoint::Egress } else { AttachPoint::Ingress };
    let found = at(view, last.netns, ifindex, point).next()?;
    let (device, to, name) = (
        view.device_name(last.netns, ifindex),
        view.device_name(site.netns, site.ifindex),
        view.netns(site.netns),
    );
    Some(
        Finding::new(
            &c::PROGRAM,
            Likely,
            format!("{found} on {device} of {name} redirects the packet to {to}, where it ends"),
        )
        .checked(
            format!(
                "it came to {device}, no route leads to {to}, and it was dropped there: {}",
                view.reason(site)
            ),
            view.command(site.netns, show(&device, point)),
        )
        .fix(format!("correct that filter, or have it removed by what put it on {device}"))
        .at(view.place(last.netns, ifindex)),
    )
}
