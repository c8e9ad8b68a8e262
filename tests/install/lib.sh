# SPDX-License-Identifier: GPL-2.0
#
# What the stories of this folder share; each of them runs as root in a Debian that nothing lasts in.

SHARED=/run/alrandom
LOG=$SHARED/log
PROJECT=/root/alrandom
STORY=$(basename "$0" .sh)
count=0
failed=0

# Says in the log what comes next.
note() {
	printf '\n==== %s\n' "$*" >> "$LOG"
}

# test_that NAME COMMAND...: one line of TAP; the test holds if the command, which may be a function, ends
# well. In a function every command has to end well: `none` is there for those that must not.
test_that() {
	name=$1
	shift
	count=$((count + 1))
	note "$name"
	before=$(wc -l < "$LOG")
	began=$(date +%s)
	# Not as a condition, in which the shell would go on after a command that fails.
	(
		set -e
		"$@"
	) >> "$LOG" 2>&1 < /dev/null
	if [ $? = 0 ]; then
		echo "ok $count - install::$STORY: $name"
	else
		echo "not ok $count - install::$STORY: $name"
		tail -n "+$((before + 1))" "$LOG" | tail -n 25 | sed 's/^/#   /'
		failed=$((failed + 1))
	fi
	note "($(($(date +%s) - began)) s)"
}

# Ends the tests.
finish() {
	echo "1..$count"
	[ $failed = 0 ] || exit 1
	exit 0
}

# must COMMAND...: what the tests need; without it there are none.
must() {
	note "$*"
	"$@" >> "$LOG" 2>&1 < /dev/null || {
		echo "Bail out! install::$STORY: $* failed"
		tail -n 25 "$LOG" | sed 's/^/#   /'
		exit 1
	}
}

# none GREP-ARGUMENT...: no line of the standard input is one of these.
none() {
	if grep "$@"; then
		return 1
	fi
}

# attempt COMMAND...: goes on whatever comes of it, and keeps its status in $result.
attempt() {
	set +e
	(
		set -e
		"$@"
	)
	result=$?
	set -e
}

apt_install() {
	apt-get install -q -y --no-install-recommends --allow-downgrades "$@"
}

# output COMMAND...: runs it with its output, both kinds, kept in the file $out; its status in $status.
out=$SHARED/out
output() {
	status=0
	"$@" > "$out" 2>&1 || status=$?
	cat "$out"
}

# commands NAME: the commands that the README tells people to use, from the block that follows the comment
# <!-- tests/install: NAME -->.
commands() {
	block=$(awk -v mark="<!-- tests/install: $1 -->" '
		$0 == mark { found = 1; next }
		found && NF == 0 && !inside { next }
		found && /^    / { print substr($0, 5); inside = 1; next }
		found && inside { exit }
		found && NF { exit }' "$PROJECT/README.md")
	[ -n "$block" ] || {
		echo "README.md has no commands below <!-- tests/install: $1 -->" >&2
		return 1
	}
	printf '%s\n' "$block"
}

# run_commands NAME: runs them, until one fails.
run_commands() {
	commands "$1" > $SHARED/commands || return 1
	bash -e -o pipefail -x $SHARED/commands
}

# What a chroot lacks: another kernel than the host's is the running one ($SHARED/running), which modules
# are looked up for but not loaded into; root needs no sudo.
make_shims() {
	mkdir -p $SHARED/bin
	cat > $SHARED/bin/uname <<-END
		#!/bin/sh
		[ "\$*" = -r ] && exec cat $SHARED/running
		exec /usr/bin/uname "\$@"
	END
	cat > $SHARED/bin/modprobe <<-END
		#!/bin/sh
		exec /usr/sbin/modprobe --show-depends -S "\$(cat $SHARED/running)" "\$@"
	END
	printf '#!/bin/sh\nexec "$@"\n' > $SHARED/bin/sudo
	chmod +x $SHARED/bin/*
	echo "$NEW" > $SHARED/running
}

# The files that DKMS keeps of the module.
TREE=/var/lib/dkms/alrandom/1.0.0

# Whether the module is there for the kernel $1, built for it.
is_installed() {
	dkms status
	dkms status | grep -qxF "alrandom/1.0.0, $1, $ARCH: installed"
	file=$(modinfo -k "$1" -F filename alrandom)
	case $file in
	/lib/modules/$1/updates/dkms/alrandom.ko*) ;;
	*)
		echo "it is in $file"
		return 1
		;;
	esac
	[ "$(modinfo -k "$1" -F vermagic alrandom | cut -d' ' -f1)" = "$1" ]
}

# skipped RELEASE WORDS STATUS COMMAND...: the command says in one line that and why the kernel is skipped,
# with these words in it, ends with the status given, and leaves nothing for that kernel.
skipped() {
	release=$1 words=$2 wanted=$3
	shift 3
	output "$@"
	[ $status = "$wanted" ] || {
		echo "status $status, not $wanted"
		return 1
	}
	# One line; the kernel's image and its headers may both ask DKMS.
	grep "^alrandom: " "$out" | sort -u > "$out.why" || true
	[ "$(wc -l < "$out.why")" = 1 ] && grep -F -- "alrandom: not built for kernel $release: " "$out.why" | grep -F -- "$words" || {
		echo "no line, or more than one, or not these words: $words"
		return 1
	}
	[ ! -e "$TREE/$release" ]
	dkms status | none -F "$release"
}

# The module is not there for the kernel $1, and DKMS knows nothing of it.
is_gone() {
	[ ! -e "$TREE/$1" ]
	[ ! -d "/lib/modules/$1" ] || [ -z "$(find "/lib/modules/$1" -name 'alrandom.ko*')" ]
}

# Puts the Rust metadata of the kernels that it has been made for before where the system's is, for the parts
# that do not test how it is made.
lend_metadata() {
	mkdir -p /var/cache/alrandom/headers
	cp -a $SHARED/metadata/. /var/cache/alrandom/headers/
	[ -n "$(ls /var/cache/alrandom/headers)" ] || {
		# In a cache that has none: made here, by the tool that the module's build takes it from.
		make -s -C "$PROJECT" rust-metadata KVER="$NEW"
		make -s -C "$PROJECT" clean
	}
}

# Keeps all that has been installed so far, for the virtual machine: an image of what differs from the
# root, but for what no running system needs.
keep_image() {
	mkfs.erofs --quiet -T0 -zlz4 -C65536 \
		--exclude-regex='^(run|tmp|dev|proc|sys|root)/.*|^usr/src/linux-.*|^var/(cache|lib/apt|log)/.*|^etc/resolv.conf' \
		"$SHARED/results/$STORY.img" $SHARED/upper
}

# The kernel of the root, the version of its packages, and its series.
NEW=$(cat /etc/alrandom-kernel)
NEW_VERSION=$(dpkg-query -W -f '${Version}' "linux-headers-$NEW")
SERIES=$(echo "$NEW" | cut -d. -f 1-2)
ARCH=$(/usr/bin/uname -m)
