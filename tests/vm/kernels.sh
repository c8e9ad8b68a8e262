#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Fetches and installs what the module is tested with besides the test machine's own kernel. Called by
# the program `vm kernels`, which decides what to make:
#
#     kernels.sh lists                                 the mirror's package lists, as apt-cache madison prints them
#     kernels.sh root SUITE                            a root to build in, with the compilers of a suite
#     kernels.sh layer BASE SUITE ARCH RELEASE VERSION a kernel and its headers, as a layer over a root
#     kernels.sh source PACKAGE VERSION                the source package of a kernel
#     kernels.sh programs LAYER ARCH TARGET LINKER DIR the programs for a guest of another architecture; the
#                                                      emulator, which runs on the host, is in DIR
#     kernels.sh prune RELEASE...                      removes the layers of other kernels than these
#
# Prints what the program reads, `root=DIR`, `package=FILE` or `programs=DIR`; all else goes to the standard
# error. A layer is a directory with what setup.sh's roots have and these links: `base`, the root below it,
# and, if the machine boots with the disk of another root below its own, `lower.img`.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
. "$here/root.conf"
. "$here/common.sh"
. "$here/programs.sh"

# The suites that have kernels: those of the test machine's own Debian, and the newer ones, whose
# compilers are others.
OLD_SUITES="$SUITE $KERNEL_SUITE"
NEW_SUITE=sid
NEW_SUITES="$NEW_SUITE experimental"

# Packages of a root that only builds modules. The C compiler comes with the kernel's headers.
MODULE_PACKAGES="bc bindgen bison bsdextrautils ca-certificates cpio dracut flex kmod libc6-dev libelf-dev
	libssl-dev linux-base make openssl pahole python3-minimal rust-clippy rust-src rustc rustfmt xz-utils zstd"

# To build for arm64 in an amd64 root, besides the compiler that comes with the headers: what Rust
# programs for the guest take.
ARM64_PACKAGES="libc6-dev:arm64 libstd-rust-dev:arm64"

# What the core tests use in an arm64 guest. Its root is unpacked and not installed, for that would take
# running programs of another processor; so it has no symbolic links of update-alternatives.
ARM64_GUEST_PACKAGES="base-files bash coreutils dash debianutils diffutils findutils grep gzip hostname iproute2
	kmod libc-bin procps psmisc sed strace tar udev util-linux"

# To be changed with what make_layer does.
LAYER_FORMAT=1

# Programs that only these functions need, as program:package.
APT_PROGRAMS="apt-get:apt mmdebstrap:mmdebstrap unshare:util-linux"
ARM64_PROGRAMS="qemu-system-aarch64:qemu-system-arm"

# Free space, in GB, that a root of a suite and a layer take while they are made.
ROOT_SPACE=5
LAYER_SPACE=3

# Makes sure that there are $1 GB left for the cache.
need_space() {
	free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge "$1" ] || die "$cache has $free GB left and this takes $1: set XDG_CACHE_HOME to a directory with more"
}

# Prints apt's configuration for the lists in the directory $1, seen from where they are in $2.
apt_config() {
	cat <<-END
		Dir::State::Lists "$1/lists";
		Dir::Etc::SourceList "$1/sources.list";
		Dir::Etc::SourceParts "-";
		Dir::Etc::Preferences "$1/preferences";
		Dir::Etc::PreferencesParts "-";
		Dir::Cache::pkgcache "";
		Dir::Cache::srcpkgcache "";
		Acquire::Languages "none";
		Acquire::Retries "3";
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
	END
	apt_options
}

# Fetches the package lists of the suites $2 into $1, unless they are of this hour.
update_lists() {
	dir=$1
	shift
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
	need_mirror
	for suite; do
		echo "deb [signed-by=${KEYRING%%:*}] $address $suite main"
	done > "$dir/sources.list.new"
	: > "$dir/status"
	: > "$dir/preferences"
	{
		apt_config "$dir"
		cat <<-END
			Dir::State "$dir";
			Dir::State::status "$dir/status";
			Dir::Cache "$dir/cache";
			APT::Architectures { "amd64"; "arm64"; };
		END
	} > "$dir/host.conf"
	if cmp -s "$dir/sources.list.new" "$dir/sources.list" && [ -n "$(find "$dir/fetched" -mmin -60 2>/dev/null)" ]; then
		return
	fi
	mv "$dir/sources.list.new" "$dir/sources.list"
	rm -f "$dir/fetched"
	APT_CONFIG="$dir/host.conf" logged "lists-${dir##*/}" "fetching the package lists of $*" \
		apt-get -q -o APT::Update::Error-Mode=any update
	: > "$dir/fetched"
}

