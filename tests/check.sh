#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs everything that needs no virtual machine: formatting, lints, documentation and the tests of the
# crates under tests/ and of the tools. Uses the host's Rust if it is complete and new enough, otherwise
# the one in the test machine's root. `check.sh FILTER` runs only the tests with FILTER in their names.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom

# Oldest minor version of Rust 1 that will do; rust-version in Cargo.toml.
OLDEST=85

# Whether the host's cargo, rustfmt and clippy are there and new enough.
host_rust() {
	cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 || return 1
	minor=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
	[ "${minor:-0}" -ge "$OLDEST" ]
}

if [ "${1-}" != --here ]; then
	if host_rust; then
		export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target-host}"
		exec sh "$here/check.sh" --here "$@"
	fi
	echo "==> the host has no Rust >= 1.$OLDEST with rustfmt and clippy: using the test machine's" >&2
	root=$("$here/vm/setup.sh" --root-only | sed -n 's/^root=//p')
	export ALRANDOM_ROOT="$root" CARGO_TARGET_DIR="$cache/target-${root##*/root-}"
	exec "$here/vm/in-root.sh" sh "$here/check.sh" --here "$@"
fi
shift

failed=0
# check NAME COMMAND...: runs the command, and says how it ended in a form that is easy to count.
check() {
	name=$1
	shift
	if "$@"; then
		echo "check $name: ok"
	else
		echo "check $name: FAILED"
		failed=1
	fi
}

cd "$here"
mkdir -p "$CARGO_TARGET_DIR"
if [ $# = 0 ]; then
	check "rustfmt of tests" cargo fmt --all --check
	# The module's root file names the others, which rustfmt follows.
	check "rustfmt of the module and the tools" rustfmt --check --edition 2021 "$clone"/alrandom.rs "$clone"/tools/*.rs
	check "clippy" cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	check "rustdoc" env RUSTDOCFLAGS="-D warnings" \
		cargo doc --locked --quiet --workspace --no-deps --document-private-items
	for tool in "$clone"/tools/*.rs; do
		[ -e "$tool" ] || continue
		binary=$CARGO_TARGET_DIR/$(basename "$tool" .rs)-tests
		check "build of the tests of $(basename "$tool")" rustc --edition 2021 -D warnings --test -o "$binary" "$tool"
		"$binary" || failed=1
	done
fi
cargo test --locked --workspace --no-fail-fast -- "$@" || failed=1
exit $failed
