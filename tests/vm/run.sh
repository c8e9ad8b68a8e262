#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes what the test machine needs and starts its program: `run.sh shell|demo|test [OPTION]...`;
# `run.sh --help` has the options.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
made=$("$here/setup.sh")
root=$(echo "$made" | sed -n 's/^root=//p')
programs=$(echo "$made" | sed -n 's/^programs=//p')
export ALRANDOM_ROOT="$root"
exec "$programs/vm" --cache "$cache" --clone "$(cd "$here/../.." && pwd)" --root "$root" "$@"
