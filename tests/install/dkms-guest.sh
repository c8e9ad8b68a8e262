# SPDX-License-Identifier: GPL-2.0
#
# A machine under systemd that has the module from DKMS, by hand, and its name in /etc/modules; no rules, and
# no device plugged in.

booted() {
	# Nothing is plugged in that could have loaded it by its alias.
	lsusb > usb
	not grep -E '1fc9:8111|3975:0005' usb
	grep -x alrandom /etc/modules
	[ ! -e /etc/modules-load.d/alrandom.conf ]
	is_loaded
	ls -l /dev/alrandom
	systemctl is-active systemd-modules-load
}
test_that "the line in /etc/modules loads the module at boot" booted

loads() {
	rmmod alrandom
	run_commands dkms-use > said 2>&1 || { cat said; return 1; }
	cat said
	grep -x "alrandom/1.0.0, $(uname -r), $(uname -m): installed" said
	grep -x /dev/alrandom said
	is_loaded
	is_from updates/dkms
}
cd /tmp
test_that "the commands of the README load it" loads

tainted() {
	# As the README says it: once, and that is all.
	[ "$(dmesg | grep -c 'alrandom: module verification failed: signature and/or required key missing')" = 1 ]
	grep -E '^alrandom .*\((.*E.*)\)$' /proc/modules
}
test_that "the kernel takes the signature for unknown and loads it" tainted

rules() {
	emulator '{"op":"plug"}'
	wait_until is_used
	udevadm settle
	[ "$(head -c 100 /dev/alrandom | wc -c)" = 100 ]
	not as_user head -c 100 /dev/alrandom
	cd /usr/src/alrandom-1.0.0
	run_commands rules
	stat -c '%U %G %a' /dev/alrandom
	[ "$(stat -c '%U %G %a' /dev/alrandom)" = "root root 444" ]
	[ "$(as_user head -c 100 /dev/alrandom | wc -c)" = 100 ]
}
test_that "without the rules only root reads, with them everybody" rules

# As with Secure Boot: nothing is loaded that is not signed with a key that the kernel knows.
secure() {
	rmmod alrandom
	echo 1 > /sys/module/module/parameters/sig_enforce
	not modprobe alrandom 2> said
	cat said
	grep -F "Key was rejected by service" said
	not is_loaded
	readme | grep -F '`Key was rejected by service`'
}
test_that "a kernel that wants signatures it knows refuses it, in the words of the README" secure

finish
