// SPDX-License-Identifier: GPL-2.0

//! Scripts of blocks and events: the health tests against the model.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| host_tests::script::fuzz(data));
