// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether there is a cluster to ask.

use std::path::PathBuf;

use super::{Access, AccessError, Cluster};

/// What the command line says of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`.
    pub context: Option<String>,
    /// `--no-api`.
    pub none: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub enum Reach {
    /// `--no-api`.
    NotWanted,
    /// No credentials at any of the usual places.
    #[default]
    NotFound,
    /// There are some, and they are of no use; safe to print.
    Unusable(String),
    At(Cluster),
}

impl Reach {
    /// Looks for credentials and asks nobody yet. What was named on the command line must be usable.
    pub fn find(wish: &Wish) -> Result<Self, AccessError> {
        if wish.none {
            return Ok(Self::NotWanted);
        }
        let named = wish.kubeconfig.is_some() || wish.context.is_some();
        match Access::find(wish).and_then(|access| access.map(Cluster::start).transpose()) {
            Ok(Some(cluster)) => Ok(Self::At(cluster)),
            Ok(None) if wish.context.is_some() => Err(AccessError::NoFile),
            Ok(None) => Ok(Self::NotFound),
            Err(error) if named => Err(error),
            Err(error) => Ok(Self::Unusable(error.to_string())),
        }
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::At(cluster) => Some(cluster),
            _ => None,
        }
    }

    /// Why there is nobody to ask; empty when there is.
    pub fn why_not(&self) -> String {
        match self {
            Self::At(_) => String::new(),
            Self::NotWanted => "--no-api was given".into(),
            Self::NotFound if cfg!(feature = "kube") => {
                "no kubeconfig, service account or kubelet's credentials were found here".into()
            }
            Self::NotFound => "this egwtrace was built without it".into(),
            Self::Unusable(why) => why.clone(),
        }
    }
}
