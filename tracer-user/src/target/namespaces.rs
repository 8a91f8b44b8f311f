// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named network namespaces as pods: without a container runtime, and in the lab.

use std::path::Path;

use crate::node::{Netns, named};
use crate::target::{Backend, Known, Located, TargetError};

/// The namespaces under /run/netns.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedNamespaces;

impl Backend for NamedNamespaces {
    fn describe(&self) -> String {
        "network namespaces under /run/netns".into()
    }

    fn list(&self) -> Result<Vec<Known>, TargetError> {
        let known = |(name, _, path): (String, _, std::path::PathBuf)| Known {
            name,
            id: path.to_string_lossy().into_owned(),
            ..Known::default()
        };
        Ok(named().into_iter().map(known).collect())
    }

    fn locate(&self, known: &Known) -> Result<Located, TargetError> {
        let netns = Some(Netns::open(Path::new(&known.id), known.shown())?);
        Ok(Located { netns, host_network: false, addresses: Vec::new(), node: None })
    }
}
