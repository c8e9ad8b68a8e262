#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Provokes the refusals of rust-metadata with a real kernel's headers, and checks what it makes.
# Prints TAP. Needs a Debian machine (or chroot) with the kernel's headers, its linux-source and
# what a build needs; root, for the small and the read-only file system. Nothing is installed or
# changed; the cache is a temporary one. Takes about three builds' time.
#
# Usage: rust-metadata-test.sh PROGRAM [RELEASE]

set -u
program=$(realpath -- "${1:?usage: rust-metadata-test.sh PROGRAM [RELEASE]}") || exit 2
release=${2:-$(uname -r)}
real=/lib/modules/$release/build
[ -e "$real/.config" ] || { echo "no headers of $release: apt-get install linux-headers-$release" >&2; exit 2; }

# Not in /tmp, which may be small.
tmp=$(mktemp -d /var/tmp/rust-metadata-test.XXXXXX) || exit 2
trap 'cd /; umount "$tmp/small" "$tmp/readonly" 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
cache=$tmp/cache
count=0 failed=0

# result STATUS NAME: one TAP line, with the last run's messages if it failed.
result() {
	count=$((count + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed 's/^/# /' "$tmp/err"
		failed=$((failed + 1))
	fi
}

# run [VARIABLE=VALUE]... -- ARGUMENT...: runs the program with a cache of its own.
run() {
	variables=
	while [ "$1" != -- ]; do
		variables="$variables $1"
		shift
	done
	shift
	# The variables have no blanks in them.
	# shellcheck disable=SC2086
	env $variables "$program" --cache "$cache" "$@" >"$tmp/out" 2>"$tmp/err"
}

# refuses NAME PATTERN [VARIABLE=VALUE]... -- ARGUMENT...: the program must fail with status 1 and
# print nothing but, as its last line, one that matches; no copy may be left, nor half of one.
refuses() {
	name=$1 pattern=$2
	shift 2
	run "$@"
	status=$?
	[ $status -eq 1 ] && [ ! -s "$tmp/out" ] && tail -n 1 "$tmp/err" | grep -q -- "$pattern" && clean
	result $? "refused: $name"
}

# clean: whether the cache holds neither a copy nor a part of one.
clean() {
	[ -z "$(find "$cache" -mindepth 1 -maxdepth 1 ! -name .lock ! -name '*.log' 2>/dev/null)" ]
}

# headers NAME: a copy of the headers to spoil; prints where.
headers() {
	mkdir -p "$tmp/$1"
	cp -aL "$real/." "$tmp/$1/"
	echo "$tmp/$1"
}

# shim NAME SCRIPT: writes a program of that name into a folder of its own, prints the folder.
shim() {
	dir=$(mktemp -d "$tmp/shim.XXXXXX")
	printf '#!/bin/sh\n%s\n' "$2" >"$dir/$1"
	chmod +x "$dir/$1"
	echo "$dir"
}

# config SYMBOL: the value of a symbol of the kernel, without quotes.
config() {
	sed -n "s/^$1=\"\\{0,1\\}\\([^\"]*\\)\"\\{0,1\\}\$/\\1/p" "$real/.config"
}

cc=$(config CONFIG_CC_VERSION_TEXT | cut -d' ' -f1)
version=$(sed -n 's/.*" Debian \(.*\)"/\1/p' "$real/include/generated/package.h")
source=linux-source-$(echo "$release" | cut -d. -f1,2 | cut -d- -f1)
exact=$source=$(echo "$version" | sed 's/[.]/\\&/g')

# --- Refusals before anything is built
refuses 'a kernel that is not installed' 'apt-get install linux-headers-7\.2\.99-none' -- 7.2.99-none

dir=$(shim rustc 'echo "rustc 1.97.1 (0000000 2026-01-01)"')
refuses 'another rustc' "needs exactly \"rustc $(config CONFIG_RUSTC_VERSION_TEXT | cut -d' ' -f2).*RUSTC=PATH" \
	"RUSTC=$dir/rustc" -- "$release"
refuses 'no rustc' 'rustc is missing' RUSTC=/nonexistent -- "$release"
# Somebody's own toolchain before Debian's does no harm: it is the source that is refused.
refuses 'no source, whatever rustc comes first' 'no kernel source' \
	"PATH=$dir:$PATH" -- --source "$tmp" "$release"
dir=$(shim bindgen 'echo "bindgen 0.69.5"')
refuses 'another bindgen' 'needs exactly "bindgen .*BINDGEN=PATH' "BINDGEN=$dir/bindgen" -- "$release"
dir=$(shim "$cc" 'echo 13.9.0')
refuses 'another gcc' "compiled by $cc .*13\\.9\\.0" "PATH=$dir:$PATH" -- "$release"

dir=$(shim dpkg-query "case \"\$*\" in *$source*) exit 1;; *) exec /usr/bin/dpkg-query \"\$@\";; esac")
refuses 'no source package' "not installed.*apt-get install $exact " "PATH=$dir:$PATH" -- "$release"
dir=$(shim dpkg-query "case \"\$*\" in -W*$source*) echo 'installed $version.1';; *) exec /usr/bin/dpkg-query \"\$@\";; esac")
refuses 'the source of the next revision' "as installed, is .*apt-get install $exact " "PATH=$dir:$PATH" -- "$release"
dir=$(shim dpkg-query "case \"\$*\" in --control-show*$source*) echo '00000000000000000000000000000000  usr/src/$source.tar.xz';; *) exec /usr/bin/dpkg-query \"\$@\";; esac")
refuses 'a source file changed since its installation' "reinstall $exact\$" "PATH=$dir:$PATH" -- "$release"
dir=$(shim dpkg-query "case \"\$*\" in -W*linux-image*) echo 'installed $version.1';; *) exec /usr/bin/dpkg-query \"\$@\";; esac")
refuses 'headers of another revision than the image' "linux-image-.* is .*reinstall linux-headers-" "PATH=$dir:$PATH" -- "$release"
dir=$(shim dpkg-query "case \"\$*\" in --control-show*linux-headers*) echo '00000000000000000000000000000000  usr/src/linux-headers-$release/Module.symvers';; *) exec /usr/bin/dpkg-query \"\$@\";; esac")
refuses 'headers changed since their installation' 'Module.symvers is not as linux-headers' "PATH=$dir:$PATH" -- "$release"

dir=$(headers norust)
sed -i 's/^CONFIG_RUST=y/# CONFIG_RUST is not set/' "$dir/.config"
refuses 'a kernel without Rust' 'CONFIG_RUST is not set' -- --headers "$dir" "$release"
dir=$(headers old)
sed -i 's/LINUX_VERSION_MAJOR .*/LINUX_VERSION_MAJOR 6/' "$dir/include/generated/uapi/linux/version.h"
refuses 'an old kernel' 'older than Linux 7\.2' -- --headers "$dir" "$release"

cache=$tmp/readonly
mkdir "$cache" && mount -t tmpfs -o ro,mode=755 tmpfs "$cache"
refuses 'a read-only cache' '[Rr]ead-only.*choose a place' -- "$release"
cache=$tmp/others
mkdir -m 777 "$cache"
refuses 'a cache that others can write to' 'others can write to' -- "$release"
cache="$tmp/a b"
refuses 'a cache with a blank in its name' 'make cannot cope with' -- "$release"

cache=$tmp/small
mkdir "$cache" && mount -t tmpfs -o size=40M,mode=755 tmpfs "$cache"
refuses 'a full disk' 'no space left' -- "$release"
cache=$tmp/cache

# --- Refusals in the course of a build
dir=$(headers config)
sed -i '/^CONFIG_TTY=y/d' "$dir/.config"
refuses 'a configuration that this source does not give' 'CONFIG_TTY (y, not set)' -- --headers "$dir" "$release"

for signal in INT KILL; do
	"$program" --cache "$cache" "$release" >"$tmp/out" 2>"$tmp/err" &
	pid=$!
	tries=0
	until [ -e "$cache/.making/src/scripts/kconfig/conf" ] || [ $tries -ge 120 ]; do
		sleep 1
		tries=$((tries + 1))
	done
	# A shell without job control starts background programs with SIGINT ignored.
	[ $signal = INT ] && signal=TERM
	kill -$signal $pid
	wait $pid 2>/dev/null
	tries=0
	until clean || [ $tries -ge 120 ]; do
		sleep 1
		tries=$((tries + 1))
	done
	[ ! -s "$tmp/out" ] && clean && flock -w 10 "$cache/.lock" true &&
		! grep -qs "$cache/[.]making" /proc/[0-9]*/cmdline
	result $? "killed by SIG$signal in the middle: nothing left, lock free"
done

dir=$(headers symvers)
awk 'BEGIN { FS = OFS = "\t" } !done && $2 ~ /^_R/ { $2 = $2 "x"; done = 1 } { print }' \
	"$real/Module.symvers" >"$dir/Module.symvers"
refuses 'another Module.symvers' '1 only built, 1 only there (first: _R' -- --headers "$dir" "$release"

# --- What it makes
run -- --find "$release"
status=$?
[ $status -eq 1 ] && [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] &&
	grep -q "make it by: $program $release\$" "$tmp/err"
result $? '--find without a copy names the command'

"$program" --cache "$cache" "$release" >"$tmp/second" 2>"$tmp/second.err" &
second=$!
run -- "$release"
status=$?
wait $second && [ $status -eq 0 ] && cmp -s "$tmp/out" "$tmp/second" &&
	cat "$tmp/err" "$tmp/second.err" | grep -q 'another rust-metadata is at work'
result $? 'two at once: one makes the copy, the other waits for it'

kdir=$(cat "$tmp/out")
run -- --find "$release"
status=$?
[ $status -eq 0 ] && [ "$(cat "$tmp/out")" = "$kdir" ] && [ ! -s "$tmp/err" ]
result $? '--find prints the copy'

mkdir "$tmp/module"
echo 'obj-m := m.o' >"$tmp/module/Kbuild"
cat >"$tmp/module/m.rs" <<'EOF'
//! A module.
use kernel::prelude::*;
module! { type: M, name: "m", authors: ["n"], description: "d", license: "GPL", }
struct M;
impl kernel::Module for M {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: `usb_disabled` has no preconditions.
        pr_info!("{}\n", unsafe { kernel::bindings::usb_disabled() });
        Ok(M)
    }
}
EOF
before=$(cd "$kdir/.." && find . -newer made-of -type f | sort)
make -C "$kdir" M="$tmp/module" modules >"$tmp/err" 2>&1 &&
	[ "$(modinfo -F vermagic "$tmp/module/m.ko" | cut -d' ' -f1)" = "$release" ] &&
	[ "$(modinfo -F depends "$tmp/module/m.ko")" = usbcore ] &&
	[ "$(cd "$kdir/.." && find . -newer made-of -type f | sort)" = "$before" ]
result $? 'a module builds with the copy, for this kernel, and writes nothing there'

# As far as dpkg can tell, the headers are as they were installed.
dpkg --verify "linux-headers-$release" >"$tmp/err" 2>&1 && [ ! -s "$tmp/err" ] &&
	[ ! -e "$real/rust" ]
result $? 'the installed headers are untouched'

run -- --headers "$kdir" "$release"
status=$?
[ $status -eq 0 ] && grep -q 'brings its Rust metadata: nothing to make' "$tmp/err" &&
	[ "$(cat "$tmp/out")" = "$kdir" ]
result $? 'headers with their metadata: nothing to make'

run -- --list && grep -q "^$release  $version  $kdir: ready\$" "$tmp/out"
result $? '--list says ready'
run -- --clean && [ -d "$kdir" ]
result $? '--clean keeps what fits'
truncate -s 1000 "$kdir/rust/libkernel.rmeta"
run -- --find "$release"
status=$?
[ $status -eq 1 ] && run -- --list && grep -q 'unfit, damaged: build/rust/libkernel.rmeta' "$tmp/out"
result $? 'a damaged copy is not found'
run -- --clean && clean
result $? '--clean removes it'

echo "1..$count"
[ $failed -eq 0 ]
