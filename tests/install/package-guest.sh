# SPDX-License-Identifier: GPL-2.0
#
# A machine under systemd that has nothing but the Debian package installed, and no device plugged in.

booted() {
	# Nothing is plugged in that could have loaded it by its alias.
	lsusb > usb
	not grep -E '1fc9:8111|3975:0005' usb
	is_loaded
	ls -l /dev/alrandom
	systemctl is-active systemd-modules-load
	is_from updates/dkms
	# What is loaded is that file.
	[ "$(cat /sys/module/alrandom/srcversion)" = "$(modinfo -F srcversion alrandom)" ]
}
test_that "the module is loaded at boot, device or not, from where DKMS has put it" booted

plugged() {
	rmmod alrandom
	[ ! -e /dev/alrandom ]
	emulator '{"op":"plug"}'
	wait_until is_used
	is_loaded
	[ "$(head -c 100 /dev/alrandom | wc -c)" = 100 ]
}
test_that "plugging the device in loads it by its alias" plugged

# The node as the README says.
is_open_to_all() {
	udevadm settle
	stat -c '%U %G %a' /dev/alrandom
	[ "$(stat -c '%U %G %a' /dev/alrandom)" = "root root 444" ]
	[ "$(as_user head -c 100 /dev/alrandom | wc -c)" = 100 ]
	not as_user sh -c 'echo > /dev/alrandom'
	not as_user sh -c 'echo 1 > /sys/class/misc/alrandom/startup_test'
}
test_that "everybody reads the node, nobody but root does more" is_open_to_all

stays() {
	udevadm trigger --settle /dev/alrandom
	is_open_to_all
	emulator '{"op":"unplug"}'
	sleep 1
	emulator '{"op":"plug"}'
	wait_until is_used
	is_open_to_all
	rmmod alrandom
	modprobe alrandom
	wait_until is_used
	is_open_to_all
}
test_that "so it is after udev's trigger, a replug, and loading anew" stays

commands_read() {
	cd /tmp
	run_commands reading > said 2>&1 || { cat said; return 1; }
	cat said
	# Two reads of the device and one of the kernel's pool; in this order.
	grep -E 'records (in|out)$' said > records
	printf '%s records in\n%s records out\n' 100000+0 100000+0 10+0 10+0 100000+0 100000+0 | cmp - records
	[ "$(stat -c %s download.bin)" = 100000 ]
	grep -x '1000000 bytes (1.0 MB, 977 KiB) copied.*' said
	grep -x /dev/alrandom said
}
test_that "the commands of the README read from it" commands_read

serial_driver() {
	rmmod alrandom
	wait_until test -c /dev/ttyACM0
	udevadm settle
	udevadm info --query=property /dev/ttyACM0 | grep -x 'ID_MM_DEVICE_IGNORE=1'
	[ "$(stat -c '%U %G %a' /dev/ttyACM0)" = "root dialout 660" ]
}
test_that "a device that is left to the serial driver is for the group dialout" serial_driver

finish
