#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Tests the ways to install the module that README.md describes, with the commands from there:
# `run.sh [FILTER]`. Prints TAP; the whole output of what is run is in the log named at the end.
#
# Each way is a story, a file `NAME.sh` here, told in a throw-away layer over the test machine's root
# (tests/vm), by chroot. A story may keep what it has installed as an image; `NAME-guest.sh` then runs in a
# virtual machine that has that over its root, and no other copy of the module. The tests of a story
# build on one another: it is run as a whole if FILTER is a part of the name of one of them.
#
# It takes root, the network (kernels and other packages come from the Debian mirror), and 8 GB of disk
# while it runs.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom

STORIES="scripts package dkms"

# How long a story may take, in seconds, in the chroot or in the machine: several times of what it does
# on a slow one.
STORY_TIME=3600

die() {
	echo "error: $*" >&2
	exit 1
}

# What the tests of a file are called: the names of its `test_that` lines, and whose they are.
names() {
	story=$(basename "$1" .sh)
	sed -n "s,^[ 	]*test_that \"\([^\"]*\)\".*,install::${story%-guest}: \1,p" "$1"
}

# The half that runs as root in namespaces of its own, for one story.
inner() {
	story=$1 tree=$2 work=$3 log=$4 shared=$5
	cd "$work"
	mkdir lower upper work new
	# A path with a colon or a comma can't be an option of overlay, so the root gets another name.
	mount --bind "$tree" lower
	# Plain layers, which any kernel reads the same way.
	mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=off,metacopy=off,index=off root new ||
		die "can't mount an overlay in $work: set XDG_CACHE_HOME to a directory on a disk"
	mount -t tmpfs -o mode=0755 dev new/dev
	for node in full:7 null:3 random:8 urandom:9 zero:5; do
		mknod -m 0666 "new/dev/${node%:*}" c 1 "${node#*:}"
	done
	mknod -m 0666 new/dev/tty c 5 0
	ln -s /proc/self/fd new/dev/fd
	mkdir new/dev/pts new/dev/shm
	mount -t devpts -o newinstance,ptmxmode=0666 devpts new/dev/pts
	ln -s pts/ptmx new/dev/ptmx
	mount -t proc proc new/proc
	mount -t sysfs -o ro sysfs new/sys
	mount -t tmpfs -o mode=1777 tmpfs new/tmp
	mount -t tmpfs -o mode=0755 tmpfs new/run
	[ ! -r /etc/resolv.conf ] || cp -L /etc/resolv.conf new/etc/resolv.conf
	# What apt fetches is kept for the next run.
	mkdir -p "$shared/apt/archives/partial" "$shared/apt/lists/partial" new/var/cache/apt/archives
	mount --bind "$shared/apt/archives" new/var/cache/apt/archives
	mount --bind "$shared/apt/lists" new/var/lib/apt/lists
	mkdir -p new/root/alrandom new/run/alrandom/upper new/run/alrandom/results new/run/alrandom/metadata
	tar -C new/root/alrandom -xf "$work/project.tar"
	mount --bind -o ro upper new/run/alrandom/upper
	mount -o remount,ro,bind new/run/alrandom/upper
	mount --bind "$work/results" new/run/alrandom/results
	if [ -d "$shared/metadata" ]; then
		mount --bind "$shared/metadata" new/run/alrandom/metadata
		mount -o remount,ro,bind new/run/alrandom/metadata
	fi
	touch new/run/alrandom/log
	mount --bind "$log" new/run/alrandom/log
	set --
	for name in http_proxy https_proxy no_proxy; do
		value=$(eval "printf %s \"\${$name-}\"")
		[ -z "$value" ] || set -- "$@" "$name=$value"
	done
	chroot new env -i PATH=/run/alrandom/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive INITRD=No TERM=dumb "$@" \
		sh "/root/alrandom/tests/install/$story.sh"
}

if [ "${1-}" = --inner ]; then
	shift
	inner "$@"
	exit
fi

