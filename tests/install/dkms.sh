# SPDX-License-Identifier: GPL-2.0
#
# DKMS by hand: build, install, and what becomes of it as kernels come and go.

set -u
. "$(dirname "$0")/lib.sh"

make_shims
must apt-get update -q

# An older kernel that the module is for, of which all has arrived on the mirror in one version, so that the root's own one is a newer one that comes later:
# `RELEASE VERSION`.
has_version() {
	apt-cache madison "$1" | awk -F ' *[|] *' '{ print $2 }' | grep -qxF "$2"
}
older_kernel() {
	flavour=${NEW##*+}
	oldest=$(sed -n 's/^BUILD_EXCLUSIVE_KERNEL_MIN="\(.*\)"/\1/p' "$PROJECT/dkms.conf")
	for package in $(apt-cache pkgnames linux-headers-); do
		release=${package#linux-headers-}
		[ "${release##*+}" = "$flavour" ] && [ "$release" != "$NEW" ] || continue
		dpkg --compare-versions "$release" ge "$oldest" || continue
		version=$(apt-cache madison "$package" | awk -F ' *[|] *' 'NR == 1 { print $2 }')
		series=$(echo "$release" | cut -d. -f 1-2)
		has_version "linux-source-$series" "$version" && has_version "linux-image-$release" "$version" || continue
		dpkg --compare-versions "$version" lt "$NEW_VERSION" && echo "$release $version"
	done | sort -V | tail -n 1
}

older=$(older_kernel)
[ -n "$older" ] || {
	echo "Bail out! install::$STORY: the mirror has no older kernel than $NEW with image, headers and source in one version"
	exit 1
}
OLD=${older% *}
OLD_VERSION=${older#* }
OLD_SERIES=$(echo "$OLD" | cut -d. -f 1-2)
echo "# kernel $OLD, later $NEW"
must apt_install "linux-image-$OLD=$OLD_VERSION" "linux-headers-$OLD=$OLD_VERSION"
must apt-get purge -q -y "linux-headers-$NEW"
echo "$OLD" > $SHARED/running
cd /root

# --- The commands of the README -----------------------------------------------------------------------

no_source_yet() {
	cp -R alrandom /usr/src/alrandom-1.0.0
	dkms add -m alrandom -v 1.0.0
	skipped "$OLD" "run: apt-get install linux-source-$OLD_SERIES=$OLD_VERSION" 77 dkms build -m alrandom -v 1.0.0
	dkms remove -m alrandom -v 1.0.0 --all
	rm -rf /usr/src/alrandom-1.0.0
}
test_that "without the kernel's source, its package is asked for by name and version" no_source_yet

must apt_install "linux-source-$OLD_SERIES=$OLD_VERSION"
must run_commands dkms-needs
test_that "the commands of the README build and install the module" run_commands dkms
test_that "it is installed for the running kernel" is_installed "$OLD"

is_signed() {
	modinfo -k "$OLD" -F signer alrandom | grep -x 'DKMS module signing key'
	grep -F 'mokutil --import /var/lib/dkms/mok.pub' "$PROJECT/README.md"
	[ -s /var/lib/dkms/mok.pub ]
}
test_that "it is signed with the key of DKMS that the README names" is_signed

has_aliases() {
	for id in 1FC9p8111 3975p0005; do
		/usr/sbin/modprobe -S "$OLD" --show-depends "usb:v${id}d0100dcEFdsc02dp01ic0Aisc00ip00in01" |
			grep "/updates/dkms/alrandom.ko"
	done
}
test_that "both ids of the device load it" has_aliases

made_metadata() {
	find /var/cache/alrandom/headers -name libkernel.rmeta | grep "/$OLD-"
	# Headers and sources are as they were.
	[ ! -e /usr/src/alrandom-1.0.0/build ]
	find /usr/src /lib/modules -name '*.rmeta' | none .
	dpkg --verify "linux-headers-$OLD"
}
test_that "the Rust metadata was made on the way, in the cache of the system" made_metadata

# --- Kernels come --------------------------------------------------------------------------------------

second_kernel() {
	lend_metadata
	apt_install "linux-headers-$NEW=$NEW_VERSION"
	is_installed "$NEW"
	is_installed "$OLD"
}
test_that "a newer kernel has it without a command, when its headers are installed" second_kernel

# A kernel of Debian stable itself, older than the module.
ancient_kernel() {
	ancient=$(apt-cache madison linux-headers-amd64 | awk -F ' *[|] *' '{ print $2 }' | sort -V | head -n 1)
	ANCIENT=$(apt-cache show "linux-headers-amd64=$ancient" | sed -n 's/^Depends: .*linux-headers-\([^ ,]*\).*/\1/p' | head -n 1)
	skipped "$ANCIENT" "it is older than Linux 7.2" 0 apt_install "linux-headers-$ANCIENT"
}
test_that "apt goes on when a kernel comes that is too old, and one line says so" ancient_kernel

CLOUD=${NEW%-*}-cloud-${NEW##*-}
test_that "so it does with a kernel that has no USB" \
	skipped "$CLOUD" "without CONFIG_USB" 0 apt_install "linux-headers-$CLOUD=$NEW_VERSION"

test_that "dkms build says so, too, and ends as DKMS wants it" \
	skipped "$CLOUD" "without CONFIG_USB" 77 dkms build -m alrandom -v 1.0.0 -k "$CLOUD"

# A kernel as the one that works, but for one thing: its headers under another name.
OTHER=${NEW%%+*}+other-amd64
without_rust() {
	mkdir -p "/lib/modules/$OTHER"
	cp -aL "/lib/modules/$NEW/build" "/lib/modules/$OTHER/build"
	sed -i '/CONFIG_RUST=y/d' "/lib/modules/$OTHER/build/.config" "/lib/modules/$OTHER/build/include/config/auto.conf"
	skipped "$OTHER" "without CONFIG_RUST" 77 dkms build -m alrandom -v 1.0.0 -k "$OTHER"
	rm -r "/lib/modules/$OTHER"
}
test_that "a kernel without Rust is skipped" without_rust

must dkms remove -m alrandom -v 1.0.0 -k "$NEW"

other_rustc() {
	cat > $SHARED/bin/rustc <<-'END'
		#!/bin/sh
		[ "$*" = --version ] && echo "rustc 1.99.0 (abcdef012 2027-01-01)" && exit
		exec /usr/bin/rustc "$@"
	END
	chmod +x $SHARED/bin/rustc
	attempt skipped "$NEW" "$(/usr/bin/rustc --version)" 0 dkms autoinstall -k "$NEW"
	rm $SHARED/bin/rustc
	return $result
}
test_that "a kernel that was built by another rustc is skipped" other_rustc

no_rustc() {
	mv /usr/bin/rustc /usr/bin/rustc.away
	attempt skipped "$NEW" "apt-get install rustc" 0 dkms autoinstall -k "$NEW"
	mv /usr/bin/rustc.away /usr/bin/rustc
	return $result
}
test_that "so is any without rustc" no_rustc

no_source() {
	mv /var/cache/alrandom /var/cache/alrandom.away
	apt-get purge -q -y "linux-source-$SERIES"
	skipped "$NEW" "run: apt-get install linux-source-$SERIES=$NEW_VERSION" 0 \
		apt-get install -q -y --reinstall "linux-headers-$NEW=$NEW_VERSION"
	rm -rf /var/cache/alrandom
	mv /var/cache/alrandom.away /var/cache/alrandom
}
test_that "apt goes on when a kernel comes whose source is missing, which is asked for" no_source

follow_advice() {
	apt_install "linux-source-$SERIES=$NEW_VERSION"
	dkms autoinstall -k "$NEW"
	is_installed "$NEW"
}
test_that "having done what the line says, dkms autoinstall builds it" follow_advice

at_boot() {
	echo "$NEW" > $SHARED/running
	run_commands at-boot
	grep -x alrandom /etc/modules-load.d/alrandom.conf
	run_commands etc-modules
	grep -x alrandom /etc/modules
}
test_that "the commands for loading at boot work as written" at_boot
# Only one of the two ways to load it at boot is to be seen in the machine: the other is the package's.
must rm /etc/modules-load.d/alrandom.conf

test_that "what it has installed can be booted" keep_image

kernel_goes() {
	echo "$OLD" > $SHARED/running
	apt-get purge -q -y "linux-image-$NEW" "linux-headers-$NEW"
	is_gone "$NEW"
	is_installed "$OLD"
}
test_that "it goes with its kernel, and stays for the other" kernel_goes

# --- The end ---------------------------------------------------------------------------------------------

remove_all() {
	run_commands dkms-remove
	is_gone "$OLD"
	is_gone "$NEW"
	[ ! -e /var/lib/dkms/alrandom ]
	[ ! -e /usr/src/alrandom-1.0.0 ]
	[ ! -e /var/cache/alrandom ]
	dkms status | none .
}
test_that "the commands of the README remove it, and nothing is left" remove_all

finish
