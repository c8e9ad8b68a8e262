// SPDX-License-Identifier: GPL-2.0

//! Prints the table of the failure catalogue for `docs/health-tests.md`.

fn main() {
    print!("{}", host_tests::catalogue::table());
}
