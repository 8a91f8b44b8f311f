// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaching a loaded program: netfilter positions, and tc on a device. A link lasts as long as its
//! descriptor: nothing of it remains when the process ends, however it ends.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use aya_obj::generated::{BPF_F_AFTER, BPF_F_BEFORE, bpf_attach_type};

use super::sys::{self, Target};
use crate::node::{Family, Hook};

/// Direction of packets at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcDirection {
    Ingress,
    Egress,
}

/// Place among the programs that are on the device already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcOrder {
    First,
    Last,
}

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
#[error("cannot attach to {place}: {source}{}", hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct LinkError {
    /// Where, in words.
    pub place: String,
    pub source: io::Error,
    /// What the error means here, and what to do.
    pub hint: Option<&'static str>,
}

impl LinkError {
    /// Something else stands at this netfilter priority; the next one may be free.
    pub fn is_busy(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EBUSY)
    }

    /// This kernel does not have such links at all.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
    }
}

/// Puts a netfilter program at `priority` of a hook, in the network namespace of the calling thread.
///
/// A priority must be free when we come (`EBUSY`, see [`LinkError::is_busy`]); it does not keep anything
/// else from registering there later. `i32::MIN` and `i32::MAX` are refused.
///
/// # Errors
/// With the place and what to do.
pub fn link_netfilter(
    program: BorrowedFd<'_>,
    family: Family,
    hook: Hook,
    priority: i32,
) -> Result<OwnedFd, LinkError> {
    let (name, pf) = match family {
        Family::Ipv4 => ("IPv4", libc::AF_INET),
        Family::Ipv6 => ("IPv6", libc::AF_INET6),
    };
    let target = Target::Netfilter { pf: pf as u32, hook: hook as u32, priority };
    sys::link_create(program, target).map_err(|source| LinkError {
        place: format!("netfilter {name} {} at priority {priority}", hook.name()),
        hint: netfilter_hint(&source),
        source,
    })
}

/// Puts a tc program on a device of the calling thread's network namespace.
///
/// # Errors
/// With the place and what to do.
pub fn link_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    direction: TcDirection,
    order: TcOrder,
) -> Result<OwnedFd, LinkError> {
    let attach_type = match direction {
        TcDirection::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        TcDirection::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    };
    // Relative to no program in particular: before all, after all.
    let flags = match order {
        TcOrder::First => BPF_F_BEFORE,
        TcOrder::Last => BPF_F_AFTER,
    };
    sys::link_create(program, Target::Tcx { ifindex, attach_type, flags }).map_err(|source| LinkError {
        place: format!("tc {} of device {ifindex}", direction.name()),
        hint: tcx_hint(&source),
        source,
    })
}

impl TcDirection {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

const CAPABILITIES: &str =
    "needs CAP_BPF and CAP_NET_ADMIN, or root; a container also a seccomp profile that allows bpf(2)";

/// `net/netfilter/nf_bpf_link.c`, `net/netfilter/core.c`.
fn netfilter_hint(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EPERM => CAPABILITIES,
        libc::EINVAL => "netfilter links need Linux 6.4 with CONFIG_NETFILTER_BPF_LINK",
        libc::EBUSY => "something else is registered at this very priority; take the next",
        libc::E2BIG => "the hook already has as many functions as it can hold",
        libc::EAFNOSUPPORT | libc::EPROTO => "this kernel cannot watch this hook of this family",
        libc::ERANGE => "the lowest and the highest priority are the kernel's own",
        _ => return None,
    })
}

/// `kernel/bpf/tcx.c`, `kernel/bpf/mprog.c`.
fn tcx_hint(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EPERM => CAPABILITIES,
        libc::EINVAL => "TCX needs Linux 6.6 with CONFIG_NET_XGRESS",
        libc::ENODEV => "no such device in this network namespace; it may just have gone",
        libc::EEXIST => "this program is there already",
        libc::ERANGE => "the device already has 64 programs, as many as it can hold",
        _ => return None,
    })
}
