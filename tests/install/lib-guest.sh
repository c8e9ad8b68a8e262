# SPDX-License-Identifier: GPL-2.0
#
# What the parts of the stories share that run in the virtual machine, as root, with what the story has
# installed and nothing else. Before it come a function `readme`, which prints README.md, and STORY.

SHARED=/run/alrandom
count=0
failed=0
mkdir -p $SHARED/bin
out=$SHARED/out

# test_that NAME COMMAND...: one line of TAP; the test holds if the command, which may be a function, ends
# well. In a function every command has to end well; `not` is there for those that must not.
test_that() {
	name=$1
	shift
	count=$((count + 1))
	(
		set -e
		"$@"
	) > $SHARED/said 2>&1 < /dev/null
	if [ $? = 0 ]; then
		echo "ok $count - install::$STORY: $name"
	else
		echo "not ok $count - install::$STORY: $name"
		sed 's/^/#   /' $SHARED/said
		echo "#   the end of the kernel's log:"
		dmesg | tail -n 8 | sed 's/^/#   /'
		failed=$((failed + 1))
	fi
}

# Ends the tests.
finish() {
	echo "1..$count"
	[ $failed = 0 ] || exit 1
	exit 0
}

# run_commands NAME: runs the commands of README.md below <!-- tests/install: NAME -->, until one fails.
run_commands() {
	readme | awk -v mark="<!-- tests/install: $1 -->" '
		$0 == mark { found = 1; next }
		found && NF == 0 && !inside { next }
		found && /^    / { print substr($0, 5); inside = 1; next }
		found && inside { exit }
		found && NF { exit }' > $SHARED/commands
	[ -s $SHARED/commands ] || {
		echo "README.md has no commands below <!-- tests/install: $1 -->"
		return 1
	}
	bash -e -o pipefail -x $SHARED/commands
}

# emulator REQUEST: tells the virtual device something.
emulator() {
	exec 3<> /dev/virtio-ports/alrandom.emu
	echo "$1" >&3
	read -r answer <&3
	exec 3>&-
	echo "$1 -> $answer"
	case $answer in *'"ok":true'*) ;; *) return 1 ;; esac
}

# not COMMAND...: a shell that ends at a failure takes no notice of one after `!`.
not() {
	if "$@"; then
		echo "this should have failed: $*"
		return 1
	fi
}

# wait_until COMMAND...: until it ends well, for a minute at most with a processor of its own, five with an
# emulated one.
wait_until() {
	for attempt in $(seq 600); do
		if "$@" > /dev/null 2>&1; then
			return 0
		fi
		sleep 0.5
	done
	echo "it has not come true within 300 s: $*"
	return 1
}

# is_from FOLDER: whether the module, as modprobe finds it, is in that folder of the kernel's modules.
is_from() {
	file=$(modinfo -n alrandom)
	echo "$file"
	case $file in
	"/lib/modules/$(uname -r)/$1/alrandom.ko" | "/lib/modules/$(uname -r)/$1/alrandom.ko."[gxz]*) ;;
	*) return 1 ;;
	esac
}

# Whether the module is loaded.
is_loaded() {
	[ -d /sys/module/alrandom ]
}

# Whether the device is in use by the module.
is_used() {
	ls -d /sys/bus/usb/drivers/alrandom/*:* | grep -q .
}

# as_user COMMAND...: as somebody who is not root, in no group.
as_user() {
	setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
}

# Root needs no sudo.
printf '#!/bin/sh\nexec "$@"\n' > $SHARED/bin/sudo
chmod +x $SHARED/bin/sudo
PATH=$SHARED/bin:$PATH
