// SPDX-License-Identifier: GPL-2.0

//! Descriptors of hostile devices: the search for the union against its model.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    host_tests::descriptors::fuzz(data);
});
