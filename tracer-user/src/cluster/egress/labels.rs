// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label selectors of Kubernetes' objects (metav1.LabelSelector): all requirements have to be met.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::text::printable;

/// Empty, it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<Expression>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expression {
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub operator: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

impl LabelSelector {
    /// The first requirement that is not met, as `wants app=visitor, WHO has app=shop`; safe to print.
    pub(super) fn unmet(&self, labels: &BTreeMap<String, String>, who: &str) -> Option<String> {
        let has = |key: &str| match labels.get(key) {
            Some(value) => format!("{who} has {}={}", printable(key), printable(value)),
            None => format!("{who} has no label {}", printable(key)),
        };
        for (key, value) in self.match_labels.iter().flatten() {
            if labels.get(key) != Some(value) {
                return Some(format!("wants {}={}, {}", printable(key), printable(value), has(key)));
            }
        }
        for wanted in self.match_expressions.iter().flatten() {
            let value = labels.get(&wanted.key);
            let values: &[String] = wanted.values.as_deref().unwrap_or_default();
            let listed = value.is_some_and(|value| values.contains(value));
            let shown = || {
                let values: Vec<String> = values.iter().map(printable).collect();
                format!("({})", values.join(", "))
            };
            let key = printable(&wanted.key);
            let (met, words) = match wanted.operator.as_str() {
                "In" => (listed, format!("wants {key} in {}", shown())),
                // A label that is not there is in no list.
                "NotIn" => (!listed, format!("wants {key} not in {}", shown())),
                "Exists" => (value.is_some(), format!("wants a label {key}")),
                "DoesNotExist" => (value.is_none(), format!("wants no label {key}")),
                other => {
                    return Some(format!(
                        "has operator {} for {key}, which Kubernetes does not know",
                        crate::text::quoted(other)
                    ));
                }
            };
            if !met {
                return Some(format!("{words}, {}", has(&wanted.key)));
            }
        }
        None
    }

    /// It can be answered with these keys alone.
    pub(super) fn asks_only_for(&self, known: &str) -> bool {
        self.match_labels.iter().flatten().all(|(key, _)| key == known)
            && self.match_expressions.iter().flatten().all(|e| e.key == known)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_whitespace()
            .map(|l| l.split_once('=').map(|(k, v)| (k.into(), v.into())).unwrap())
            .collect()
    }

    #[test]
    fn every_requirement_has_words() {
        for (selector, of, expected) in [
            (r#"{}"#, "", None),
            (r#"{"matchLabels":{"app":"visitor"}}"#, "app=visitor tier=web", None),
            (
                r#"{"matchLabels":{"app":"visitor"}}"#,
                "app=shop",
                Some("wants app=visitor, the pod has app=shop"),
            ),
            (r#"{"matchLabels":{"app":"visitor"}}"#, "", Some("wants app=visitor, the pod has no label app")),
            (r#"{"matchExpressions":[{"key":"app","operator":"In","values":["a","b"]}]}"#, "app=b", None),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"In","values":["a","b"]}]}"#,
                "app=c",
                Some("wants app in (a, b), the pod has app=c"),
            ),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["a"]}]}"#, "", None),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["a"]}]}"#,
                "app=a",
                Some("wants app not in (a), the pod has app=a"),
            ),
            (r#"{"matchExpressions":[{"key":"app","operator":"Exists"}]}"#, "app=", None),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"Exists","values":null}]}"#,
                "",
                Some("wants a label app, the pod has no label app"),
            ),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"DoesNotExist"}]}"#,
                "app=x",
                Some("wants no label app, the pod has app=x"),
            ),
            (
                r#"{"matchLabels":null,"matchExpressions":[{"key":"app","operator":"Gt"}]}"#,
                "",
                Some("has operator \"Gt\" for app, which Kubernetes does not know"),
            ),
        ] {
            let selector: LabelSelector = serde_json::from_str(selector).unwrap();
            assert_eq!(selector.unmet(&labels(of), "the pod").as_deref(), expected, "{selector:?} {of}");
        }
    }

    proptest! {
        /// A requirement and its opposite: exactly one is met.
        #[test]
        fn opposites(key in "[ab]", values in prop::collection::vec("[xy]", 0..3), of in prop::collection::btree_map("[ab]", "[xyz]", 0..3)) {
            let met = |operator: &str, values: Option<Vec<String>>| {
                let expression = Expression { key: key.clone(), operator: operator.into(), values };
                LabelSelector { match_labels: None, match_expressions: Some(vec![expression]) }
                    .unmet(&of, "it").is_none()
            };
            prop_assert_ne!(met("In", Some(values.clone())), met("NotIn", Some(values)));
            prop_assert_ne!(met("Exists", None), met("DoesNotExist", None));
        }

        /// More requirements never select more.
        #[test]
        fn requirements_are_all_of_them(one in prop::collection::btree_map("[ab]", "[xy]", 0..2), two in prop::collection::btree_map("[cd]", "[xy]", 0..2), of in prop::collection::btree_map("[abcd]", "[xy]", 0..4)) {
            let met = |labels: &BTreeMap<String, String>| {
                LabelSelector { match_labels: Some(labels.clone()), match_expressions: None }.unmet(&of, "it").is_none()
            };
            let both = one.clone().into_iter().chain(two.clone()).collect();
            prop_assert_eq!(met(&both), met(&one) && met(&two));
        }
    }
}
