# SPDX-License-Identifier: GPL-2.0
#
# By hand, with make and the scripts: the commands of the README, and in what words each script refuses
# what cannot be done.

set -u
. "$(dirname "$0")/lib.sh"

make_shims
# A place that the virtual machine gets, too.
FOLDER=/srv/alrandom
must cp -R "$PROJECT" $FOLDER
cd $FOLDER
must chmod -R a+rX /srv

# as_user COMMAND...: as somebody who is not root and has no sudo.
as_user() {
	env HOME=/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
		setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
}

# without PROGRAM COMMAND...: as on a system that does not have that program.
without() {
	absent=$1
	shift
	rm -rf /tmp/path
	mkdir /tmp/path
	for folder in /usr/bin /usr/sbin; do
		ln -sf $folder/* /tmp/path/
	done
	rm -f "/tmp/path/$absent"
	env PATH=/tmp/path "$@"
}

# refuses STATUS LINE COMMAND...: the command ends with that status and says one line, which is as the extended
# regular expression LINE has it. What make says of itself does not count.
refuses() {
	wanted=$1 line=$2
	shift 2
	output "$@"
	[ $status = "$wanted" ] || {
		echo "status $status, not $wanted"
		return 1
	}
	grep -v '^make\(\[[0-9]*\]\)\?: \*\*\* .* Error ' "$out" > "$out.lines" || true
	[ "$(wc -l < "$out.lines")" = 1 ]
	grep -xE -- "$line" "$out.lines"
}

NEW_REGEX=$(echo "$NEW" | sed 's/[.+]/\\&/g')

# --- The module's own ----------------------------------------------------------------------------------

test_that "make, without the headers of the kernel" \
	refuses 2 'rust-metadata: .*apt-get install linux-headers-7\.2\.99-none.*' make KVER=7.2.99-none
test_that "make, without the Rust metadata" \
	refuses 2 "rust-metadata: .*make it by: .*$NEW_REGEX" make
test_that "make, without a Rust compiler" \
	refuses 2 'make: none not found: install the Rust compiler .*apt install rustc.*' make -B RUSTC=none
test_that "make rust-metadata, with another Rust compiler than the kernel's" \
	refuses 2 'rust-metadata: .*needs exactly "rustc .*RUSTC=PATH.*' env RUSTC=/bin/true make rust-metadata
test_that "make modules_install, not as root" \
	refuses 2 'make: installing a module needs root: sudo make modules_install' as_user make modules_install

test_that "load.sh, not as root" \
	refuses 1 'load.sh: loading a module needs root: sudo ./load.sh debugMode=1' as_user ./load.sh debugMode=1
test_that "load.sh, before make" \
	refuses 1 "load.sh: alrandom.ko is not built: run 'make' in $FOLDER first" ./load.sh

builds() {
	lend_metadata
	run_commands quick-build
	modinfo ./alrandom.ko
	[ "$(modinfo -F vermagic ./alrandom.ko | cut -d' ' -f1)" = "$NEW" ]
}
test_that "the commands of the README for a quick start build the module" builds

other_kernel() {
	echo 7.2.99-other > $SHARED/running
	attempt refuses 1 "load.sh: alrandom.ko was built for kernel $NEW_REGEX, this is 7\.2\.99-other: run 'make clean' and 'make' again" ./load.sh
	echo "$NEW" > $SHARED/running
	return $result
}
test_that "load.sh, with what was built for another kernel" other_kernel
test_that "load.sh, without kmod" \
	refuses 1 'load.sh: modinfo is not installed \(Debian: apt install kmod\)' without modinfo ./load.sh

installs() {
	run_commands by-hand
	ls -l "/lib/modules/$NEW/updates/"
	[ "$(modinfo -k "$NEW" -F filename alrandom | sed 's/\.ko.*/.ko/')" = "/lib/modules/$NEW/updates/alrandom.ko" ]
}
test_that "the commands of the README install it for the running kernel" installs

test_that "what it has installed can be booted" keep_image

cleans() {
	make clean
	diff -r "$PROJECT" $FOLDER
}
test_that "make clean leaves what was there before" cleans

# --- Tools and packaging ---------------------------------------------------------------------------------

test_that "dkms.sh, without its arguments" \
	refuses 2 'usage: dkms.sh check\|prepare RELEASE' tools/dkms.sh
old_kernel() {
	mkdir -p /lib/modules/6.12.1-old/build/include
	refuses 1 "alrandom: not built for kernel 6\.12\.1-old: it is older than Linux 7\.2" \
		tools/dkms.sh check 6.12.1-old
}
test_that "dkms.sh, for a kernel that is too old" old_kernel

no_tree() {
	refuses 1 'in-tree.sh: /usr is no kernel source tree: it has no Makefile' tools/in-tree.sh install /usr
	refuses 1 'in-tree.sh: /usr is no kernel source tree: it has no Makefile' tools/in-tree.sh remove /usr
}
test_that "in-tree.sh, for what is no kernel tree" no_tree

