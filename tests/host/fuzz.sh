#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Fuzzes the health tests against their model for a bounded time.
#
#   fuzz.sh [SECONDS]        60 by default; fails at the first disagreement and keeps its input in
#                            fuzz/artifacts
#
# Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler for libFuzzer; a stable toolchain
# will do. What it has learned stays in fuzz/corpus.
set -eu

cd "$(dirname "$0")"
cargo fuzz --version >/dev/null 2>&1 || {
	echo "fuzz: cargo-fuzz is missing: cargo install --locked cargo-fuzz" >&2
	exit 1
}
# There is no unsafe code to watch with a sanitizer, and without one no nightly toolchain is needed.
exec cargo fuzz run --fuzz-dir fuzz --sanitizer none health -- \
	-max_total_time="${1:-60}" -max_len=2048 -print_final_stats=1
