# SPDX-License-Identifier: GPL-2.0
# Run in the guest by `vm demo`: shows each command, then what it does.

say() { printf '\n# %s\n' "$*"; }
show() {
	printf '$ %s\n' "$*"
	sh -c "$*" 2>&1
}

set -e
say "This is Linux $(uname -r), as Debian ships it. An AlphaRNG is plugged in, and cdc_acm has it:"
show "lsusb -d 1fc9:8111 || lsusb -d 3975:0005"
show "ls -l /dev/serial/by-id/"

say "The module takes it over:"
show "insmod /mnt/alrandom/alrandom.ko"
show "udevadm settle --exit-if-exists=/dev/alrandom; ls -l /dev/alrandom"

say "Random bytes:"
show "dd if=/dev/alrandom bs=128 count=1 status=none | hexdump -C"

say "As fast as this machine gets them (a real processor is many times faster than an emulated one):"
show "dd if=/dev/alrandom of=/dev/null bs=100000 count=100"

say "Its statistics:"
show "cat /proc/alrandom/info"