# Prints `PACKAGE | VERSION | ADDRESS SUITE/main ARCH Packages` for each version of each kernel package
# that the lists in $1 have.
madison() {
	export APT_CONFIG="$1/host.conf"
	# shellcheck disable=SC2046 # Names of packages are words.
	apt-cache madison $(apt-cache pkgnames | grep -E '^linux-(image|headers|source)-[0-9]' |
		grep -vE -- '-(cloud|rt|common|dbg|unsigned|16k)\b' | sort -u)
}

lists() {
	host_packages $APT_PROGRAMS
	lock lists
	# shellcheck disable=SC2086 # Lists of suites.
	{
		update_lists "$cache/kernels/old" $OLD_SUITES
		update_lists "$cache/kernels/new" $NEW_SUITES
	}
	madison "$cache/kernels/old"
	madison "$cache/kernels/new"
}

# The directory of the lists that have the suite $1.
lists_of() {
	case " $NEW_SUITES " in
	*" $1 "*) echo "$cache/kernels/new" ;;
	*) echo "$cache/kernels/old" ;;
	esac
}

# make_suite_root DIR MIRROR SUITE PACKAGES [APT-OPTION]...: run as root.
make_suite_root() {
	dir=$1 address=$2 suite=$3 packages=$4
	shift 4
	export LC_ALL=C
	rm -rf --one-file-system "$dir"
	mkdir -p "$dir"
	for option; do
		set -- "$@" "--aptopt=$option"
		shift
	done
	mmdebstrap --mode=root --format=directory --variant=minbase --components=main \
		--include="$(echo $packages | tr ' ' ,)" \
		--aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' "$@" \
		--dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		"$suite" "$dir/tree" "deb [signed-by=${KEYRING%%:*}] $address $suite main"
}

# as_root_with_options COMMAND...: this script's COMMAND as root, in a namespace of its own for mounts, with
# the options of the host's apt at the end.
as_root_with_options() {
	options=$(apt_options)
	while [ -n "$options" ]; do
		set -- "$@" "${options%%
*}"
		case $options in
		*'
'*) options=${options#*
} ;;
		*) options= ;;
		esac
	done
	as_root env "XDG_CACHE_HOME=${cache%/alrandom}" unshare --mount "$here/kernels.sh" "$@"
}

root() {
	[ "$1" = "$NEW_SUITE" ] || die "there is no root of $1"
	# shellcheck disable=SC2086 # However the list is broken into lines, it is the same list.
	key=$(echo "$1" $MODULE_PACKAGES | sha256sum | cut -c 1-16)
	root=$cache/suite-$1-$key
	lock "suite-$1"
	if [ ! -d "$root" ]; then
		need_space $ROOT_SPACE
		root_for "making a root of $1"
		need_mirror
		for old in "$cache/suite-$1"-*; do
			[ ! -e "$old" ] || as_root rm -rf --one-file-system "$old"
		done
		logged "suite-$1" "making a Debian $1 with compilers (two minutes or so)" \
			as_root_with_options --make-root "$root.partial" "$address" "$1" "$MODULE_PACKAGES"
		as_root mv "$root.partial" "$root"
	fi
	echo "root=$root"
}

# Puts the tree of the root $1, with the directory $2 as a layer over it, on $2/../mnt. Run as root in a namespace.
mount_layer() {
	top=$(dirname "$2")
	mkdir -p "$top/mnt" "$top/work" "$top/lower" "$2"
	# A path with a colon or a comma can't be an option of overlay: these are relative.
	cd "$top"
	mount --bind "$1/tree" lower
	mount -t overlay -o "lowerdir=lower,upperdir=${2##*/},workdir=work" layer mnt ||
		die "can't mount an overlay on $top: root may not do that here, or its file system can't hold a layer"
	mount -t proc proc mnt/proc
	mount -t tmpfs -o mode=1777 tmpfs mnt/tmp
	mount -t tmpfs -o mode=0755 tmpfs mnt/run
}

