// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doing something in another network namespace, without ever moving a thread that others use.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::thread;

/// Runs `work` in the network namespace behind `netns`, in a thread made for it that ends with it. The
/// caller waits, and stays where it is.
///
/// # Errors
/// When the thread cannot be started, or `setns(2)` is refused (needs `CAP_SYS_ADMIN`; the descriptor must
/// be a network namespace's).
///
/// # Panics
/// With the panic of `work`, if it panics.
pub fn in_netns<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, move || {
            enter(netns)?;
            Ok(work())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Inode number of a network namespace: what identifies it on this machine, as in `net:[4026531840]` and in
/// [`tracer_common::Event::netns`].
///
/// # Errors
/// When the descriptor cannot be asked.
pub fn netns_inode(netns: BorrowedFd<'_>) -> io::Result<u32> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the descriptor is open for the length of the call, and `stat` has room for the result.
    if unsafe { libc::fstat(netns.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat succeeded, so all of it was written.
    let inode = unsafe { stat.assume_init() }.st_ino;
    u32::try_from(inode).map_err(|_| io::Error::other(format!("inode {inode} is no network namespace's")))
}

fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns touches no memory of ours; it moves this thread only, which is `in_netns`'s own.
    match unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    fn current() -> io::Result<u32> {
        netns_inode(File::open("/proc/thread-self/ns/net")?.as_fd())
    }

    #[test]
    fn the_caller_stays_where_it_is() -> io::Result<()> {
        let before = current()?;
        // A thread of its own makes a namespace; the descriptor keeps it.
        let other = thread::spawn(|| {
            // SAFETY: moves this short-lived thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        });
        let other = match other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Ok(other) => other,
            Err(error) => {
                eprintln!("skipped: no network namespace can be made: {error}");
                return Ok(());
            }
        };
        let inside = in_netns(other.as_fd(), current)??;
        assert_eq!(inside, netns_inode(other.as_fd())?);
        assert_ne!(inside, before);
        assert_eq!(current()?, before);
        Ok(())
    }

    #[test]
    fn what_is_no_namespace_is_refused() -> io::Result<()> {
        let file = File::open("/proc/self/status")?;
        assert!(in_netns(file.as_fd(), || ()).is_err());
        Ok(())
    }
}
