# SPDX-License-Identifier: GPL-2.0
#
# A machine with a folder in which the module was built by make, and where make has installed it; no device
# plugged in.

cd /srv/alrandom

loads() {
	emulator '{"op":"plug"}'
	wait_until is_used
	is_from updates
	rmmod alrandom
	run_commands quick-load > /tmp/said 2>&1 || { cat /tmp/said; return 1; }
	cat /tmp/said
	[ "$(stat -c %s download.bin)" = 1000000 ]
	not is_loaded
}
test_that "the commands of the README for a quick start load it and read from it" loads

parameters() {
	./load.sh bytesPerSample=100 debugMode=1
	[ "$(cat /sys/module/alrandom/parameters/bytesPerSample)" = 100 ]
	[ "$(cat /sys/module/alrandom/parameters/debugMode)" = Y ]
	not ./load.sh 2> /tmp/said
	[ "$(cat /tmp/said)" = "load.sh: alrandom is loaded already: 'rmmod alrandom' first to load it anew" ]
	rmmod alrandom
	not ./load.sh bytesPerSample=0 2> /tmp/said
	cat /tmp/said
	grep -E 'load.sh: insmod: ERROR: could not insert module .*: Invalid (parameters|argument)' /tmp/said
	not is_loaded
}
test_that "load.sh passes parameters on, and refuses to load it twice or with wrong ones" parameters

# Late: there is no way back. As with Secure Boot, the kernel takes no module that is not signed.
secure() {
	echo 1 > /sys/module/module/parameters/sig_enforce
	not ./load.sh 2> /tmp/said
	cat /tmp/said
	grep -x 'load.sh: this kernel only loads signed modules (Secure Boot): .* DKMS, see README.md' /tmp/said
}
test_that "load.sh says so where the kernel only takes signed modules" secure

finish
