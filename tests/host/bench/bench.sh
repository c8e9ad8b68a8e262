#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Builds the health tests and a plain loop of the vendor's tests with the flags of a kernel module.
#
#   bench.sh inspect         look at the objects: no SSE or AVX, no panic, nothing undefined but what
#                            a module may use
#   bench.sh run [FILE]      measure, print, and write the figures to FILE as JSON; fails if the budget
#                            is exceeded
#
# KDIR is the build folder of a kernel with Rust metadata (as in `make KDIR=...`), OUT the folder for
# what is built (default: build/bench in the module's folder), RUSTC a Rust compiler for this machine.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
out=${OUT:-$top/build/bench}
rustc=${RUSTC:-rustc}

fail() {
	echo "bench: $*" >&2
	exit 1
}

[ -n "${KDIR:-}" ] || fail "KDIR is not set: give the build folder of the kernel (make KDIR=... bench)"
[ -e "$KDIR/scripts/target.json" ] || [ -d "$KDIR/rust" ] ||
	fail "$KDIR has no Rust metadata: make it with 'make rust-metadata' and give the folder it prints"

build() {
	mkdir -p "$out"
	${MAKE:-make} -s -C "$KDIR" M="$here" MO="$out" health_bench.o vendor_loop.o
}

inspect() {
	status=0
	for object in health_bench.o vendor_loop.o; do
		if objdump -d --no-show-raw-insn "$out/$object" | grep -E '%[xyz]mm|%st|%k[0-7]'; then
			echo "bench: $object uses vector or floating point registers" >&2
			status=1
		fi
	done
	# What formats a log line is in the kernel's core; the rest is in every kernel.
	undefined=$(nm -C -u "$out/health_bench.o" | sed 's/^ *U //' |
		grep -vE '^(mem(cpy|move|set|cmp)|__fentry__|__x86_(return|indirect)_thunk.*|core::fmt::.*|<.* as core::fmt::[A-Za-z]+>::fmt)$') || true
	if [ -n "$undefined" ]; then
		echo "bench: health_bench.o needs what health.rs must not need:" >&2
		echo "$undefined" >&2
		status=1
	fi
	[ "$status" = 0 ] && echo "health.rs as a kernel module: no vector registers, no way to panic"
	return "$status"
}

run() {
	# The plain loop is a chain of short jumps, whose speed depends on where it lies in a cache line, so
	# it is there four times, 16 bytes further each time.
	json=${1-}
	set --
	for offset in 0 16 32 48; do
		printf '.text\n.balign 64, 0x90\n.rept %d\nnop\n.endr\n.section .note.GNU-stack, "", @progbits\n' "$offset" |
			as -o "$out/gap_$offset.o" -
		objcopy --redefine-sym vendor_loop="vendor_loop_$offset" \
			--keep-global-symbol="vendor_loop_$offset" "$out/vendor_loop.o" "$out/vendor_loop_$offset.o"
		set -- "$@" -C link-arg="$out/gap_$offset.o" -C link-arg="$out/vendor_loop_$offset.o"
	done
	# The kernel's code wants addresses in the lowest 2 GB. What formats log lines is never called. The
	# gaps between the loops are to stay.
	"$rustc" --edition 2021 -O -C relocation-model=static -o "$out/bench" "$here/main.rs" \
		-C link-arg="$out/health_bench.o" "$@" \
		-C link-arg="$here/stubs.S" -C link-arg=-no-pie \
		-C link-arg=-Wl,--unresolved-symbols=ignore-all,--no-gc-sections
	"$out/bench" ${json:+"$json"}
}

case ${1:-} in
inspect)
	build
	inspect
	;;
run)
	shift
	build
	inspect
	run "$@"
	;;
*)
	fail "usage: bench.sh inspect | bench.sh run [FILE]"
	;;
esac
