// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet that EgressGateway left alone.

use std::net::IpAddr;

use crate::snapshot::NetnsEvidence;

/// A packet that left the pod's node without mark and tunnel, or would.
pub(crate) struct Bare<'a> {
    pub(crate) node: &'a NetnsEvidence,
    /// Of the node; safe to print.
    pub(crate) name: &'a str,
    /// As the pod sent it.
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) left_as: IpAddr,
    /// "the packet left" or "the packet would leave".
    pub(crate) left: &'a str,
}
