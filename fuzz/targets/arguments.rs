// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: an argument a line.
#![no_main]

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;

use libfuzzer_sys::fuzz_target;
use tracer_user::cli::{self, Invocation, Parsed, Plan, Resolve};

/// Knows every name that is not empty.
struct Everyone;

impl Resolve for Everyone {
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        if name.is_empty() {
            Err("no name".into())
        } else {
            Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let arguments = bytes.split(|byte| *byte == b'\n').map(OsStr::from_bytes);
    let command = std::iter::once(OsStr::new("egwtrace")).chain(arguments).map(OsStr::to_owned);
    let Ok(Parsed::Run(Invocation::Trace(args))) = cli::parse(command) else { return };
    if let Ok(plan) = Plan::new(&args, &[], &Everyone) {
        let _ = (plan.config(), plan.filter.hosts());
    }
});
