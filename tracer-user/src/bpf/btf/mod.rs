// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's BTF: where fields are, what enumeration values are called, how many arguments a
//! tracepoint has. Nothing of it is trusted: every offset is checked before it is followed.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html>.

mod blob;
mod bytes;
mod kernel;
mod member;
mod reasons;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use blob::BtfError;
pub use kernel::{KernelBtf, Missing};
pub use member::{FieldError, Member};
pub use reasons::{REASON_UNKNOWN, Reasons};
