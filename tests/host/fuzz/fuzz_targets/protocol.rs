// SPDX-License-Identifier: GPL-2.0

//! Answers of hostile devices: the wire protocol in a cycle of requests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    host_tests::exchange::fuzz(data);
});
