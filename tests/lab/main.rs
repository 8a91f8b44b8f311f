// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab by hand, and the processes which a lab starts.

fn main() -> std::process::ExitCode {
    tests::cli::main()
}