[ $# -le 1 ] || die "usage: run.sh [FILTER]"
chosen=
for story in $STORIES; do
	for file in "$here/$story.sh" "$here/$story-guest.sh"; do
		[ -e "$file" ] || continue
		if [ $# = 0 ] || names "$file" | grep -qF -- "$1"; then
			chosen="$chosen $story"
			break
		fi
	done
done
[ -n "$chosen" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "mounting and chroot take root: install sudo, or run this as root"
	as_root=sudo
fi
root=${ALRANDOM_ROOT:-$("$here/../vm/setup.sh" --root-only | sed -n 's/^root=//p')}
[ -d "$root/tree" ] || die "there is no root in $root"

mkdir -p "$cache/logs" "$cache/install"
# Of two runs at once one waits: they share what apt has fetched, and the log.
exec 9> "$cache/install.lock"
flock --nonblock 9 || {
	echo "==> another run tests the ways to install: waiting for it" >&2
	flock 9
}
log=$cache/logs/install.log
: > "$log"
work=$cache/install/work.$$
trap '$as_root rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' HUP INT TERM
# What an interrupted run has left; it had its mounts in a namespace that is gone.
for old in "$cache"/install/work.*; do
	[ ! -e "$old" ] || $as_root rm -rf --one-file-system "$old"
done

# The Rust metadata of the root's kernel, where the tests in the virtual machine have made it before.
metadata=$cache/headers-${root##*/}
[ ! -d "$metadata" ] || {
	$as_root mkdir -p "$cache/install/metadata"
	for copy in "$cache/install/metadata"/*/; do
		[ ! -e "$copy" ] || [ -e "$metadata/$(basename "$copy")" ] || $as_root rm -rf --one-file-system "$copy"
	done
	for copy in "$metadata"/*/; do
		[ ! -e "$copy/made-of" ] || [ -d "$cache/install/metadata/$(basename "$copy")" ] ||
			$as_root cp -R --preserve=mode,timestamps,links "$copy" "$cache/install/metadata/"
	done
}

failed=0
for story in $chosen; do
	$as_root rm -rf --one-file-system "$work"
	mkdir -p "$work/results"
	# What a clone holds: nothing that was built in it.
	(
		cd "$clone"
		if git rev-parse >/dev/null 2>&1; then
			git ls-files -z --cached --others --exclude-standard
		else
			find . -name target -prune -o -path ./build -prune -o -type f -print0
		fi | xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
			tar --null -T - -cf "$work/project.tar"
	)
	echo "# install::$story"
	# Nothing that it starts outlives it.
	$as_root unshare --mount --propagation private --pid --fork --kill-child \
		timeout "$STORY_TIME" \
		"$here/run.sh" --inner "$story" "$root/tree" "$work" "$log" "$cache/install" || {
		[ $? != 124 ] || echo "Bail out! $story.sh has not ended within $STORY_TIME s; the log tells where it hung: $log"
		failed=1
	}
	[ -e "$here/$story-guest.sh" ] || continue
	image=$work/results/$story.img
	if [ ! -e "$image" ]; then
		echo "not ok 1 - install::$story: what it has installed can be booted"
		echo "#   there is no image of it, for the story in the chroot did not get there"
		echo "1..1"
		failed=1
		continue
	fi
	{
		echo 'readme() { cat <<"END_OF_README"'
		cat "$clone/README.md"
		printf '%s\n' END_OF_README '}'
		printf 'STORY=%s\n' "$story"
		cat "$here/lib-guest.sh" "$here/$story-guest.sh"
	} > "$work/guest"
	timeout "$STORY_TIME" "$here/../vm/run.sh" shell --layer "$image" --systemd --emulator=--unplugged \
		--cmd "$(cat "$work/guest")" < /dev/null 2>> "$log" || {
		[ $? != 124 ] || echo "Bail out! $story-guest.sh has not ended within $STORY_TIME s; the log: $log"
		failed=1
	}
done
echo "# the whole output: $log"
exit $failed
