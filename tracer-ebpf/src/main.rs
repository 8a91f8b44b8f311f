// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The BPF programs. Entry points are thin, one file per hook family; what they share is in
//! `packet` (headers), `judge` (is it ours?), `conntrack` (NAT), `emit` (the record).
#![no_std]
#![no_main]
// Inline assembly for BPF is not stable yet; the compiler that builds this is nightly, or told to be.
#![feature(asm_experimental_arch)]

mod conntrack;
mod debug;
mod devices;
mod drops;
mod emit;
mod fib;
mod icmp;
mod judge;
mod kernel;
mod maps;
mod nf;
mod packet;
mod tc;
mod tcp;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: nothing in the programs panics (a test looks for it in the object), so this is never linked.
    unsafe { core::hint::unreachable_unchecked() }
}
