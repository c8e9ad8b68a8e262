#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs a command inside the test machine's root, as the calling user: `in-root.sh COMMAND [ARGUMENT]...`
#
# The command finds the root with a throw-away layer over it, so that nothing it does there lasts; and
# the project's directory and the cache, at the places that they have outside. ALRANDOM_ROOT names the
# root to use; without it, it is the one that setup.sh has used last. ALRANDOM_LAYER names a directory of
# more packages to find there, as `setup.sh --layer` makes it.
set -eu
umask 022

# Variables of the caller's that the command gets.
passed="http_proxy https_proxy no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY TERM
	CARGO_BUILD_JOBS CARGO_NET_OFFLINE CARGO_TARGET_DIR CARGO_TERM_COLOR RUSTFLAGS RUSTDOCFLAGS
	CARGO_HTTP_CAINFO SSL_CERT_FILE"

die() {
	echo "error: $*" >&2
	exit 1
}

# Prints the value of the variable $1, or nothing.
value_of() {
	eval "printf %s \"\${$1-}\""
}

# The second half, as root in namespaces of its own.
inner() {
	root=$1 layer=$2 cache=$3 clone=$4 user=$5 group=$6 directory=$7
	shift 7
	mount -t tmpfs -o mode=0755 tmpfs "$cache/mnt"
	cd "$cache/mnt"
	mkdir lower base upper work new
	# A path with a colon or a comma can't be an option of overlay, so the root gets another name.
	mount --bind "$root/tree" lower
	layers=lower
	# A root that is a layer over another one.
	if [ -e "$root/base" ]; then
		mount --bind "$root/base/tree" base
		layers=lower:base
	fi
	if [ -n "$layer" ]; then
		mkdir layer
		mount --bind "$layer" layer
		layers=layer:$layers
	fi
	mount -t overlay -o lowerdir=$layers,upperdir=upper,workdir=work root new ||
		die "can't mount an overlay: root may not do that here (a container without privileges?)"
	mount --rbind /dev new/dev
	mount -t proc proc new/proc
	mount -t tmpfs -o mode=1777 tmpfs new/tmp
	# To fetch crates: how the host finds other hosts, and whom it trusts.
	for file in /etc/resolv.conf /etc/hosts; do
		[ ! -r "$file" ] || cp -L "$file" "new$file"
	done
	for file in "${CARGO_HTTP_CAINFO-}" "${SSL_CERT_FILE-}" /etc/ssl/certs/ca-certificates.crt; do
		if [ -n "$file" ] && [ -r "$file" ]; then
			cp -L "$file" new/etc/ssl/certs/ca-certificates.crt
			break
		fi
	done
	for path in "$cache" "$clone"; do
		mkdir -p "new$path"
		mount --bind "$path" "new$path"
	done
	set -- sh -c 'cd "$1" 2>/dev/null || cd /; shift; exec "$@"' sh "$directory" "$@"
	for name in $passed; do
		value=$(value_of "$name")
		case $name in CARGO_HTTP_CAINFO | SSL_CERT_FILE) continue ;; esac
		[ -z "$value" ] || set -- "$name=$value" "$@"
	done
	# Not by exec: the first process of a namespace, which this is, does not die of Ctrl-C.
	status=0
	chroot --userspec="$user:$group" --groups= new \
		env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
		HOME="$cache/home" CARGO_HOME="$cache/cargo" "$@" || status=$?
	exit $status
}

if [ "${1-}" = --inner ]; then
	shift
	inner "$@"
fi

[ $# -gt 0 ] || die "usage: in-root.sh COMMAND [ARGUMENT]..."
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
root=${ALRANDOM_ROOT:-$cache/root-current}
[ -d "$root/tree" ] || die "there is no root in $root: run $here/setup.sh"
mkdir -p "$cache/mnt" "$cache/home" "$cache/cargo"

# Nothing that the command starts outlives it.
set -- unshare --mount --pid --fork --kill-child sh "$here/in-root.sh" --inner \
	"$(readlink -f "$root")" "${ALRANDOM_LAYER-}" "$cache" "$(cd "$here/../.." && pwd)" "$(id -u)" "$(id -g)" "$PWD" "$@"
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null ||
		die "entering the test machine's root takes root: install sudo, or run this as root"
	for name in $passed; do
		value=$(value_of "$name")
		[ -z "$value" ] || set -- "$name=$value" "$@"
	done
	set -- sudo env "$@"
fi
exec "$@"