# A tree that is as much of a kernel's as in-tree.sh looks at.
make_tree() {
	rm -rf /tmp/tree
	mkdir -p /tmp/tree/drivers/char /tmp/tree/rust/kernel
	printf 'VERSION = %s\nPATCHLEVEL = %s\n' "$1" "$2" > /tmp/tree/Makefile
	touch /tmp/tree/drivers/char/Makefile /tmp/tree/rust/kernel/lib.rs
	echo endmenu > /tmp/tree/drivers/char/Kconfig
}
old_tree() {
	make_tree 6 12
	refuses 1 'in-tree.sh: /tmp/tree is Linux 6\.12, the driver needs 7\.2 or newer' tools/in-tree.sh install /tmp/tree
}
test_that "in-tree.sh, for a tree that is too old" old_tree
others_folder() {
	make_tree 7 2
	mkdir /tmp/tree/drivers/char/alrandom
	touch /tmp/tree/drivers/char/alrandom/alrandom.c
	refuses 1 'in-tree.sh: /tmp/tree/drivers/char/alrandom is there and not this driver: move it away' \
		tools/in-tree.sh install /tmp/tree
	[ -e /tmp/tree/drivers/char/alrandom/alrandom.c ]
}
test_that "in-tree.sh, where another driver has the folder" others_folder
not_ours() {
	make_tree 7 2
	refuses 1 'in-tree.sh: /tmp/tree/drivers/char cannot be written to' as_user tools/in-tree.sh install /tmp/tree
}
test_that "in-tree.sh, where it may not write" not_ours
test_that "build-deb.sh, without what the build takes" \
	refuses 1 'build-deb.sh: the build needs what is not installed; run: apt-get install( build-essential)? debhelper dh-dkms' \
	packaging/build-deb.sh
test_that "build-deb.sh, without dpkg-dev" \
	refuses 1 'build-deb.sh: dpkg-buildpackage is not installed; run: apt-get install dpkg-dev' \
	without dpkg-buildpackage packaging/build-deb.sh

# --- The tests' ------------------------------------------------------------------------------------------

export XDG_CACHE_HOME=/tmp/cache

# The programs that the test machine takes of its host, as far as it is asked whether they are there.
must mkdir /tmp/host
must ln -s /bin/true /tmp/host/mmdebstrap
must ln -s /bin/true /tmp/host/qemu-system-x86_64

# on_host PROGRAM OUTPUT COMMAND...: on a host with these, where PROGRAM prints OUTPUT whatever it is asked.
on_host() {
	printf '#!/bin/sh\nprintf "%s"\n' "$2" > "/tmp/host/$1"
	chmod +x "/tmp/host/$1"
	mocked=$1
	shift 2
	status=0
	env PATH="/tmp/host:$PATH" "$@" || status=$?
	rm "/tmp/host/$mocked"
	return $status
}

setup_not_root() {
	mkdir -m 0777 /tmp/cache
	# The root has no mmdebstrap, as few hosts have.
	refuses 1 'error: installing mmdebstrap.* takes root: install sudo, or run this as root' as_user \
		env XDG_CACHE_HOME=/tmp/cache tests/vm/setup.sh
}
test_that "setup.sh, not as root" setup_not_root
test_that "setup.sh, on another architecture" \
	refuses 1 'error: the test machine needs a Debian host on amd64' on_host dpkg 'arm64\n' tests/vm/setup.sh
test_that "setup.sh, without space" \
	refuses 1 'error: /tmp/cache/alrandom has 0 GB left and this takes [0-9]+: set XDG_CACHE_HOME to a directory with more' \
	on_host df 'Filesystem\ndisk 9000000 8000000 1000000 89%% /\n' tests/vm/setup.sh

in_root() {
	refuses 1 'error: usage: in-root.sh COMMAND \[ARGUMENT\]\.\.\.' tests/vm/in-root.sh
	refuses 1 'error: there is no root in /tmp/none: run .*/tests/vm/setup\.sh' \
		env ALRANDOM_ROOT=/tmp/none tests/vm/in-root.sh true
	mkdir -p /tmp/some/tree
	refuses 1 "error: entering the test machine's root takes root: install sudo, or run this as root" \
		as_user env XDG_CACHE_HOME=/tmp/mine ALRANDOM_ROOT=/tmp/some tests/vm/in-root.sh true
}
test_that "in-root.sh, without a command, a root, or the right" in_root

test_that "clean-cache.sh, not as root" \
	refuses 1 "clean-cache.sh: removing the test machine's root takes root: install sudo, or run this as root" \
	as_user env XDG_CACHE_HOME=/tmp/cache tests/vm/clean-cache.sh
fuzz() {
	refuses 1 "error: 'soon' is no number of seconds: make fuzz SECONDS=60" tests/host/fuzz.sh soon
	refuses 1 "error: 'x' is no seed: SEED is a number" env SEED=x tests/host/fuzz.sh
	refuses 1 'error: there is no target none, only cdc protocol usbredir health' tests/host/fuzz.sh 1 none
	refuses 1 'error: there is no input /nowhere' tests/host/fuzz.sh 1 cdc /nowhere
}
test_that "fuzz.sh, with odd arguments" fuzz
install_tests() {
	refuses 1 'error: usage: run.sh \[FILTER\]' tests/install/run.sh a b
	refuses 1 'error: mounting and chroot take root: install sudo, or run this as root' as_user tests/install/run.sh
	output tests/install/run.sh 'no test is called this'
	[ $status = 0 ]
	[ ! -s "$out" ]
}
test_that "run.sh of these tests" install_tests

finish
