#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs tests/host/bench/bench.sh inside the test machine's root, with the compilers and the flags of its
# kernel: `bench.sh inspect` or `bench.sh run [FILE.json]`.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom

root=$("$here/vm/setup.sh" --root-only | sed -n 's/^root=//p')
out=$cache/bench
mkdir -p "$out"
file=${2-$out/bench.json}
export ALRANDOM_ROOT="$root"
# The same copy of the headers as the test machine's.
exec "$here/vm/in-root.sh" sh -euc '
	tool=$1/rust-metadata
	rustc --edition 2021 -O -o "$tool" "$5/tools/rust-metadata.rs"
	release=$(ls /lib/modules | head -n 1)
	"$tool" --cache "$2" "$release" >&2
	KDIR=$("$tool" --cache "$2" --find "$release") OUT=$1 "$5/tests/host/bench/bench.sh" "$3" "$4"
' sh "$out" "$cache/headers-${root##*/}" "${1-run}" "$file" "$clone"
