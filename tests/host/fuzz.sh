#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Fuzzes the pure files of the driver and the emulator, guided by coverage.
#
#   fuzz.sh [SECONDS [TARGET [FILE]]]    all targets, or one, for so many seconds each (60 by default);
#                                        or one target on the input in FILE
#
# Of each target it prints how many cases were tried, and how much of its code they reached. Fails at the
# first case that fails, and keeps its input in fuzz/artifacts. SEED=N makes two runs begin alike.
#
# The fuzzer is libFuzzer, which is C++: it is built in the test machine's root, with the compilers there.
# What it has learned stays in the cache, and is where the next run begins.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
vm=$clone/tests/vm
. "$vm/common.sh"

# Targets, each a file in fuzz/fuzz_targets, with the length in bytes of its longest input.
TARGETS="cdc:512 protocol:768 usbredir:2048 health:2048"

# What has rustc and LLVM count the edges of the program's flow and compare operands, as libFuzzer wants
# it, and check what a debug build checks. It does not take a nightly compiler: only sanitizers would, and
# there is no unsafe code for them to watch.
COVERAGE="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
	-Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0
	-Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing"

seconds=${1:-60} only=${2-} input=${3-}
case $seconds in
*[!0-9]* | 0*) die "'$seconds' is no number of seconds: make fuzz SECONDS=60" ;;
esac
case ${SEED-} in
*[!0-9]*) die "'$SEED' is no seed: SEED is a number" ;;
esac
targets=
for target in $TARGETS; do
	[ -n "$only" ] && [ "$only" != "${target%:*}" ] || targets="$targets $target"
done
# shellcheck disable=SC2086 # A list.
[ -n "$targets" ] || die "there is no target $only, only" $(printf '%s ' $TARGETS | sed 's/:[0-9]*//g')
[ -z "$input" ] || [ -r "$input" ] || die "there is no input $input"

made=$("$vm/setup.sh" --layer clang)
root=$(printf '%s\n' "$made" | sed -n 's/^root=//p')
layer=$(printf '%s\n' "$made" | sed -n 's/^layer=//p')
built=$here/fuzz/target
mkdir -p "$cache/cargo" "$built"
(
	here=$vm
	. "$vm/programs.sh"
	cargo_config > "$cache/cargo/config.toml"
)

in_root() {
	ALRANDOM_ROOT=$root ALRANDOM_LAYER=$layer CARGO_TARGET_DIR=$built \
		RUSTFLAGS=$(echo $COVERAGE) "$vm/in-root.sh" "$@"
}

logged fuzz "building the fuzz targets" \
	in_root env CC=clang-19 CXX=clang++-19 cargo build --locked --release --target x86_64-unknown-linux-gnu \
	--manifest-path "$here/fuzz/Cargo.toml"

# Prints the last number that the fuzzer gave for $2, in its log $1.
figure() {
	sed -n "s/.*$2: *\([0-9][0-9]*\).*/\1/p" "$1" | tail -n 1
}

# run NAME LENGTH: runs one target.
run() {
	name=$1 length=$2
	program=$built/x86_64-unknown-linux-gnu/release/$name
	artifacts=$here/fuzz/artifacts/$name
	corpus=$cache/fuzz/$name
	log=$cache/logs/fuzz-$name.log
	mkdir -p "$artifacts" "$corpus"
	if [ -n "$input" ]; then
		in_root "$program" "$input"
		return
	fi
	seed=${SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
	say "$name: $seconds s, seed $seed"
	status=0
	in_root "$program" -seed="$seed" -max_total_time="$seconds" -max_len="$length" -timeout=20 \
		-print_final_stats=1 -artifact_prefix="$artifacts/" "$corpus" > "$log" 2>&1 || status=$?
	cases=$(figure "$log" 'stat::number_of_executed_units')
	# Coverage in edges; features are edges by how often they were taken.
	reached="$(figure "$log" cov) edges, $(figure "$log" ft) features"
	if [ "$status" = 0 ] && [ "${cases:-0}" -gt 0 ]; then
		echo "fuzz $name: $cases cases, 0 failures ($reached, $(find "$corpus" -type f | wc -l) inputs kept)"
		return
	fi
	grep -v -e '^#' -e '^[[:space:]]*NEW_FUNC' -e '^==' "$log" | head -n 40 | sed 's/^/    /' >&2
	artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
	echo "fuzz $name: ${cases:-0} cases, 1 failure (seed $seed; the whole log: $log)"
	[ -z "$artifact" ] || echo "    again: make fuzz TARGET=$name INPUT=$artifact"
	return 1
}

failed=0
for target in $targets; do
	run "${target%:*}" "${target#*:}" || failed=1
done
exit $failed
