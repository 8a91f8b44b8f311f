// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read of an object: the few fields that are used, so that ten thousand of them stay small.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::text::printable;

/// Namespace (empty for what has none) and name.
pub type Key = (String, String);

/// Where the API server has a kind of object, and what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// As in the URL: "services".
    pub plural: &'static str,
    /// What is lost without it: "names of services".
    pub gives: &'static str,
    /// Of an extension: a cluster that does not have it lacks nothing.
    pub optional: bool,
}

impl Kind {
    /// The path of all objects, or of those in a namespace.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let (group, version, plural) = (self.group, self.version, self.plural);
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{}/{plural}", encoded(namespace)),
            None => format!("{root}/{plural}"),
        }
    }
}

/// An object of the API, or the part of it that is wanted.
pub trait Object: Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    const KIND: Kind;

    fn meta(&self) -> &Meta;

    /// `NS/NAME`, or the name of what has no namespace; safe to print.
    fn shown(&self) -> String {
        let Meta { namespace, name, .. } = self.meta();
        if namespace.is_empty() { printable(name) } else { printable(format!("{namespace}/{name}")) }
    }
}

/// What every object has. The strings are the server's: anything may be in them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    // Of no use where it is written down again.
    #[serde(skip_serializing)]
    pub uid: String,
    #[serde(skip_serializing)]
    pub resource_version: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
}

impl Meta {
    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

/// For fields of objects: `null` is what is not there.
pub fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Percent-encoded as RFC 3986 has it, so that a name stays one segment of a path or one value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: Kind =
        Kind { group: "", version: "v1", plural: "services", gives: "names", optional: false };

    #[test]
    fn paths_of_kinds() {
        assert_eq!(SERVICES.path(None), "/api/v1/services");
        assert_eq!(SERVICES.path(Some("a/../b?")), "/api/v1/namespaces/a%2F..%2Fb%3F/services");
        let slices = Kind { group: "discovery.k8s.io", plural: "endpointslices", ..SERVICES };
        assert_eq!(slices.path(Some("shop")), "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices");
    }

    #[test]
    fn null_is_nothing() {
        let meta: Meta =
            serde_json::from_str(r#"{"name": "web", "labels": null, "deletionTimestamp": null}"#).unwrap();
        assert_eq!(meta, Meta { name: "web".into(), ..Meta::default() });
    }
}
