#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes the test machine's root, as root.conf says: `root.sh make DIR MIRROR [APT-OPTION]...`.
# DIR gets `tree/`, the installed Debian, and `disk.img`, a read-only file system made of it to boot
# from. Run by setup.sh, as root; whoever starts it takes care that DIR is complete or not there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
. "$here/root.conf"

die() {
	echo "error: $*" >&2
	exit 1
}

# Prints the newest kernel of which image, headers and source have all arrived: `RELEASE VERSION SERIES`,
# for example `7.2.12+deb13-amd64 7.2.12-1~bpo13+1 7.2`. Reads the package lists of the root $1.
newest_kernel() {
	chroot "$1" sh -c '
		apt-cache madison $(apt-cache pkgnames linux-image- | grep -E "^linux-image-[0-9.]+[+]deb[0-9]+-amd64$") \
			$(apt-cache pkgnames linux-headers- | grep -E "^linux-headers-[0-9.]+[+]deb[0-9]+-amd64$") \
			$(apt-cache pkgnames linux-source- | grep -E "^linux-source-[0-9.]+$")' |
	awk -F ' *[|] *' -v least="$KERNEL_AT_LEAST" -v only="$KERNEL_SERIES" '
		{ sub(/^ */, "", $1); have[$1, $2] = 1 }
		$1 ~ /^linux-image-/ { image[$1, $2] = $1 SUBSEP $2 }
		END {
			split(least, min, ".")
			for (i in image) {
				split(image[i], f, SUBSEP)
				release = substr(f[1], length("linux-image-") + 1)
				split(release, n, /[.+]/)
				series = n[1] "." n[2]
				if (n[1] + 0 < min[1] + 0 || (n[1] + 0 == min[1] + 0 && n[2] + 0 < min[2] + 0))
					continue
				if (only != "" && series != only)
					continue
				if (have["linux-headers-" release, f[2]] && have["linux-source-" series, f[2]])
					print release, f[2], series
			}
		}' | sort -V | tail -n 1
}

# Run by mmdebstrap inside its namespace, when everything but the kernel is installed in the root $1.
install_kernel() {
	chosen=$(newest_kernel "$1")
	[ -n "$chosen" ] ||
		die "$KERNEL_SUITE has no kernel ${KERNEL_SERIES:->= $KERNEL_AT_LEAST} with image, headers and source in one version"
	read -r release version series <<-END
		$chosen
	END
	echo "I: kernel $release, version $version"
	# What the kernel's packages depend on (linux-base) may have to be as new as they are; nothing else.
	printf 'Package: linux-*\nPin: release n=%s\nPin-Priority: 900\n' "$KERNEL_SUITE" \
		> "$1/etc/apt/preferences.d/kernel"
	# INITRD: Debian's initial ram disk is of no use here and takes long to make.
	INITRD=No DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get install -q -y --no-install-recommends \
		"linux-image-$release=$version" "linux-headers-$release=$version" "linux-source-$series=$version"
	# The tests load modules by alias: have the tables that the kernel's packages make on installation.
	[ -s "$1/lib/modules/$release/modules.dep" ] || chroot "$1" depmod "$release"
	echo "$release" > "$1/etc/alrandom-kernel"
	rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/debconf/*-old
	# No password: the console of a machine that lives for one test needs none.
	sed -i 's/^root:[^:]*:/root::/' "$1/etc/shadow"
	echo alpharng > "$1/etc/hostname"
	printf '127.0.0.1\tlocalhost alpharng\n' > "$1/etc/hosts"
	mkdir -p "$1/mnt/alrandom"
}

# Unpacks what newer Debians have: `make_newer ROOT MIRROR [MMDEBSTRAP-OPTION]...`.
make_newer() {
	root=$1
	mirror=$2
	shift 2
	for suite in $NEWER_SUITES; do
		set -- "$@" "deb $mirror $suite main"
	done
	# The keys are the root's, as the host may be older than these suites. A mirror that lags behind will do.
	mmdebstrap --mode=root --format=directory --variant=extract --keyring="$root${KEYRING%%:*}" \
		--include="$(echo $NEWER_PACKAGES | tr ' ' ,)" \
		--aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
		--aptopt='Acquire::Check-Valid-Until "false"' "${NEWER_SUITES##* }" "$root$NEWER_FOLDER" "$@"
	for what in doc info locale man; do
		rm -rf "$root$NEWER_FOLDER/usr/share/$what"
	done
}

make_root() {
	dir=$1
	mirror=$2
	shift 2
	# Debian's own: the host's kernel, its user's umask and locale must not show in the result.
	umask 022
	export LC_ALL=C
	export ALRANDOM_ROOT_SH="$here/root.sh"
	mkdir -p "$dir"
	for option in "$@"; do
		set -- "$@" "--aptopt=$option"
		shift
	done
	mmdebstrap --mode=root --format=directory --variant=minbase --components=main \
		--include="$(echo $BUILD_PACKAGES $GUEST_PACKAGES | tr ' ' ,)" \
		--aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' "$@" \
		--dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--customize-hook='sh "$ALRANDOM_ROOT_SH" install-kernel "$1"' \
		--skip=cleanup/apt/lists \
		"$SUITE" "$dir/tree" \
		"deb [signed-by=${KEYRING%%:*}] $mirror $SUITE main" \
		"deb [signed-by=${KEYRING%%:*}] $mirror $KERNEL_SUITE main"
	make_newer "$dir/tree" "$mirror" "$@"
	# A compressed source tarball and the like are for building, which uses tree/; nothing boots from them.
	mkdir "$dir/tree/run/image"
	mount --bind "$dir" "$dir/tree/run/image"
	chroot "$dir/tree" mkfs.erofs --quiet -T0 -zlz4 -C65536 --exclude-regex='^(run|tmp|dev|proc|sys)/.*|^usr/src/linux-source' \
		/run/image/disk.img /
	umount "$dir/tree/run/image"
	rmdir "$dir/tree/run/image"
}

case ${1-} in
make) shift && make_root "$@" ;;
install-kernel) install_kernel "$2" ;;
*) die "usage: root.sh make DIR MIRROR [APT-OPTION]..." ;;
esac
