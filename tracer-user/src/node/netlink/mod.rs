// SPDX-License-Identifier: MIT OR Apache-2.0
//! Netlink: sockets that belong to a namespace, requests, and bounds-checked reading of the answers.
//!
//! Messages are taken apart with `netlink-packet-core`; the few attributes we need are read here and not
//! with `netlink-packet-route`, which gives up on a whole message when one name in it is not UTF-8.

mod attributes;
mod socket;

pub(crate) use attributes::{Request, attributes, be32, ip, ne32, text};
pub(crate) use socket::Netlink;
pub use socket::NetlinkError;
