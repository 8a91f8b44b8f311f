// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host names to addresses, within a time limit.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use crate::node::printable;

/// How long to wait for the system's resolver, which has no limit of its own.
const LIMIT: Duration = Duration::from_secs(3);

/// Whoever turns names into addresses.
pub trait Resolve {
    /// Every address of a name, without repetition. The error says why there is none.
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String>;
}

/// The system's: /etc/hosts, DNS, whatever nsswitch says.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let (sender, receiver) = mpsc::channel();
        let question = (name.to_owned(), 0u16);
        // Not joined: a resolver that hangs is left behind.
        std::thread::Builder::new()
            .name("resolve".into())
            .spawn(move || {
                sender.send(question.to_socket_addrs().map(|found| found.map(|a| a.ip()).collect()))
            })
            .map_err(|e| e.to_string())?;
        let mut addresses: Vec<IpAddr> = receiver
            .recv_timeout(LIMIT)
            .map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))?
            .map_err(|e: std::io::Error| {
                let text = printable(e.to_string());
                text.strip_prefix("failed to lookup address information: ")
                    .map_or(text.clone(), str::to_owned)
            })?;
        addresses.iter_mut().for_each(|a| *a = a.to_canonical());
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_a_name() {
        let found = SystemResolver.resolve("localhost").unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[test]
    fn a_name_that_cannot_exist() {
        let reason = SystemResolver.resolve("no-such-host.invalid").unwrap_err();
        assert!(!reason.is_empty() && !reason.contains("failed to lookup"), "{reason}");
    }
}
