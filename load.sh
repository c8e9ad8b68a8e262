#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Loads the module that was built in this folder, with the parameters given:
#   sudo ./load.sh [disableStatisticalTests=1] [bytesPerSample=8000] [debugMode=1] [minEntropy=6]

set -u

fail() {
	echo "load.sh: $*" >&2
	exit 1
}

folder=$(cd "$(dirname "$0")" && pwd) || exit 1
module=$folder/alrandom.ko

case "${1-}" in
-h | --help)
	sed -n 's/^# \{0,1\}//p' "$0" | sed 1d
	modinfo -p "$module" 2>/dev/null
	exit 0
	;;
esac

[ "$(id -u)" = 0 ] || fail "loading a module needs root: sudo ./load.sh $*"
[ -e "$module" ] || fail "alrandom.ko is not built: run 'make' in $folder first"
for tool in modinfo modprobe insmod; do
	command -v $tool >/dev/null || fail "$tool is not installed (Debian: apt install kmod)"
done
[ ! -d /sys/module/alrandom ] || fail "alrandom is loaded already: 'rmmod alrandom' first to load it anew"

built=$(modinfo -F vermagic "$module" | cut -d' ' -f1)
[ "$built" = "$(uname -r)" ] ||
	fail "alrandom.ko was built for kernel $built, this is $(uname -r): run 'make clean' and 'make' again"

# insmod does not load what a module depends on.
for needed in $(modinfo -F depends "$module" | tr , ' '); do
	modprobe "$needed" || fail "the kernel has no module $needed, which alrandom needs"
done

if ! error=$(insmod "$module" "$@" 2>&1); then
	echo "load.sh: $error" >&2
	case $error in
	*"Key was rejected"* | *"Required key"* | *"Operation not permitted"*)
		echo "load.sh: this kernel only loads signed modules (Secure Boot): sign it or install it with DKMS, see README.md" >&2
		;;
	*)
		echo "load.sh: what the kernel says about it:" >&2
		dmesg | grep alrandom | tail -n 5 >&2
		;;
	esac
	exit 1
fi

# The node is made by the kernel at once; only its permissions are udev's.
[ -c /dev/alrandom ] || fail "loaded, but there is no /dev/alrandom: is /dev a devtmpfs?"
echo "alrandom is loaded: /dev/alrandom is there, /proc/alrandom/info says:"
sed 's/^/  /' /proc/alrandom/info
