#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What dkms.conf needs besides make:
#
#   dkms.sh check RELEASE     whether the module can be built for that kernel; if not, says why in one
#                             line and ends with status 1. Changes nothing.
#   dkms.sh prepare RELEASE   makes the Rust metadata, if the kernel's headers lack it, in the cache of
#                             the whole system; ends with status 77, which DKMS takes for a kernel to
#                             be skipped, if that cannot be done.

set -u

# DKMS's exit status for a kernel that is not for this module.
SKIP=77

usage() {
	echo "usage: dkms.sh check|prepare RELEASE" >&2
	exit 2
}

# Prints the value of a directive of dkms.conf.
directive() {
	sed -n "s/^$1=\"\(.*\)\"\$/\1/p" "$folder/dkms.conf"
}

# Says why the kernel cannot have the module.
refuse() {
	echo "alrandom: not built for kernel $release: $*" >&2
	exit 1
}

check() {
	build=/lib/modules/$release/build
	# DKMS itself says how to get headers that are missing.
	[ -e "$build/include" ] || exit 0

	oldest=$(directive BUILD_EXCLUSIVE_KERNEL_MIN)
	[ "$(printf '%s\n' "$oldest" "$release" | sort -V | head -n 1)" = "$oldest" ] ||
		refuse "it is older than Linux $oldest"
	config=$build/.config
	for symbol in $(directive BUILD_EXCLUSIVE_CONFIG); do
		grep -q "^$symbol=[ym]" "$config" || refuse "it was built without $symbol"
	done
	command -v "${RUSTC:-rustc}" >/dev/null ||
		refuse "rustc is not installed; run: apt-get install rustc rust-src bindgen"

	program=$(mktemp -d) || exit 1
	trap 'rm -rf "$program"' EXIT
	make -s -C "$folder" build="$program" "$program/rust-metadata" >&2 || exit 1
	status=0
	why=$("$program/rust-metadata" --check "$release" 2>&1 >/dev/null) || status=$?
	# Status 1 is a refusal; anything else shows again, and fully, when the work is done.
	[ $status != 1 ] || refuse "$(echo "$why" | sed -n '$s/^rust-metadata: //p')"
	# Headers that bring their metadata were not looked at that closely.
	wanted=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' "$config")
	actual=$("${RUSTC:-rustc}" --version)
	[ "$actual" = "${wanted:-$actual}" ] || refuse "it needs \"$wanted\", but rustc is \"$actual\""
}

prepare() {
	cd "$folder" || exit 1
	# The source may have been built in.
	make -s clean &&
		make -s "$PWD/build/rust-metadata" &&
		build/rust-metadata --clean &&
		make -s rust-metadata KVER="$release" ||
		exit $SKIP
}

[ $# = 2 ] || usage
action=$1
release=$2
folder=$(cd "$(dirname "$0")/.." && pwd -P) || exit 1
case $action in
check | prepare) $action ;;
*) usage ;;
esac
