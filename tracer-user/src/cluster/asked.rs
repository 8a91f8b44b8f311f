// SPDX-License-Identifier: MIT OR Apache-2.0
//! All that the API server is ever asked: what `deploy/role.yaml` grants, no more and no less. A question that is not
//! here is a bug, and ends a debug build.

use super::egress::{
    ClusterEndpointSlice, ClusterPolicy, EndpointSlice as EgressSlice, Gateway, Info, Namespace, Policy,
    Tunnel,
};
use super::kinds::{EndpointSlice, Node, Pod, Service};
use super::object::{Kind, Object as _};

/// RBAC's verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One by its name.
    Get,
    List,
    Watch,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

const KEPT: &[Verb] = &[Verb::List, Verb::Watch];

/// Each kind with what is asked of it.
pub const ASKED: &[(Kind, &[Verb])] = &[
    // By name, by labels, by address: one at a time, and never all that change.
    (Pod::KIND, &[Verb::Get, Verb::List]),
    (Service::KIND, &[Verb::Get, Verb::List, Verb::Watch]),
    (EndpointSlice::KIND, &[Verb::List]),
    (Node::KIND, KEPT),
    (Namespace::KIND, KEPT),
    (Policy::KIND, KEPT),
    (ClusterPolicy::KIND, KEPT),
    (Gateway::KIND, KEPT),
    (Tunnel::KIND, KEPT),
    (Info::KIND, KEPT),
    (EgressSlice::KIND, KEPT),
    (ClusterEndpointSlice::KIND, KEPT),
];

/// It is in the table.
pub fn is_asked(kind: &Kind, verb: Verb) -> bool {
    ASKED.iter().any(|(asked, verbs)| {
        asked.group == kind.group && asked.plural == kind.plural && verbs.contains(&verb)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Known;

    #[test]
    fn what_is_kept_up_with_is_listed_and_watched() {
        for (kind, _) in Known::default().states() {
            assert!(is_asked(&kind, Verb::List), "{kind:?}");
            assert!(kind == Pod::KIND || is_asked(&kind, Verb::Watch), "{kind:?}");
        }
        assert!(!is_asked(&Pod::KIND, Verb::Watch));
    }
}
