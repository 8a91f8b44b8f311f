// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a lab is to be like.

use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::{
    ns::Ns,
    topology::{Family, PLACES},
};

/// What every lab's names begin with.
pub const PREFIX: &str = "egwt-";

/// The id of the lab which is run by hand: `lab`, or what `EGWT_LAB` says, so that several people can each
/// have their own on one machine. Letters and digits only, at most eight: anything else is taken for unset.
pub(crate) fn hand_id() -> String {
    std::env::var("EGWT_LAB")
        .ok()
        .filter(|id| (1..=8).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .unwrap_or_else(|| "lab".to_owned())
}

/// Which of the kernel's two iptables the nodes use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Backend {
    /// iptables over nftables, the default of distributions since 2019.
    Nft,
    /// The old `ip_tables`.
    Legacy,
}

impl Backend {
    /// The iptables program of this back end, with `suffix` (`""`, `"-restore"`, `"-save"`).
    pub fn iptables(self, family: Family, suffix: &str) -> String {
        let kind = match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        };
        format!("{}-{kind}{suffix}", family.pick("iptables", "ip6tables"))
    }
}

/// What a lab is to be like. `Spec::new(id)` is the healthy one over IPv4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Makes the names unique: namespaces are `egwt-<id>-<place>`, files are in `/run/egwt-<id>`.
    pub id: String,
    /// Also IPv6, in everything.
    pub ipv6: bool,
    /// iptables back end of the nodes and pods.
    pub backend: Backend,
    /// `bridge-nf-call-iptables` and `-ip6tables` on the nodes.
    pub bridge_nf: bool,
    /// The pod with a sidecar, its redirect rules and proxies.
    pub mesh: bool,
    /// EgressGateway's rules; without, the nodes have kube-proxy's and flannel's only.
    pub egress: bool,
    /// Servers, announcer and proxies; without, the lab is wires and rules only.
    pub servers: bool,
    /// `net.ipv4.conf.all.rp_filter` is 1 everywhere but on the router: what is to be loose must say so.
    #[serde(default)]
    pub strict: bool,
}

impl Spec {
    /// The healthy lab over IPv4, under this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            ipv6: false,
            backend: Backend::Nft,
            bridge_nf: true,
            mesh: true,
            egress: true,
            servers: true,
            strict: false,
        }
    }

    /// The lab which is run by hand.
    pub fn hand() -> Self {
        Self::new(hand_id())
    }

    /// A lab under an id that no other lab on this machine has.
    pub fn unique() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self::new(format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The same with IPv6 too.
    #[must_use]
    pub fn with_ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// The same with this iptables back end.
    #[must_use]
    pub fn with_backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// The same with frames on bridges hidden from iptables.
    #[must_use]
    pub fn without_bridge_nf(mut self) -> Self {
        self.bridge_nf = false;
        self
    }

    /// The same without the sidecar pod.
    #[must_use]
    pub fn without_mesh(mut self) -> Self {
        self.mesh = false;
        self
    }

    /// The same without EgressGateway's rules.
    #[must_use]
    pub fn without_egress(mut self) -> Self {
        self.egress = false;
        self
    }

    /// The same without servers.
    #[must_use]
    pub fn without_servers(mut self) -> Self {
        self.servers = false;
        self
    }

    /// The same with strict reverse path filters.
    #[must_use]
    pub fn with_strict_filters(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The address families of the lab.
    pub fn families(&self) -> impl Iterator<Item = Family> + use<> {
        [Some(Family::V4), self.ipv6.then_some(Family::V6)].into_iter().flatten()
    }

    /// What the names of this lab's namespaces begin with.
    pub fn prefix(&self) -> String {
        format!("{PREFIX}{}-", self.id)
    }

    /// The namespace of a place (`node1`, `visitor` …).
    pub fn ns(&self, place: &str) -> Ns {
        Ns::named(format!("{}{place}", self.prefix()))
    }

    /// Whether the lab is made with this place.
    pub fn has(&self, place: &str) -> bool {
        place != "mesh" || self.mesh
    }

    /// The places the lab is made with.
    pub fn places(&self) -> impl Iterator<Item = &'static str> + '_ {
        PLACES.into_iter().filter(|place| self.has(place))
    }
}
