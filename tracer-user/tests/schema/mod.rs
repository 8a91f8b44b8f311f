// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values against the schemas in git, the journeys' among them. Also used by the scenarios.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::LazyLock;

use serde_json::Value;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../schema/journey.schema.json");
    serde_json::from_str(text).expect("the schema is JSON")
});

/// One line of output fits the schema.
#[track_caller]
pub(crate) fn assert_fits(line: &Value) {
    if let Err(wrong) = check(&SCHEMA, &SCHEMA, line, "") {
        panic!("{wrong}\n{line:#}");
    }
}

/// The part of JSON Schema that ours uses; a word it does not know is an error.
pub(crate) fn check(schema: &Value, root: &Value, value: &Value, at: &str) -> Result<(), String> {
    let rules = schema.as_object().ok_or("a schema is an object")?;
    for (word, rule) in rules {
        match word.as_str() {
            "$schema" | "$id" | "$comment" | "title" | "description" | "$defs" => {}
            // Says more than the type, and is not looked at.
            "format" => {}
            "$ref" => {
                let path = rule.as_str().and_then(|r| r.strip_prefix('#')).ok_or("local references only")?;
                let target = root.pointer(path).ok_or(format!("{path} is not there"))?;
                check(target, root, value, at)?;
            }
            "oneOf" => {
                let results: Vec<_> =
                    rule.as_array().into_iter().flatten().map(|s| check(s, root, value, at)).collect();
                if results.iter().filter(|r| r.is_ok()).count() != 1 {
                    return Err(format!("{at}: fits not exactly one of {results:?}"));
                }
            }
            "const" if rule != value => return Err(format!("{at}: {value} is not {rule}")),
            "enum" if !rule.as_array().is_some_and(|all| all.contains(value)) => {
                return Err(format!("{at}: {value} is none of {rule}"));
            }
            "const" | "enum" => {}
            "type" => {
                let fits = |name: &Value| match name.as_str() {
                    Some("object") => value.is_object(),
                    Some("array") => value.is_array(),
                    Some("string") => value.is_string(),
                    Some("boolean") => value.is_boolean(),
                    Some("number") => value.is_number(),
                    Some("integer") => value.is_u64() || value.is_i64(),
                    Some("null") => value.is_null(),
                    _ => false,
                };
                let ok = rule.as_array().map_or_else(|| fits(rule), |all| all.iter().any(fits));
                if !ok {
                    return Err(format!("{at}: {value} is not of type {rule}"));
                }
            }
            "required" => {
                for name in rule.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.get(name).is_none() {
                        return Err(format!("{at}: {name} is missing in {value}"));
                    }
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().into_iter().flatten() {
                    if let Some(inner) = value.get(name) {
                        check(rule, root, inner, &format!("{at}/{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = rules.get("properties").and_then(Value::as_object);
                for (name, inner) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.contains_key(name)) {
                        continue;
                    }
                    match rule {
                        Value::Bool(true) => {}
                        Value::Object(_) => check(rule, root, inner, &format!("{at}/{name}"))?,
                        _ => return Err(format!("{at}: {name} is not in the schema")),
                    }
                }
            }
            "items" => {
                for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, root, inner, &format!("{at}/{i}"))?;
                }
            }
            other => return Err(format!("schema word {other}")),
        }
    }
    Ok(())
}
