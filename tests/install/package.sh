# SPDX-License-Identifier: GPL-2.0
#
# The Debian package: how it is made, what it brings, and that it goes as it came.

set -u
. "$(dirname "$0")/lib.sh"

make_shims
# The root has no manual pages, to be smaller; the package's is wanted.
must sed -i '/share.man/d' /etc/dpkg/dpkg.cfg.d/99mmdebstrap
must apt-get update -q
must apt_install lintian man-db mandoc
cd "$PROJECT"

DEB=$PROJECT/build/alrandom-dkms_1.0.0-1_all.deb

make_package() {
	run_commands deb
	[ -s "$DEB" ]
}
test_that "make deb makes the package" make_package
[ -s "$DEB" ] || finish

same_again() {
	mv "$DEB" /root/first.deb
	touch -d '+1 day' ./*.rs
	make deb
	cmp /root/first.deb "$DEB"
}
test_that "made again, it is the same to the byte" same_again

lintian_is_quiet() {
	output lintian --allow-root --display-info --pedantic build/*.changes
	[ $status = 0 ]
	none -E '^[A-Z]:' < "$out"
}
test_that "lintian finds nothing in it" lintian_is_quiet

manual_page() {
	output mandoc -Tlint -Wwarning alrandom.4
	[ $status = 0 ]
	[ ! -s "$out" ]
	# A file that is there, but is no manual page, ends well.
	GROFF_NO_SGR=1 man --warnings -E UTF-8 -l -Tutf8 alrandom.4 > "$out.bold" 2> "$out.warnings"
	cat "$out.warnings"
	[ ! -s "$out.warnings" ]
	# What is bold is printed twice, with a backspace between.
	col -bx < "$out.bold" > "$out"
	for section in NAME DESCRIPTION FILES ERRORS EXAMPLES 'SEE ALSO'; do
		grep -x "$section" "$out"
	done
}
test_that "the manual page is well-formed, to man and to mandoc" manual_page

lacks_a_tool() {
	dpkg --force-depends --remove dh-dkms
	output make deb
	apt_install dh-dkms
	[ $status != 0 ]
	grep -qx 'build-deb.sh: the build needs what is not installed; run: apt-get install dh-dkms' "$out"
}
test_that "make deb says what is missing for it" lacks_a_tool

# All that there is on the disk, but for what apt and dpkg keep for themselves.
all_files() {
	find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run -o -path /root \
		-o -path /var/cache/apt -o -path /var/lib/apt -o -path /var/cache/man -o -path /var/cache/debconf \
		-o -path /var/log -o -path /var/lib/dpkg/status -o -path /var/lib/dpkg/triggers -o -name __pycache__ \) -prune \
		-o ! -name '*-old' \( -type f -printf '%p %m %u %s\n' -o -printf '%p %m %u\n' \) | sort
}

# With DKMS's own key, which stays.
must dkms generate_mok
must apt-get satisfy -q -y --no-install-recommends "$(dpkg-deb -f "$DEB" Depends)"
must apt-get purge -q -y "linux-source-$SERIES"
note "files before"
all_files > /root/before

install_package() {
	output run_commands deb-install
	[ $status = 0 ]
	grep "^alrandom: not built for kernel $NEW: linux-source-$SERIES is not installed" "$out"
	dpkg-query -W -f '${db:Status-Status}\n' alrandom-dkms | grep -x installed
}
test_that "it can be installed without the kernel's source, and says that this is missing" install_package

source_comes() {
	lend_metadata
	apt_install "linux-source-$SERIES=$NEW_VERSION"
	is_installed "$NEW"
}
test_that "when the source comes, the module is built without a command" source_comes

brings_files() {
	cmp 80-alpharng-device-access.rules /usr/lib/udev/rules.d/80-alpharng-device-access.rules
	udevadm verify /usr/lib/udev/rules.d/80-alpharng-device-access.rules
	grep -x alrandom /usr/lib/modules-load.d/alrandom.conf
	gunzip < /usr/share/man/man4/alrandom.4.gz | cmp - alrandom.4
	man -w 4 alrandom
}
test_that "it brings the udev rules, the loading at boot and the manual page" brings_files

test_that "what it has installed can be booted" keep_image

next_version() {
	sed -i 's/^PACKAGE_VERSION=.*/PACKAGE_VERSION="1.0.1"/' dkms.conf
	{
		printf 'alrandom (1.0.1-1) unstable; urgency=medium\n\n  * Next release.\n\n'
		printf ' -- Nobody <nobody@example.org>  Sun, 22 Nov 2026 10:00:00 +0000\n\n'
		cat packaging/debian/changelog
	} > /root/changelog
	cp /root/changelog packaging/debian/changelog
	make deb
	apt_install ./build/alrandom-dkms_1.0.1-1_all.deb
	dkms status
	[ "$(dkms status)" = "alrandom/1.0.1, $NEW, $ARCH: installed" ]
	[ ! -e /usr/src/alrandom-1.0.0 ]
	modinfo -k "$NEW" alrandom
}
test_that "the next version takes its place" next_version

purge_package() {
	apt-get purge -q -y alrandom-dkms "linux-source-$SERIES"
	all_files > /root/after
	diff /root/before /root/after
}
test_that "purging it leaves nothing" purge_package

finish
