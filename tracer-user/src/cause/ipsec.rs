// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPsec policies that a packet does not satisfy.

use super::catalogue as c;
use super::finding::Certainty::Certain;
use super::finding::Finding;
use crate::firewall::PacketView;
use crate::snapshot::{NetnsEvidence, XfrmDirection, XfrmPolicy};

/// A namespace, and how commands for it are typed.
pub(crate) struct NodeState<'a> {
    pub(crate) evidence: &'a NetnsEvidence,
    pub(crate) name: &'a str,
    pub(crate) command: &'a dyn Fn(String) -> String,
}

/// What comes in, or on its way through, in clear: a policy that wants it encrypted, or that blocks it.
pub(crate) fn refuses(
    node: &NodeState<'_>,
    direction: XfrmDirection,
    packet: &PacketView,
    ifindex: Option<u32>,
) -> Option<Finding> {
    let policy = node.evidence.xfrm_policy(direction, packet, ifindex).ok()??;
    let name = node.name;
    let title = if policy.blocks {
        format!("an IPsec policy of {name} blocks the packet: {policy}")
    } else {
        let wants = policy.required().next()?;
        format!(
            "an IPsec policy of {name} wants the packet to come in {wants}, and it comes in clear: {policy}"
        )
    };
    let source = packet.src;
    Some(told(node, policy, title).fix(format!(
        "let the host of {source} encrypt what it sends (its IPsec daemon, its own policy with dir out); if the policy was left behind: {}",
        (node.command)(policy.delete_command())
    )))
}

/// What goes out: a policy that blocks it, or that asks for an encryption for which there is no state. The error: there
/// is one, and the packet goes on inside another.
pub(crate) fn no_state(
    node: &NodeState<'_>,
    packet: &PacketView,
    ifindex: Option<u32>,
) -> Result<Option<Finding>, String> {
    let name = node.name;
    let policy = match node.evidence.xfrm_policy(XfrmDirection::Out, packet, ifindex) {
        Ok(Some(policy)) => policy,
        Ok(None) => return Ok(None),
        Err(policy) => return Err(format!("whether the IPsec policy \"{policy}\" of {name} selects it")),
    };
    if policy.blocks {
        let title = format!("an IPsec policy of {name} blocks the packet: {policy}");
        return Ok(Some(told(node, policy, title).fix(removal(node, policy))));
    }
    let missing = policy.required().find(|template| node.evidence.xfrm_state(template).is_none());
    match missing {
        Some(template) => {
            let title = format!(
                "an IPsec policy of {name} wants the packet in {template}, and there is no state for that: {policy}"
            );
            let finding = told(node, policy, title).checked(
                "no security association fits the policy",
                (node.command)("ip xfrm state".to_owned()),
            );
            Ok(Some(finding.fix(format!("look why the IPsec daemon of {name} has not negotiated one (ipsec statusall, swanctl --list-sas); {}", removal(node, policy)))))
        }
        None if policy.templates.is_empty() => Ok(None),
        None => Err(format!(
            "what becomes of it in the encryption that the IPsec policy \"{policy}\" of {name} asks for"
        )),
    }
}

fn removal(node: &NodeState<'_>, policy: &XfrmPolicy) -> String {
    format!("if the policy was left behind: {}", (node.command)(policy.delete_command()))
}

fn told(node: &NodeState<'_>, policy: &XfrmPolicy, title: String) -> Finding {
    Finding::new(&c::IPSEC_POLICY, Certain, title)
        .checked("the policy, and what it selects", (node.command)("ip xfrm policy".to_owned()))
        .about(policy)
}
