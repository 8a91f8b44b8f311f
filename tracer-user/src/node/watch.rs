// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notices of the kernel that a watched namespace has changed.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::hooks::HookSource;
use super::netlink::{Netlink, NetlinkError};
use super::netns::{Netns, NetnsError};
use super::rtnl::Neighbour;
use super::topology::NetnsId;

/// How long to wait for the rest of a change: a pod's veth comes with a dozen notices.
const SETTLE: Duration = Duration::from_millis(20);
/// How often to look for what sends no notice: legacy tables, the end of a namespace.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("cannot wait for changes of {netns}: {source}")]
    Wait { netns: String, source: io::Error },
}

/// What has changed since the last time, in which namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Devices, addresses, or where a watched address is on a bridge.
    pub devices: BTreeSet<NetnsId>,
    /// Routes or rules.
    pub routes: BTreeSet<NetnsId>,
    /// Chains and tables: what is registered at the hooks.
    pub hooks: BTreeSet<NetnsId>,
    /// Rules inside nftables chains (iptables-nft's too). Those of iptables-legacy change unnoticed.
    pub rules: BTreeSet<NetnsId>,
    /// Namespaces that ended: detach and [`super::Observer::forget`] them. They are no longer watched.
    pub gone: BTreeSet<NetnsId>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Watches namespaces. Its sockets keep them alive, so it looks for their end by itself.
#[derive(Debug)]
pub struct Watcher {
    watched: Vec<Watched>,
    pending: Change,
    /// When `pending` is to be told.
    due: Option<Instant>,
    look: tokio::time::Interval,
}

#[derive(Debug)]
struct Watched {
    netns: Netns,
    route: AsyncFd<Netlink>,
    netfilter: Option<AsyncFd<Netlink>>,
    legacy: HookSource,
    fingerprint: [Vec<String>; 2],
    /// Addresses whose place on a bridge is wanted.
    ends: Vec<IpAddr>,
}

impl Watcher {
    /// Starts watching; call it before the first [`super::Observer::observe`], so that nothing is missed in
    /// between, and within a tokio runtime. `ends`: source and destination, where they are whole addresses.
    pub fn new<'a>(
        namespaces: impl IntoIterator<Item = &'a Netns>,
        ends: &[IpAddr],
    ) -> Result<Self, WatchError> {
        let watched = namespaces.into_iter().map(|n| Watched::open(n, ends)).collect::<Result<_, _>>()?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { watched, pending: Change::default(), due: None, look })
    }

    /// Waits until something has changed, and 20 ms more for what comes with it. May be dropped and called
    /// again without losing anything.
    pub async fn changed(&mut self) -> Result<Change, WatchError> {
        loop {
            let due = self.due;
            tokio::select! {
                () = async { match due { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                    self.due = None;
                    return Ok(std::mem::take(&mut self.pending));
                }
                _ = self.look.tick() => self.look_around(),
                news = any_news(&mut self.watched) => merge(&mut self.pending, news?),
            }
            if !self.pending.is_empty() && self.due.is_none() {
                self.due = Some(Instant::now() + SETTLE);
            }
        }
    }

    /// Also wants to know where these addresses are on a bridge.
    pub fn follow(&mut self, ends: &[IpAddr]) {
        for at in &mut self.watched {
            at.ends.extend_from_slice(ends);
        }
    }

    fn look_around(&mut self) {
        for at in &mut self.watched {
            let now = at.legacy.legacy_fingerprint();
            if now != at.fingerprint {
                at.fingerprint = now;
                self.pending.hooks.insert(at.netns.id());
            }
        }
        let gone = self.watched.extract_if(.., |at| at.netns.is_gone());
        self.pending.gone.extend(gone.map(|at| at.netns.id()));
    }
}

fn merge(into: &mut Change, mut from: Change) {
    into.devices.append(&mut from.devices);
    into.routes.append(&mut from.routes);
    into.hooks.append(&mut from.hooks);
    into.rules.append(&mut from.rules);
    into.gone.append(&mut from.gone);
}

