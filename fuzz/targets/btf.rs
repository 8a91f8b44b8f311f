// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel's BTF, and a module's that goes on from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::bpf::btf::KernelBtf;

fuzz_target!(|input: (Vec<u8>, Option<Vec<u8>>)| {
    let (base, module) = input;
    let Ok(btf) = KernelBtf::from_bytes(base, module) else { return };
    let _ = (btf.resolve_fields(), btf.reasons());
    for container in ["sk_buff", "net_device", "nf_conn", "a", ""] {
        for path in ["mark", "nd_net.net", "a.b", ".", ""] {
            let _ = btf.try_field(container, path);
        }
        let _ = (btf.struct_size(container), btf.enum_values(container));
        let _ = (btf.tracepoint_args(container), btf.tracepoint_id(container));
    }
});
