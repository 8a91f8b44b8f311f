// SPDX-License-Identifier: MIT OR Apache-2.0
//! "Did you mean".

/// The names close to `wanted`: within two typing errors, or containing it. At most three, best first.
pub fn closest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = wanted.to_lowercase();
    let mut scored: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let distance = distance(&wanted, &lower);
            let typing_error = distance <= 2 && distance < wanted.chars().count();
            let part = wanted.len() >= 3 && lower.contains(&wanted);
            (typing_error || part).then_some((distance, name))
        })
        .collect();
    scored.sort();
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// `a`, `a or b`, `a, b or c`; empty for nothing.
pub fn or_list<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [head @ .., last] => {
            let head: Vec<&str> = head.iter().map(AsRef::as_ref).collect();
            format!("{} or {}", head.join(", "), last.as_ref())
        }
    }
}

/// Levenshtein's, over characters; names longer than 64 characters count as far away.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(65).collect(), b.chars().take(65).collect());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_and_parts() {
        let names = ["visitor", "egwt-visitor", "node1", "node2", "x"];
        assert_eq!(closest("vistor", names), ["visitor"]);
        assert_eq!(closest("visitor", names), ["visitor", "egwt-visitor"]);
        assert_eq!(closest("node3", names), ["node1", "node2"]);
        assert_eq!(closest("y", names), [""; 0]);
        assert_eq!(closest(&"v".repeat(5000), names), [""; 0]);
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(or_list::<&str>(&[]), "");
        assert_eq!(or_list(&["a"]), "a");
        assert_eq!(or_list(&["a", "b", "c"]), "a, b or c");
    }
}
