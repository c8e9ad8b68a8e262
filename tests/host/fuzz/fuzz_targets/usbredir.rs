// SPDX-License-Identifier: GPL-2.0

//! Packets of hostile peers: the emulator's end of usbredir.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    host_tests::packets::fuzz(data);
});
