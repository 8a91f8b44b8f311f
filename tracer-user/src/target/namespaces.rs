// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named network namespaces as pods: without a container runtime, and in the lab.

use std::path::{Path, PathBuf};

use crate::node::{Netns, NetnsId, named};
use crate::target::{Backend, Known, Located, TargetError};

/// The namespaces under /run/netns.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedNamespaces;

impl Backend for NamedNamespaces {
    fn describe(&self) -> String {
        "network namespaces under /run/netns".into()
    }

    fn list(&self) -> Result<Vec<Known>, TargetError> {
        // With the inode: a namespace that is made again under the same name is another one.
        let known = |(name, inode, path): (String, NetnsId, PathBuf)| Known {
            name,
            id: format!("{inode}:{}", path.to_string_lossy()),
            ..Known::default()
        };
        Ok(named().into_iter().map(known).collect())
    }

    fn locate(&self, known: &Known) -> Result<Located, TargetError> {
        let path = known.id.split_once(':').map_or(known.id.as_str(), |(_, path)| path);
        let netns = Some(Netns::open(Path::new(path), known.shown())?);
        Ok(Located { netns, host_network: false, addresses: Vec::new(), node: None })
    }
}
