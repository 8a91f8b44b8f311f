// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Reading the kernel's structures, at the offsets that user space found in the BTF.

use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_map_lookup_elem, bpf_probe_read_kernel},
};

#[cfg(target_arch = "bpf")]
use tracer_common::RDONLY_CAST;

use crate::frozen;
use crate::maps::{CONFIG, DEV_SLOTS, DEVICES, NETNS};

/// Offset of a field, or -1.
#[macro_export]
macro_rules! field {
    ($name:ident) => {
        $crate::frozen!($crate::maps::FIELDS.$name)
    };
}

/// Loads a field through a pointer that the verifier knows the type of. 0 where the kernel has no such field.
#[macro_export]
macro_rules! typed {
    ($ptr:expr, $name:ident, $ty:ty) => {{
        let offset = $crate::field!($name);
        if offset < 0 { 0 as $ty } else { $crate::kernel::load::<$ty>($ptr, offset) }
    }};
}

/// The same for a field of one bit.
#[macro_export]
macro_rules! typed_bit {
    ($ptr:expr, $name:ident) => {{
        let bit = $crate::field!($name);
        bit >= 0 && $crate::kernel::load::<u8>($ptr, bit >> 3) >> (bit & 7) & 1 != 0
    }};
}

/// Reads a field through an address that is just a number. 0 where it cannot be read or does not exist.
#[macro_export]
macro_rules! probed {
    ($addr:expr, $name:ident, $ty:ty) => {{
        let offset = $crate::field!($name);
        if offset < 0 {
            0 as $ty
        } else {
            $crate::kernel::probe::<$ty>($addr as u64 + offset as u64).unwrap_or(0)
        }
    }};
}

/// The only place that dereferences a typed kernel pointer.
#[inline(always)]
pub fn load<T: Copy>(ptr: u64, offset: i32) -> T {
    // SAFETY: the verifier checks that `offset` is a field of this size in the structure `ptr` is typed as;
    // a fault while loading through such a pointer reads as 0.
    unsafe { core::ptr::read_volatile((ptr as *const u8).wrapping_offset(offset as isize).cast::<T>()) }
}

/// The number that a pointer is: the verifier allows no arithmetic on what it knows to be one.
///
/// It forgets what it knows when the pointer goes through an atomic exchange. (A per-CPU map would do the
/// same, but an interrupt could write to it in between.)
#[inline(always)]
pub fn number(ptr: u64) -> u64 {
    let mut slot = 0u64;
    // SAFETY: exchanges a variable of this function.
    unsafe {
        core::arch::asm!(
            "{v} = xchg_64({p} + 0, {v})",
            p = in(reg) &raw mut slot,
            v = inout(reg) ptr => _,
            options(nostack),
        );
        core::ptr::read_volatile(&raw const slot)
    }
}

/// Most bytes that may be read through one [`view`].
pub const VIEW: usize = 48;

/// A pointer through which up to [`VIEW`] bytes from any kernel address on may be loaded directly; what cannot be
/// read is 0. `None` where the kernel has no `bpf_rdonly_cast`.
///
/// The verifier takes the address for that of an sk_buff whose `cb` (48 bytes, of which any size may be loaded)
/// begins there.
#[inline(always)]
pub fn view(addr: u64) -> Option<*const u8> {
    let (ty, cb) = (frozen!(CONFIG.skb_type), field!(skb_cb));
    if ty == 0 || cb < 0 {
        return None;
    }
    #[cfg(not(target_arch = "bpf"))]
    let skb = addr.wrapping_sub(cb as u64);
    #[cfg(target_arch = "bpf")]
    let skb: u64;
    #[cfg(target_arch = "bpf")]
    // SAFETY: stands for a call of `void *bpf_rdonly_cast(const void *, u32 btf_id)`, which returns its first
    // argument; the registers are those of any call.
    unsafe {
        core::arch::asm!(
            "call {function}",
            function = const RDONLY_CAST,
            out("r0") skb,
            inout("r1") addr.wrapping_sub(cb as u64) => _,
            inout("r2") u64::from(ty) => _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack),
        );
    }
    Some((skb as *const u8).wrapping_offset(cb as isize))
}

/// Copies `T` from any kernel address. `None` on a fault, or zeros.
#[inline(always)]
pub fn probe<T: Copy>(addr: u64) -> Option<T> {
    if size_of::<T>() <= VIEW
        && let Some(at) = view(addr)
    {
        // SAFETY: within the view. `T` is integers or arrays of them.
        return Some(unsafe { core::ptr::read_volatile(at.cast::<T>()) });
    }
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the destination is `size_of::<T>()` bytes; the helper checks the source itself.
    let r = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast::<c_void>(),
            size_of::<T>() as u32,
            addr as *const c_void,
        )
    };
    if r == 0 {
        // SAFETY: the helper filled all of it. `T` is integers or arrays of them.
        Some(unsafe { value.assume_init() })
    } else {
        None
    }
}

/// The same into `value`, without a copy on the stack. False on a fault: `value` is zeroed then.
#[inline(always)]
pub fn probe_into<T: Copy>(addr: u64, value: &mut T) -> bool {
    if size_of::<T>() <= VIEW
        && let Some(at) = view(addr)
    {
        // SAFETY: within the view. `T` is integers or arrays of them.
        *value = unsafe { core::ptr::read_volatile(at.cast::<T>()) };
        return true;
    }
    // SAFETY: the destination is `size_of::<T>()` bytes of integers; the helper checks the source itself.
    let r = unsafe {
        bpf_probe_read_kernel(
            core::ptr::from_mut(value).cast::<c_void>(),
            size_of::<T>() as u32,
            addr as *const c_void,
        )
    };
    r == 0
}

/// Inode number of the namespace of a `struct net` at an untyped address.
#[inline(always)]
pub fn netns_of_net(net: u64) -> u32 {
    if net == 0 { 0 } else { probed!(net, net_inum, u32) }
}

/// Namespace of a `struct net_device` at an untyped address, through a small per-CPU cache: a device keeps
/// its address while it lives, and one that moves to another namespace is registered anew there.
#[inline(always)]
pub fn netns_of_device(dev: u64) -> u32 {
    if dev == 0 {
        return 0;
    }
    let slot = (dev >> 6) as u32 & (DEV_SLOTS - 1);
    let Some(slot) = DEVICES.get_ptr_mut(slot) else { return 0 };
    // SAFETY: a pointer into this CPU's value of the map.
    let cached = unsafe { *slot };
    // A reader that interrupts the two writes below sees the old or a zero namespace, never a mix:
    // the namespace is stored with the device's low bits.
    let key = dev << 32;
    if cached.dev == dev && cached.netns & 0xffff_ffff_0000_0000 == key {
        return cached.netns as u32;
    }
    let netns = netns_of_net(probed!(dev, dev_net, u64));
    // SAFETY: as above.
    unsafe { *slot = crate::maps::DevSlot { dev, netns: key | netns as u64 } };
    netns
}

/// Is this namespace one that we watch?
#[inline(always)]
pub fn is_watched(netns: u32) -> bool {
    // SAFETY: the key outlives the call; the result is only compared with null.
    unsafe { !bpf_map_lookup_elem((&raw const NETNS).cast_mut().cast(), (&raw const netns).cast()).is_null() }
}