# make_layer DIR BASE SUITE ARCH RELEASE VERSION MIRROR [APT-OPTION]...: run as root in a namespace of its own.
make_layer() {
	dir=$1 base=$2 suite=$3 arch=$4 release=$5 version=$6 address=$7
	shift 7
	export LC_ALL=C
	rm -rf --one-file-system "$dir"
	mkdir -p "$dir"
	mount_layer "$base" "$dir/tree"
	mnt=$dir/mnt
	mkdir "$mnt/run/lists"
	mount --bind "$(lists_of "$suite")" "$mnt/run/lists"
	apt_config /run/lists > "$mnt/run/apt.conf"
	sed -i 's,"/run/lists/preferences","/run/preferences",' "$mnt/run/apt.conf"
	# What the kernel's packages depend on (linux-base) may have to be as new as they are; nothing else.
	printf 'Package: linux-*\nPin: release n=%s\nPin-Priority: 900\n' "$suite" > "$mnt/run/preferences"
	suffix=
	more=
	if [ "$arch" != amd64 ]; then
		chroot "$mnt" dpkg --add-architecture "$arch"
		suffix=:$arch
		more=$ARM64_PACKAGES
	fi
	# INITRD: Debian's initial ram disk is of no use here and takes long to make.
	# shellcheck disable=SC2086 # A list of packages.
	INITRD=No DEBIAN_FRONTEND=noninteractive APT_CONFIG=/run/apt.conf chroot "$mnt" apt-get -q -y install \
		"linux-image-$release$suffix=$version" "linux-headers-$release$suffix=$version" $more
	chroot "$mnt" depmod "$release"
	echo "$release" > "$mnt/etc/alrandom-kernel"
	echo "$arch" > "$mnt/etc/alrandom-architecture"
	mkdir -p "$mnt/mnt/alrandom"
	rm -f "$mnt"/var/cache/apt/archives/*.deb "$mnt"/var/cache/apt/*.bin
	umount "$mnt/run/lists"

	# The disk: for amd64 the modules, over the disk of the test machine; else all of it.
	mkdir "$dir/disk"
	if [ "$arch" != amd64 ]; then
		unpack_guest "$dir/disk" "$arch" "$base" "$address" "$@"
	fi
	mkdir -p "$dir/disk/usr/lib/modules"
	mv "$dir/tree/usr/lib/modules/$release" "$dir/disk/usr/lib/modules/"
	image "$dir"
	mv "$dir/disk/usr/lib/modules/$release" "$dir/tree/usr/lib/modules/"
	cd /
	umount "$mnt/run" "$mnt/tmp" "$mnt/proc" "$mnt" "$dir/lower"
	rm -rf --one-file-system "$dir/disk" "$dir/work" "$dir/mnt" "$dir/lower"
	ln -s "$base" "$dir/base"
	[ "$arch" != amd64 ] || ln -s "$(readlink -f "$cache/root-current")/disk.img" "$dir/lower.img"
}

# Makes $1/disk.img of $1/disk, with the program of the test machine's root.
image() {
	mkdir "$1/tool" "$1/tool-upper"
	top=$(readlink -f "$cache/root-current")
	cd "$1"
	mkdir tool-work tool-lower
	mount --bind "$top/tree" tool-lower
	mount -t overlay -o lowerdir=tool-lower,upperdir=tool-upper,workdir=tool-work tool tool
	mkdir tool/run/image
	mount --bind "$1" tool/run/image
	chroot tool mkfs.erofs --quiet -T0 -zlz4 -C65536 /run/image/disk.img /run/image/disk
	umount tool/run/image tool tool-lower
	rm -rf --one-file-system tool tool-upper tool-work tool-lower
}

# unpack_guest DIR ARCH BASE MIRROR [APT-OPTION]...: unpacks the packages that the tests use in a guest of
# another architecture. BASE has the files that installing them would make.
unpack_guest() {
	to=$1 arch=$2 base=$3 address=$4
	shift 4
	for option; do
		set -- "$@" "--aptopt=$option"
		shift
	done
	mmdebstrap --mode=root --format=directory --variant=extract --components=main --architectures="$arch" \
		--include="$(echo $ARM64_GUEST_PACKAGES | tr ' ' ,)" \
		--aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' "$@" \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		"$SUITE" "$to.guest" "deb [signed-by=${KEYRING%%:*}] $address $SUITE main"
	rmdir "$to"
	mv "$to.guest" "$to"
	for file in passwd group shadow hostname hosts; do
		cp "$base/tree/etc/$file" "$to/etc/$file"
	done
	rm -rf "$to/usr/share/doc" "$to/usr/share/man" "$to/usr/share/locale" "$to"/var/lib/apt/lists/* "$to"/var/cache/apt/*
	mkdir -p "$to/mnt/alrandom"
}

layer() {
	base=$1 suite=$2 arch=$3 release=$4 version=$5
	[ "$arch" = amd64 ] || host_packages $ARM64_PROGRAMS
	# shellcheck disable=SC2086 # However the lists are broken into lines, they are the same lists.
	key=$(echo $LAYER_FORMAT "$@" "$(readlink -f "$cache/root-current")" $ARM64_PACKAGES $ARM64_GUEST_PACKAGES |
		sha256sum | cut -c 1-16)
	root=$cache/kernel-$release-$key
	lock "kernel-$release"
	if [ ! -d "$root" ]; then
		need_space $LAYER_SPACE
		root_for "installing a kernel in a root"
		need_mirror
		for old in "$cache/kernel-$release"-*; do
			[ ! -d "$old" ] || as_root rm -rf --one-file-system "$old" "$cache/headers-${old##*/}"
		done
		logged "kernel-$release" "installing Linux $release of $suite" \
			as_root_with_options --make-layer "$root.partial" "$base" "$suite" "$arch" "$release" "$version" "$address"
		as_root mv "$root.partial" "$root"
	fi
	echo "root=$root"
}

