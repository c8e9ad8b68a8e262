#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs everything that needs no virtual machine: formatting, lints, documentation and the tests of the
# crates under tests/ and of the tools. Uses the host's Rust if it is complete and new enough, otherwise
# the one in the test machine's root. `check.sh FILTER` runs only the tests with FILTER in their names.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/.." && pwd)

# Oldest minor version of Rust 1 that will do; rust-version in Cargo.toml.
OLDEST=85

# Whether the host's cargo, rustfmt and clippy are there and new enough.
host_rust() {
	cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 || return 1
	minor=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
	[ "${minor:-0}" -ge "$OLDEST" ]
}

# All tests, those that take minutes too: `make test` wants them, `make check` does not.
all=${ALRANDOM_CHECK-}

if [ "${1-}" != --here ]; then
	if [ "$all" = all ] && [ $# = 0 ]; then
		# The object that the kernel's flags make of the health tests.
		if "$here/bench.sh" inspect; then
			echo "check object code of the health tests: ok"
		else
			echo "check object code of the health tests: FAILED"
			all=failed
		fi
	fi
	export ALRANDOM_CHECK="$all"
	if host_rust; then
		export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$here/target}"
		exec sh "$here/check.sh" --here "$@"
	fi
	echo "==> the host has no Rust >= 1.$OLDEST with rustfmt and clippy: using the test machine's" >&2
	root=$("$here/vm/setup.sh" --root-only | sed -n 's/^root=//p')
	export ALRANDOM_ROOT="$root" CARGO_TARGET_DIR="$here/target"
	exec "$here/vm/in-root.sh" env ALRANDOM_CHECK="$all" sh "$here/check.sh" --here "$@"
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
case $all in
all) cargo test --locked --release -p host-tests -- --ignored || failed=1 ;;
failed)
	cargo test --locked --release -p host-tests -- --ignored
	failed=1
	;;
esac
exit $failed