/// Waits for a notice from any of them, and reads what there is. Cancelling it loses nothing: what was read
/// is returned in the same poll.
async fn any_news(watched: &mut [Watched]) -> Result<Change, WatchError> {
    std::future::poll_fn(|cx| {
        let mut change = Change::default();
        let mut failed = None;
        for at in watched.iter_mut() {
            if let Err(source) = at.poll(cx, &mut change) {
                failed = Some(WatchError::Wait { netns: at.netns.name().to_owned(), source });
            }
        }
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if change.is_empty() => std::task::Poll::Pending,
            None => std::task::Poll::Ready(Ok(change)),
        }
    })
    .await
}

impl Watched {
    fn open(netns: &Netns, ends: &[IpAddr]) -> Result<Self, WatchError> {
        const ROUTE_GROUPS: [libc::c_uint; 8] = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ];
        let name = netns.name();
        let (route, netfilter, legacy) = netns.run(|| {
            (
                Netlink::open(libc::NETLINK_ROUTE, name, &ROUTE_GROUPS),
                // Without nftables there is no such group, and nothing to watch.
                Netlink::open(libc::NETLINK_NETFILTER, name, &[libc::NFNLGRP_NFTABLES as libc::c_uint]).ok(),
                HookSource::open(name),
            )
        })?;
        let register = |socket| {
            // SAFETY: the descriptor belongs to the `Netlink`, which never replaces it and closes it only
            // when it is dropped, with the `AsyncFd` that owns it.
            unsafe { AsyncFd::register(socket) }
                .map_err(|e| WatchError::Wait { netns: name.to_owned(), source: e.into() })
        };
        let legacy = legacy?;
        Ok(Self {
            route: register(route?)?,
            netfilter: netfilter.map(register).transpose()?,
            fingerprint: legacy.legacy_fingerprint(),
            legacy,
            netns: netns.clone(),
            ends: ends.to_vec(),
        })
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>, change: &mut Change) -> io::Result<()> {
        let id = self.netns.id();
        let ends = &self.ends;
        drain(&mut self.route, cx, |message| match message {
            None => {
                change.devices.insert(id);
                change.routes.insert(id);
            }
            Some((kind, payload)) => match kind {
                libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR => {
                    change.devices.insert(id);
                }
                libc::RTM_NEWROUTE | libc::RTM_DELROUTE | libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                    change.routes.insert(id);
                }
                libc::RTM_NEWNEIGH
                    if Neighbour::parse(kind, payload)
                        .is_some_and(|n| !n.mac.is_empty() && ends.contains(&n.address)) =>
                {
                    change.devices.insert(id);
                }
                _ => {}
            },
        })?;
        let Some(netfilter) = &mut self.netfilter else { return Ok(()) };
        drain(netfilter, cx, |message| {
            let concerns_rules = message.is_none_or(|(kind, _)| {
                matches!(libc::c_int::from(kind & 0xff), libc::NFT_MSG_NEWRULE | libc::NFT_MSG_DELRULE)
            });
            if concerns_rules {
                change.rules.insert(id);
            }
            // Rules and sets come and go without changing what is registered.
            let concerns_hooks = message.is_none_or(|(kind, _)| {
                matches!(
                    libc::c_int::from(kind & 0xff),
                    libc::NFT_MSG_NEWTABLE
                        | libc::NFT_MSG_DELTABLE
                        | libc::NFT_MSG_NEWCHAIN
                        | libc::NFT_MSG_DELCHAIN
                )
            });
            if concerns_hooks {
                change.hooks.insert(id);
            }
        })
    }
}

/// Reads all datagrams there are. `each` gets every message, or `None` when some were lost.
fn drain(
    socket: &mut AsyncFd<Netlink>,
    cx: &mut std::task::Context<'_>,
    mut each: impl FnMut(Option<(u16, &[u8])>),
) -> io::Result<()> {
    while let std::task::Poll::Ready(guard) = socket.poll_read_ready_mut(cx) {
        let mut guard = guard?;
        match guard.get_inner_mut().receive() {
            Ok(messages) => messages.for_each(|m| each(Some((m.kind, m.payload)))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // More notices than the socket holds: everything may have changed.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => each(None),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
