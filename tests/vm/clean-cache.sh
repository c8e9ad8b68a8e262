#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Removes the cache. The root in it is root's.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
[ -d "$cache" ] || exit 0
if [ "$(id -u)" = 0 ]; then
	rm -rf --one-file-system "$cache"
else
	command -v sudo >/dev/null || {
		echo "clean-cache.sh: removing the test machine's root takes root: install sudo, or run this as root" >&2
		exit 1
	}
	sudo rm -rf --one-file-system "$cache"
fi
