#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes what the test machine needs, as far as it is not there: packages of the host, the root (see
# root.conf), and the programs under tests/, built inside that root. Prints `root=DIR` and, unless it is
# called with --root-only, `programs=DIR`. `setup.sh --layer NAME` makes a layer of root.conf's for the root,
# and prints `root=DIR` and `layer=DIR`.
#
# All of it goes to the cache, under names that say what it was made from. Each thing is made in another
# place and then renamed, under a lock: a run that is interrupted leaves nothing half made, and of two at
# once one waits.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
. "$here/root.conf"
. "$here/common.sh"
. "$here/programs.sh"

# Free space that making the root takes, in GB: the tree, its image, and what is built later.
SPACE=8

# Days after which a root that nobody has used is removed, with all that belongs to it, when a new one is
# made.
KEEP_DAYS=30

# Replaces $@ by apt's options, each of which is one line; none has a newline in it.
# Used as `eval "$options_as_arguments"`.
options_as_arguments='
	options=$(apt_options)
	while [ -n "$options" ]; do
		set -- "$@" "${options%%
*}"
		case $options in
		*"
"*) options=${options#*
} ;;
		*) options= ;;
		esac
	done'

make_root() {
	[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "the test machine needs a Debian host on amd64"
	free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge "$SPACE" ] || die "$cache has $free GB left and this takes $SPACE: set XDG_CACHE_HOME to a directory with more"
	root_for "making the test machine's root"
	need_mirror
	# What an interrupted run has left. It had its mounts in a namespace that is gone.
	for partial in "$cache"/root-*.partial; do
		[ ! -e "$partial" ] ||
			logged removal "removing what an interrupted run has left" as_root rm -rf --one-file-system "$partial"
	done
	set -- "$1" "$address"
	eval "$options_as_arguments"
	target=$1
	shift
	logged root "making a Debian $SUITE with kernel, compilers and tools (two minutes or so)" \
		as_root env "ALRANDOM_KERNEL=$KERNEL_SERIES" unshare --mount "$here/root.sh" make "$target.partial" "$@"
	as_root mv "$target.partial" "$target"
	for old in "$cache"/root-????????????????; do
		key=${old##*/root-}
		[ "$old" != "$target" ] && [ -z "$(find "$cache/used-$key" -mtime "-$KEEP_DAYS" 2>/dev/null)" ] || continue
		as_root rm -rf --one-file-system "$old" "$cache/headers-root-$key" "$cache/target-$key" \
			"$cache/programs-$key"-* "$cache/used-$key" "$cache/linux-root-$key" "$cache/layer-"*"-$key"
	done
}

# Makes the layer named $1, of the packages $2, in the directory $3.
make_layer() {
	root_for "making a layer of packages"
	[ ! -e "$3.partial" ] || as_root rm -rf --one-file-system "$3.partial"
	name=$1 packages=$2 target=$3
	set --
	eval "$options_as_arguments"
	logged "layer-$name" "installing $packages for the tests that need it" \
		as_root unshare --mount "$here/layer.sh" "$root" "$target.partial" "$packages" "$@"
	as_root mv "$target.partial" "$target"
}

mkdir -p "$cache/logs"
# shellcheck disable=SC2086 # A list of words.
host_packages $HOST_PROGRAMS

# shellcheck disable=SC2086 # However the lists are broken into lines, they are the same lists.
key=$( (echo $SUITE $KERNEL_SUITE $KERNEL_AT_LEAST "$KERNEL_SERIES" $BUILD_PACKAGES $GUEST_PACKAGES $NEWER_SUITES \
	$NEWER_PACKAGES $NEWER_FOLDER && cat "$here/root.sh") |
	sha256sum | cut -c 1-16)
root=$cache/root-$key
if [ ! -d "$root" ]; then
	lock root
	[ -d "$root" ] || make_root "$root"
	exec 9>&-
fi
: > "$cache/used-${root##*/root-}"
ln -sfn "${root##*/}" "$cache/root-current"
echo "root=$root"
case ${1-} in
--root-only) exit 0 ;;
--layer)
	packages=
	for name in $LAYERS; do
		[ "$name" != "$2" ] || eval "packages=\$LAYER_$name"
	done
	[ -n "$packages" ] || die "there is no layer $2, only $LAYERS"
	layer=$cache/layer-$2-$(echo "$packages" | sha256sum | cut -c 1-8)-${root##*/root-}
	if [ ! -d "$layer" ]; then
		lock layer
		[ -d "$layer" ] || make_layer "$2" "$packages" "$layer"
		exec 9>&-
	fi
	echo "layer=$layer/upper"
	exit 0
	;;
esac

programs=$cache/programs-${root##*/root-}-$(programs_key)
if [ ! -d "$programs" ]; then
	lock programs
	[ -d "$programs" ] || make_programs "$programs" "$root" x86_64-unknown-linux-gnu
	exec 9>&-
fi
touch "$programs"
echo "programs=$programs"