source_package() {
	package=$1 version=$2
	dir=$cache/kernels/source
	mkdir -p "$dir"
	lock source
	# The last one is of no use any more: what is made from it is kept.
	rm -f "$dir"/*.deb
	for lists in old new; do
		if APT_CONFIG="$cache/kernels/$lists/host.conf" apt-cache madison "$package" |
			awk -F ' *[|] *' -v wanted="$version" '$2 == wanted { found = 1 } END { exit !found }'; then
			(cd "$dir" && APT_CONFIG="$cache/kernels/$lists/host.conf" \
				logged source "fetching $package, $version" apt-get -q download "$package=$version")
			echo "package=$(echo "$dir/$package"_*.deb)"
			return
		fi
	done
	die "the mirror has no $package in version $version"
}

prune() {
	for old in "$cache"/kernel-*; do
		# Another run may be making one.
		[ -d "$old" ] && [ "$old" = "${old%.partial}" ] || continue
		release=${old##*/kernel-}
		release=${release%-*}
		case " $* " in
		# As long as the root below it is there.
		*" $release "*) [ ! -d "$old/base/tree" ] || continue ;;
		esac
		root_for "removing what is left of a kernel"
		as_root rm -rf --one-file-system "$old" "$cache/headers-${old##*/}" "$cache/kernel-$release.lock"
	done
}

programs() {
	layer=$1 arch=$2 target=$3 linker=$4 emulator=$5/alpharng-emu
	programs=$cache/programs-$arch-$(programs_key)
	if [ ! -d "$programs" ]; then
		lock programs
		[ -d "$programs" ] || make_programs "$programs" "$layer" "$target" "$linker"
		# Half a GB, for what is seldom made again.
		rm -rf "$cache/target-${layer##*/}"
		exec 9>&-
	fi
	cp -f "$emulator" "$programs/"
	echo "programs=$programs"
}

mkdir -p "$cache/logs"
command=${1-}
[ $# -eq 0 ] || shift
case $command in
lists | root | layer | programs | prune) "$command" "$@" ;;
source) source_package "$@" ;;
--make-root) make_suite_root "$@" ;;
--make-layer) make_layer "$@" ;;
*) die "usage: kernels.sh lists|root|layer|source|programs|prune [ARGUMENT]..." ;;
esac
