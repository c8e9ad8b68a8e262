// SPDX-License-Identifier: GPL-2.0

//! The driver's `cdc.rs`: descriptors as devices send them, and as no device should.

#[allow(dead_code, unreachable_pub)]
#[path = "../../../cdc.rs"]
mod cdc;

use cdc::data_interface;
use proptest::prelude::*;

/// The functional descriptors of a serial device: header, call management, ACM, union.
const SERIAL: [u8; 19] = [
    5, 0x24, 0x00, 0x10, 0x01, // Header, CDC 1.10.
    5, 0x24, 0x01, 0x00, 0x01, // Call management.
    4, 0x24, 0x02, 0x02, // Abstract control management.
    5, 0x24, 0x06, 0x03, 0x07, // Union: control 3, data 7.
];

#[test]
fn the_union_names_the_data_interface() {
    assert_eq!(data_interface(&SERIAL), Some(7));
    assert_eq!(data_interface(&SERIAL[14..]), Some(7));
}

#[test]
fn descriptors_of_other_kinds_are_passed_over() {
    // An interface association, and an endpoint's descriptor with the union's subtype in its place.
    let mut extra = vec![8, 0x0b, 0, 2, 2, 2, 1, 0, 7, 0x05, 0x06, 3, 0x40, 0, 0];
    assert_eq!(data_interface(&extra), None);
    extra.extend(SERIAL);
    assert_eq!(data_interface(&extra), Some(7));
}

#[test]
fn without_a_union_there_is_no_answer() {
    assert_eq!(data_interface(&[]), None);
    assert_eq!(data_interface(&SERIAL[..14]), None);
}

#[test]
fn broken_lengths_end_the_search() {
    // Zero and one are no lengths; a length beyond the end, and a union too short for its name.
    for broken in [
        &[0, 0x24, 0x06, 0, 1][..],
        &[1, 5, 0x24, 0x06, 0, 1],
        &[200, 0x24, 0x06, 0, 1],
        &[4, 0x24, 0x06, 0],
        &[5, 0x24, 0x06, 0],
        &[5],
    ] {
        assert_eq!(data_interface(broken), None, "{broken:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(extra in prop::collection::vec(any::<u8>(), 0..600)) {
        let found = data_interface(&extra);
        // What is found was there.
        if let Some(number) = found {
            prop_assert!(extra.contains(&number));
        }
    }
}
