#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes the Debian package alrandom-dkms in build/ and prints its path. Takes a Debian machine; what must be
# installed there is said if it is missing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/.." && pwd)

# What the package is made of, besides packaging/debian.
FILES="Kbuild Makefile README.md CHANGELOG.md LICENSE dkms.conf alrandom.4
	80-alpharng-device-access.rules docs/health-tests.md tools/dkms.sh tools/rust-metadata.rs"

die() {
	echo "build-deb.sh: $*" >&2
	exit 1
}

command -v dpkg-buildpackage >/dev/null || die "dpkg-buildpackage is not installed; run: apt-get install dpkg-dev"
missing=
for package in build-essential debhelper dh-dkms; do
	dpkg-query -W -f '${db:Status-Status}' $package 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] || die "the build needs what is not installed; run: apt-get install$missing"

version=$(sed -n '1s/^[^(]*(\(.*\)).*/\1/p' "$here/debian/changelog")
upstream=${version%-*}
[ "$(sed -n 's/^PACKAGE_VERSION="\(.*\)"$/\1/p' "$clone/dkms.conf")" = "$upstream" ] ||
	die "dkms.conf and packaging/debian/changelog are of different versions"

# dpkg-buildpackage wants debian/ in the source folder and puts the package beside that.
mkdir -p "$clone/build"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
source=$work/alrandom-$upstream
mkdir -p "$source/abstractions"
cd "$clone"
cp --parents $FILES "$source/"
cp ./*.rs "$source/"
cp abstractions/*.rs abstractions/*.h "$source/abstractions/"
cp -R "$here/debian" "$source/debian"
cd "$source"

if ! dpkg-buildpackage -us -uc -b > "$work/log" 2>&1; then
	cat "$work/log" >&2
	die "dpkg-buildpackage failed"
fi
mv "$work"/alrandom-dkms_*.deb "$work"/alrandom_*.changes "$work"/alrandom_*.buildinfo "$clone/build/"
echo "$clone/build/alrandom-dkms_${version}_all.deb"
