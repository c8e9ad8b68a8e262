#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Stands in for the guest's tests to test the runner: most of these fail in a way that it has to see.

all="passes fails warns exits panics hangs finds_the_root_unchanged"
if [ "$1" = --list ]; then
	printf '%s\n' $all
	exit
fi
number=0
status=0
for name; do
	number=$((number + 1))
	echo "# start $name"
	echo "<6>alrandom-test: start $name" > /dev/kmsg
	result=ok
	case $name in
	passes)
		rm -rf /usr/share/* && touch /usr/changed
		;;
	fails)
		echo "# left: 1, right: 2"
		result="not ok"
		status=1
		;;
	warns)
		echo "<4>WARNING: CPU: 0 PID: 1 at provoked.c:1 provoked+0x1/0x2" > /dev/kmsg
		;;
	exits)
		exit 3
		;;
	panics)
		echo c > /proc/sysrq-trigger
		;;
	hangs)
		sleep infinity
		;;
	finds_the_root_unchanged)
		if [ -e /usr/changed ] || [ ! -e /usr/share/base-files ]; then
			result="not ok"
		fi
		;;
	esac
	echo "<6>alrandom-test: end $name" > /dev/kmsg
	echo "$result $number - $name"
done
exit $status
