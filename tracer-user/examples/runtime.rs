// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container runtime with many pods, for measurements: `runtime N PREFIX` serves N pods `bench/pod-0`, ..., which
//! live in the network namespaces PREFIX0, ... of /run/netns. It prints its socket, and ends with its standard input.

#[path = "../tests/runtime/mod.rs"]
#[allow(dead_code, clippy::allow_attributes, reason = "the tests use the rest")]
mod runtime;

use std::io::{Read as _, stdin};

use runtime::{Fake, FakePod, pod};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [count, prefix] = words.as_slice() else { return eprintln!("runtime N PREFIX") };
    let Ok(count) = count.parse::<u32>() else { return eprintln!("runtime: {count:?} is no number") };
    let pods = (0..count).map(|number| FakePod {
        info: format!(
            r#"{{"runtimeSpec": {{"linux": {{"namespaces": [{{"type": "network", "path": "/run/netns/{prefix}{number}"}}]}}}}}}"#
        ),
        // A bridge has no place for more than a /22 or so.
        ips: vec![format!("10.210.{}.{}", 1 + number / 250, 2 + number % 250)],
        ..pod(&format!("bench/pod-{number}"), number)
    });
    let fake = Fake::with_pods(pods.collect());
    println!("{}", fake.socket());
    let _ = stdin().read_to_end(&mut Vec::new());
}
