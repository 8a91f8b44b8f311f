// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named network namespaces as pods: without a container runtime, and in the lab.

use std::path::PathBuf;

use crate::node::{Netns, named, quoted};
use crate::target::{Backend, PodName, TargetError};

/// The namespaces under /run/netns.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedNamespaces;

impl Backend for NamedNamespaces {
    fn describe(&self) -> String {
        "network namespaces under /run/netns".into()
    }

    fn resolve(&self, pod: &PodName) -> Result<Option<Netns>, TargetError> {
        let wanted = candidates(pod);
        let fits: Vec<(String, PathBuf)> =
            named().into_iter().filter(|(n, ..)| wanted.contains(n)).map(|(n, _, path)| (n, path)).collect();
        match fits.as_slice() {
            [] => Ok(None),
            [(_, path)] => Ok(Some(Netns::open(path, pod.to_string())?)),
            _ => Err(TargetError::Ambiguous {
                pod: quoted(pod.to_string()),
                fits: fits.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    fn names(&self) -> Vec<String> {
        named().into_iter().map(|(name, ..)| name).collect()
    }
}

/// A namespace's name has no slash: for NS/NAME it is NAME, or NS-NAME.
fn candidates(pod: &PodName) -> Vec<String> {
    let joined = pod.namespace.as_ref().map(|ns| format!("{ns}-{}", pod.name));
    std::iter::once(pod.name.clone()).chain(joined).collect()
}
