#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Puts the driver into a kernel source tree, as drivers/char/alrandom, or takes it out again:
#
#   tools/in-tree.sh install TREE
#   tools/in-tree.sh remove TREE
#
# Both may be repeated. What `install` adds to drivers/char/Kconfig and drivers/char/Makefile is one
# line (and a blank one) each; `remove` leaves both as they were.

set -eu

# The oldest kernel that the driver is written for.
OLDEST=7.2

die() {
	echo "in-tree.sh: $*" >&2
	exit 1
}

usage() {
	sed '1,3d;/^[^#]/,$d;/^$/,$d;s/^# \{0,1\}//' "$0"
}

# The lines that make the kernel's build system look into the folder.
# shellcheck disable=SC2016
MAKEFILE_LINE='obj-$(CONFIG_RNG_ALRANDOM) += alrandom/'
KCONFIG_LINE='source "drivers/char/alrandom/Kconfig"'

# replace FILE: replaces the file by the standard input, in one step, with owner and mode kept.
replace() {
	new=$1.alrandom-new
	cp -p "$1" "$new"
	cat > "$new"
	mv "$new" "$1"
}

# has FILE LINE: whether the file has that line.
has() {
	grep -qxF -- "$2" "$1"
}

check_tree() {
	for name in Makefile drivers/char/Kconfig drivers/char/Makefile rust/kernel/lib.rs; do
		[ -f "$tree/$name" ] || die "$tree is no kernel source tree: it has no $name"
	done
	version=$(sed -n 's/^VERSION = //p;s/^PATCHLEVEL = //p' "$tree/Makefile" | paste -s -d .)
	[ "$(printf '%s\n' "$OLDEST" "$version" | sort -V | head -n 1)" = "$OLDEST" ] ||
		die "$tree is Linux $version, the driver needs $OLDEST or newer"
	[ -w "$tree/drivers/char" ] || die "$tree/drivers/char cannot be written to"
	[ ! -e "$folder" ] || grep -qsx 'config RNG_ALRANDOM' "$folder/Kconfig" ||
		die "$folder is there and not this driver: move it away"
}

install_driver() {
	grep -qx endmenu "$kconfig" || die "$kconfig has no 'endmenu' to put a line before"

	rm -rf "$folder"
	mkdir -p "$folder/abstractions"
	cp "$here/Kbuild" "$here/Kconfig" "$here"/*.rs "$folder/"
	cp "$here"/abstractions/*.rs "$here"/abstractions/*.h "$folder/abstractions/"

	has "$kconfig" "$KCONFIG_LINE" ||
		awk -v line="$KCONFIG_LINE" '
			{ text[NR] = $0 }
			$0 == "endmenu" { last = NR }
			END {
				for (i = 1; i <= NR; i++) {
					if (i == last)
						printf "%s\n\n", line
					print text[i]
				}
			}' "$kconfig" | replace "$kconfig"
	has "$makefile" "$MAKEFILE_LINE" || {
		cat "$makefile"
		echo "$MAKEFILE_LINE"
	} | replace "$makefile"

	echo "The driver is in $folder. To enable it: make -C $tree menuconfig,"
	echo "Device Drivers -> Character devices -> TectroLabs support for AlphaRNG devices (RNG_ALRANDOM)"
}

remove_driver() {
	rm -rf "$folder"
	if has "$makefile" "$MAKEFILE_LINE"; then
		grep -vxF -- "$MAKEFILE_LINE" "$makefile" | replace "$makefile"
	fi
	if has "$kconfig" "$KCONFIG_LINE"; then
		# With the blank line behind it.
		awk -v line="$KCONFIG_LINE" '
			$0 == line { after = 1; next }
			!(after && $0 == "") { print }
			{ after = 0 }' "$kconfig" | replace "$kconfig"
	fi
	echo "The driver is out of $tree."
}

case "${1-}" in
-h | --help)
	usage
	exit 0
	;;
esac
[ $# = 2 ] || {
	usage >&2
	exit 2
}
here=$(cd "$(dirname "$0")/.." && pwd)
tree=${2%/}
folder=$tree/drivers/char/alrandom
kconfig=$tree/drivers/char/Kconfig
makefile=$tree/drivers/char/Makefile
case $1 in
install | remove)
	check_tree
	"$1_driver"
	;;
*)
	usage >&2
	exit 2
	;;
esac
