#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The benchmarks.
#
#   bench.sh all [PART [ROUNDS]]    all of them, or only `health`, or those of the stream in a virtual
#                                   machine that have PART in their names (see CONTRIBUTING.md); all
#                                   figures go to one JSON file in the cache
#   bench.sh run [FILE]             that of the health tests, with its figures as JSON to FILE
#   bench.sh inspect                look at the object that the kernel's flags make of the health tests
#
# The health tests are measured in the test machine's root, with the compilers and the flags of its kernel, by
# tests/host/bench/bench.sh.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
out=$cache/bench
mkdir -p "$out"

# of_health WHAT FILE: runs tests/host/bench/bench.sh.
of_health() {
	root=$("$here/vm/setup.sh" --root-only | sed -n 's/^root=//p')
	# The same copy of the headers as the test machine's.
	ALRANDOM_ROOT="$root" "$here/vm/in-root.sh" sh -euc '
		tool=$1/rust-metadata
		rustc --edition 2021 -O -o "$tool" "$5/tools/rust-metadata.rs"
		release=$(ls /lib/modules | head -n 1)
		"$tool" --cache "$2" "$release" >&2
		KDIR=$("$tool" --cache "$2" --find "$release") OUT=$1 "$5/tests/host/bench/bench.sh" "$3" "$4"
	' sh "$out" "$cache/headers-${root##*/}" "$1" "$2" "$clone"
}

all() {
	part=$1
	status=0
	set -- --json "$out/bench.json" ${2:+--rounds "$2"}
	case $part in
	'' | health)
		echo "health tests, on the host"
		rm -f "$out/health.json"
		of_health run "$out/health.json" || status=$?
		[ ! -e "$out/health.json" ] || set -- "$@" --health "$out/health.json"
		[ -z "$part" ] || {
			echo "as JSON: $out/health.json"
			return "$status"
		}
		echo
		;;
	*) set -- "$@" --filter "$part" ;;
	esac
	"$here/vm/run.sh" bench "$@" || status=$?
	return "$status"
}

case ${1-run} in
all) all "${2-}" "${3-}" ;;
*) of_health "${1-run}" "${2-$out/health.json}" ;;
esac
