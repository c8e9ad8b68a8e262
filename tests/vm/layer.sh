#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes a layer of more packages for the test machine's root: `layer.sh ROOT DIR PACKAGES [APT-OPTION]...`,
# with PACKAGES in one argument. DIR/upper gets what an overlay needs to show the root with them. Run by
# setup.sh, as root and in a mount namespace of its own; whoever starts it takes care that DIR is complete or
# not there.
set -eu
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive INITRD=No

root=$1 dir=$2 packages=$3
shift 3
mkdir -p "$dir/upper" "$dir/work"
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/lower /mnt/layer /mnt/new
# A path with a colon or a comma can't be an option of overlay, so both get other names.
mount --bind "$root/tree" /mnt/lower
mount --bind "$dir" /mnt/layer
cd /mnt
mount -t overlay -o lowerdir=lower,upperdir=layer/upper,workdir=layer/work root new
mount --rbind /dev new/dev
mount -t proc proc new/proc
mount -t tmpfs -o mode=1777 tmpfs new/tmp
# What apt fetches and looks up does not belong to the layer.
mount -t tmpfs tmpfs new/var/lib/apt/lists
mount -t tmpfs tmpfs new/var/cache/apt
# How the host finds other hosts, and whom it trusts.
for file in /etc/resolv.conf /etc/hosts; do
	[ -r "$file" ] || continue
	cp -L "$file" "new/tmp/${file##*/}"
	[ -e "new$file" ] || : > "new$file"
	mount --bind "new/tmp/${file##*/}" "new$file"
done
for file in "${CARGO_HTTP_CAINFO-}" "${SSL_CERT_FILE-}" /etc/ssl/certs/ca-certificates.crt; do
	if [ -n "$file" ] && [ -r "$file" ]; then
		cp -L "$file" new/tmp/ca-certificates.crt
		mount --bind new/tmp/ca-certificates.crt new/etc/ssl/certs/ca-certificates.crt
		break
	fi
done
printf '%s\n' 'Acquire::Retries "3";' "$@" > new/tmp/apt.conf
export APT_CONFIG=/tmp/apt.conf
chroot new apt-get -q update
# shellcheck disable=SC2086 # A list.
chroot new apt-get -q -y -o DPkg::Options::=--force-unsafe-io install --no-install-recommends $packages
