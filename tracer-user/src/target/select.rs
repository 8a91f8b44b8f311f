// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the known pods or containers is meant. Pure.

use std::fmt;

use super::backend::Known;
use super::wanted::PodName;

/// How well a name fits; a better fit hides the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    Exact,
    /// It begins so.
    Prefix,
}

/// A requirement of `--selector`, as Kubernetes writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

/// Labels that a pod must have, and the namespace it must be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub namespace: Option<String>,
    /// All of them.
    pub requirements: Vec<Requirement>,
}

/// As the API server takes it: "app=web,tier!=cache".
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            f.write_str(if at > 0 { "," } else { "" })?;
            match requirement {
                Requirement::Is(key, value) => write!(f, "{key}={value}")?,
                Requirement::IsNot(key, value) => write!(f, "{key}!={value}")?,
                Requirement::Has(key) => f.write_str(key)?,
                Requirement::HasNot(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl Selector {
    pub(super) fn fits(&self, pod: &Known) -> bool {
        let label = |key: &str| pod.labels.get(key).map(String::as_str);
        self.namespace.as_ref().is_none_or(|ns| pod.namespace.as_ref() == Some(ns))
            && self.requirements.iter().all(|r| match r {
                Requirement::Is(key, value) => label(key) == Some(value),
                Requirement::IsNot(key, value) => label(key) != Some(value),
                Requirement::Has(key) => label(key).is_some(),
                Requirement::HasNot(key) => label(key).is_none(),
            })
    }
}

/// The pods of this name: all that are called so, else those whose names begin so. Of a pod's sandboxes, only
/// the present one; of those that are over, only when nothing that runs fits.
pub(super) fn by_name(wanted: &PodName, all: &[Known]) -> Vec<(Known, Fit)> {
    for fit in [Fit::Exact, Fit::Prefix] {
        let found: Vec<&Known> = all.iter().filter(|pod| is_called(wanted, pod) == Some(fit)).collect();
        if !found.is_empty() {
            return present(found).into_iter().map(|pod| (pod, fit)).collect();
        }
    }
    Vec::new()
}

/// The pods with these labels that run.
pub(super) fn by_labels(selector: &Selector, all: &[Known]) -> Vec<Known> {
    let mut found = present(all.iter().filter(|pod| selector.fits(pod)).collect());
    found.retain(|pod| !pod.stopped);
    found
}

/// Containers of this name or id. Ids may be shortened, as the runtimes' own tools do, to four digits and more.
pub(super) fn containers(wanted: &str, all: &[Known]) -> Vec<Known> {
    let named = |c: &&Known| {
        c.name == wanted
            || c.shown() == wanted
            || c.name.rsplit_once('/').is_some_and(|(_, own)| own == wanted)
    };
    let is_id = wanted.len() >= 4 && wanted.bytes().all(|b| b.is_ascii_hexdigit());
    let ided = |c: &&Known| is_id && c.id.starts_with(wanted);
    let mut found: Vec<&Known> = all.iter().filter(named).collect();
    if found.is_empty() {
        found = all.iter().filter(ided).collect();
    }
    if found.iter().any(|c| !c.stopped) {
        found.retain(|c| !c.stopped);
    }
    found.into_iter().cloned().collect()
}

fn is_called(wanted: &PodName, pod: &Known) -> Option<Fit> {
    let name = match (&wanted.namespace, &pod.namespace) {
        (Some(wanted), Some(is)) if wanted != is => return None,
        // A network namespace has no slash in its name: NS/NAME is NAME there, or NS-NAME.
        (Some(ns), None)
            if pod.name.strip_prefix(ns.as_str()).and_then(|n| n.strip_prefix('-')) == Some(&wanted.name) =>
        {
            return Some(Fit::Exact);
        }
        _ => &pod.name,
    };
    if *name == wanted.name {
        return Some(Fit::Exact);
    }
    // Namespaces by hand have no generated names that nobody types.
    (pod.namespace.is_some() && name.starts_with(&wanted.name)).then_some(Fit::Prefix)
}

/// One entry for each pod: the one that runs, else the newest; sorted by name.
fn present(mut all: Vec<&Known>) -> Vec<Known> {
    if all.iter().any(|pod| !pod.stopped) {
        all.retain(|pod| !pod.stopped);
    }
    let key = |pod: &Known| (pod.namespace.clone(), pod.name.clone());
    all.sort_by_key(|pod| (key(pod), -i128::from(pod.created_ns)));
    all.dedup_by_key(|pod| key(pod));
    all.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod(text: &str) -> Known {
        let (namespace, name) = text.split_once('/').unwrap();
        Known { namespace: Some(namespace.into()), name: name.into(), id: text.into(), ..Known::default() }
    }

    fn name(text: &str) -> PodName {
        match text.split_once('/') {
            Some((ns, name)) => PodName { namespace: Some(ns.into()), name: name.into() },
            None => PodName { namespace: None, name: text.into() },
        }
    }

    fn found(wanted: &str, all: &[Known]) -> Vec<String> {
        by_name(&name(wanted), all).iter().map(|(pod, fit)| format!("{} {fit:?}", pod.shown())).collect()
    }

    #[test]
    fn names_before_beginnings() {
        let all: Vec<Known> =
            ["shop/web", "shop/web-7d9f-x", "shop/checkout-1", "blog/web", "blog/checkout-2"].map(pod).into();
        assert_eq!(found("shop/web", &all), ["shop/web Exact"]);
        assert_eq!(found("web", &all), ["blog/web Exact", "shop/web Exact"]);
        assert_eq!(found("shop/checkout-", &all), ["shop/checkout-1 Prefix"]);
        assert_eq!(found("checkout", &all), ["blog/checkout-2 Prefix", "shop/checkout-1 Prefix"]);
        assert_eq!(found("other/web", &all), [""; 0]);
        let netns = [Known { name: "shop-web".into(), ..Known::default() }];
        assert_eq!(found("shop/web", &netns), ["shop-web Exact"]);
        assert_eq!(found("shop", &netns), [""; 0]);
    }

    #[test]
    fn of_a_pods_sandboxes_the_present_one() {
        let sandbox =
            |id: &str, created_ns, stopped| Known { id: id.into(), created_ns, stopped, ..pod("a/b") };
        let ids = |all: &[Known]| -> Vec<String> {
            by_name(&name("b"), all).into_iter().map(|(pod, _)| pod.id).collect()
        };
        assert_eq!(ids(&[sandbox("old", 1, true), sandbox("now", 2, false)]), ["now"]);
        assert_eq!(ids(&[sandbox("old", 1, false), sandbox("now", 2, false)]), ["now"]);
        assert_eq!(ids(&[sandbox("older", 1, true), sandbox("old", 2, true)]), ["old"]);
        // A dead pod of another name does not make the beginning ambiguous.
        let dead = Known { stopped: true, ..pod("a/b-1") };
        assert_eq!(found("b-", &[dead, pod("a/b-2")]), ["a/b-2 Prefix"]);
    }

    #[test]
    fn labels() {
        let labelled = |text: &str, labels: &[(&str, &str)]| Known {
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..pod(text)
        };
        let all = [
            labelled("shop/a", &[("app", "web"), ("tier", "front")]),
            labelled("shop/b", &[("app", "web")]),
            labelled("blog/c", &[("app", "web")]),
        ];
        let fits = |namespace: Option<&str>, requirements: Vec<Requirement>| -> Vec<String> {
            let selector = Selector { namespace: namespace.map(str::to_owned), requirements };
            by_labels(&selector, &all).into_iter().map(|pod| pod.name).collect()
        };
        let web = || Requirement::Is("app".into(), "web".into());
        assert_eq!(fits(None, vec![web()]), ["c", "a", "b"]);
        assert_eq!(fits(Some("shop"), vec![web(), Requirement::HasNot("tier".into())]), ["b"]);
        assert_eq!(fits(None, vec![Requirement::Has("tier".into())]), ["a"]);
        assert_eq!(fits(None, vec![Requirement::IsNot("tier".into(), "front".into())]), ["c", "b"]);
    }

    #[test]
    fn containers_by_name_and_id() {
        let container = |name: &str, id: &str| Known { name: name.into(), id: id.into(), ..Known::default() };
        let all = [
            container("web-1/app", "0123abcd99"),
            container("web-2/app", "0123ef"),
            container("db", "feed01"),
        ];
        let ids =
            |wanted: &str| -> Vec<String> { containers(wanted, &all).into_iter().map(|c| c.id).collect() };
        assert_eq!(ids("db"), ["feed01"]);
        assert_eq!(ids("app"), ["0123abcd99", "0123ef"]);
        assert_eq!(ids("web-1/app"), ["0123abcd99"]);
        assert_eq!(ids("0123a"), ["0123abcd99"]);
        assert_eq!(ids("0123"), ["0123abcd99", "0123ef"]);
        assert_eq!(ids("fee"), [""; 0]);
    }

    proptest! {
        #[test]
        fn each_pod_at_most_once(names in proptest::collection::vec("[ab]/[xy]{1,2}", 0..12), wanted in "[xy]{0,2}") {
            let all: Vec<Known> = names.iter().map(|n| pod(n)).collect();
            let mut shown = found(&wanted, &all);
            let count = shown.len();
            shown.dedup();
            prop_assert_eq!(shown.len(), count);
        }
    }
}
