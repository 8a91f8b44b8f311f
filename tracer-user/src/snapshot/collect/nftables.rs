// SPDX-License-Identifier: MIT OR Apache-2.0
//! nf_tables over netlink: chains, sets with their elements, and rules, as the kernel keeps them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;

use super::ipset;
use crate::firewall::bytecode::{self, Dump, Outside, Ruleset};
use crate::node::netlink::{Netlink, NetlinkError, Request, attributes, be32};
use crate::text::printable;

// include/uapi/linux/netfilter/nf_tables.h
const NFTA_GEN_ID: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;

/// How often rules that change while they are read are read again.
const TRIES: usize = 4;

pub(super) struct Read {
    /// `None`: it changed meanwhile, several times.
    pub(super) generation: Option<u32>,
    pub(super) ruleset: Ruleset,
}

/// All rules of the namespace of the calling thread. Nothing where the kernel has no nf_tables.
pub(super) fn read(netns: &str) -> Result<Read, NetlinkError> {
    let mut netlink = Netlink::open(libc::NETLINK_NETFILTER, netns, &[])?;
    let mut last = Ruleset::default();
    for _ in 0..TRIES {
        let before = generation(&mut netlink);
        match ruleset(&mut netlink) {
            Ok(read) => last = read,
            Err(error) if error.is_unsupported() && before.is_none() => break,
            // A set went away between the list of them and its elements.
            Err(error) if error.is_unsupported() => continue,
            Err(error) => return Err(error),
        }
        if before.is_some() && generation(&mut netlink) == before {
            return Ok(Read { generation: before, ruleset: last });
        }
    }
    Ok(Read { generation: None, ruleset: last })
}

/// The number of the last change of the rules.
pub(super) fn current_generation(netns: &str) -> Option<u32> {
    generation(&mut Netlink::open(libc::NETLINK_NETFILTER, netns, &[]).ok()?)
}

fn kind(message: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8) as u16 | message as u16
}

fn generation(netlink: &mut Netlink) -> Option<u32> {
    let request = Request::one("nftables generation", kind(libc::NFT_MSG_GETGEN), &[0; 4]);
    let parse = |message: u16, payload: &[u8]| {
        let (_, rest) = payload.split_at_checked(4)?;
        let id = attributes(rest).find(|(kind, _)| *kind == NFTA_GEN_ID).and_then(|(_, v)| be32(v))?;
        (message == kind(libc::NFT_MSG_NEWGEN)).then_some(id)
    };
    netlink.one(&request, parse).ok()?
}

fn ruleset(netlink: &mut Netlink) -> Result<Ruleset, NetlinkError> {
    let mut reader = bytecode::Reader::new(&dump(netlink)?);
    let sets: RefCell<HashMap<u16, Option<String>>> = RefCell::default();
    let ipset = |index| sets.borrow_mut().entry(index).or_insert_with(|| ipset::name_of(index)).clone();
    let outside = Outside { device: &device_name, ipset: &ipset };
    // Each is read as it comes: a copy of all would be megabytes.
    let request = Request::dump("nftables rules", kind(libc::NFT_MSG_GETRULE), &[0; 4]);
    netlink.each(&request, &mut |message, payload| {
        if message == kind(libc::NFT_MSG_NEWRULE) {
            reader.rule(payload, &outside);
        }
    })?;
    Ok(reader.finish())
}

fn dump(netlink: &mut Netlink) -> Result<Dump, NetlinkError> {
    let mut all = |what, get, new, fixed: &[u8; 4]| {
        let parse = |message: u16, payload: &[u8]| (message == kind(new)).then(|| payload.to_vec());
        netlink.dump(&Request::dump(what, kind(get), fixed), parse)
    };
    let chains = all("nftables chains", libc::NFT_MSG_GETCHAIN, libc::NFT_MSG_NEWCHAIN, &[0; 4])?;
    let sets = all("nftables sets", libc::NFT_MSG_GETSET, libc::NFT_MSG_NEWSET, &[0; 4])?;
    let mut elements = Vec::new();
    for set in sets.iter().filter_map(|payload| bytecode::set_key(payload)) {
        let fixed = [set.family, 0, 0, 0];
        let request = Request::dump("a set's elements", kind(libc::NFT_MSG_GETSETELEM), &fixed)
            .attribute(NFTA_SET_ELEM_LIST_TABLE, &set.table)
            .attribute(NFTA_SET_ELEM_LIST_SET, &set.name);
        let parse = |message: u16, payload: &[u8]| {
            (message == kind(libc::NFT_MSG_NEWSETELEM)).then(|| payload.to_vec())
        };
        elements.extend(netlink.dump(&request, parse)?);
    }
    Ok(Dump { chains, sets, elements })
}

/// Of a device of the namespace of the calling thread.
fn device_name(ifindex: u32) -> Option<String> {
    let mut name = [0; libc::IFNAMSIZ];
    // SAFETY: the buffer has the size that if_indextoname(3) asks for.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: on success it is a string within the buffer, with a zero at its end.
    Some(printable(unsafe { CStr::from_ptr(name.as_ptr()) }.to_bytes()))
}
