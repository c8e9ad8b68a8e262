#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Makes what the test machine needs, as far as it is not there: packages of the host, the root (see
# root.conf), and the programs under tests/, built inside that root. Prints `root=DIR` and, unless it is
# called with --root-only, `programs=DIR`.
#
# All of it goes to the cache, under names that say what it was made from. Each thing is made in another
# place and then renamed, under a lock: a run that is interrupted leaves nothing half made, and of two at
# once one waits.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/alrandom
. "$here/root.conf"

# Directories under tests/ of the programs to build, and the programs.
PROGRAM_CRATES="emulator guest vm"
PROGRAMS="alpharng-emu guest-tests vm vm-agent"

# Free space that making the root takes, in GB: the tree, its image, and what is built later.
SPACE=8

# Days after which a root that nobody has used is removed, with all that belongs to it, when a new one is
# made. Of the programs for one root, so many are kept.
KEEP_DAYS=30
KEEP_PROGRAMS=5

say() {
	echo "==> $*" >&2
}

die() {
	echo "error: $*" >&2
	exit 1
}

# Makes sure that as_root will work, for what is said in $1. Asks for a password here, if there is one to
# ask for, and not in the middle of something.
root_for() {
	[ "$(id -u)" != 0 ] || return 0
	command -v sudo >/dev/null || die "$1 takes root: install sudo, or run this as root"
	sudo -n true 2>/dev/null || sudo -v || die "$1 takes root, and sudo does not let you: run this as root"
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# logged NAME WORDS COMMAND...: runs the command with its output in a log, saying so in WORDS.
logged() {
	name=$1 words=$2
	shift 2
	log=$cache/logs/$name.log
	start=$(date +%s)
	if [ -t 2 ]; then
		(while sleep 1 && kill -0 $$; do printf '\r==> %s ... %d s' "$words" $(($(date +%s) - start)) >&2; done) &
		ticker=$!
		end='\r'
	else
		say "$words ..."
		ticker=
		end=
	fi
	status=0
	"$@" > "$log" 2>&1 < /dev/null || status=$?
	[ -z "$ticker" ] || kill "$ticker" 2>/dev/null || true
	if [ $status = 0 ]; then
		printf "$end==> %s ... done (%d s)\n" "$words" $(($(date +%s) - start)) >&2
	else
		printf "$end==> %s ... failed\n" "$words" >&2
		tail -n 15 "$log" | sed 's/^/    /' >&2
		die "$words failed with status $status; the whole log: $log"
	fi
}

# Takes the lock $1, on file descriptor 9, and says so if that takes time.
lock() {
	exec 9> "$cache/$1.lock"
	flock --nonblock 9 || {
		say "another run makes the $1: waiting for it"
		flock 9
	}
}

install_packages() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 update
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 \
		install --no-install-recommends "$@"
}

# Installs what the host lacks.
host_packages() {
	missing=
	for pair in $HOST_PROGRAMS; do
		command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
	done
	[ -e "${KEYRING%%:*}" ] || missing="$missing ${KEYRING##*:}"
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null ||
		die "this host is no Debian: install by hand what Debian has in the packages$missing"
	root_for "installing$missing"
	logged packages "installing$missing" install_packages $missing
}

# Prints the address of the Debian mirror that the host itself uses.
mirror() {
	apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(CREATED_BY)|$(REPO_URI)' 2>/dev/null |
		sed -n 's/^Debian|Debian|Packages|//p' | head -n 1
}

# Prints how the host's apt reaches the network, as options for another apt.
apt_options() {
	apt-config dump 2>/dev/null |
		grep -E '^Acquire::(http|https)::(.*:)?(Proxy|CaInfo|CaPath|Verify-Peer|Verify-Host|Timeout)\b.* ".+";$' || true
}

make_root() {
	[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "the test machine needs a Debian host on amd64"
	free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge "$SPACE" ] || die "$cache has $free GB left and this takes $SPACE: set XDG_CACHE_HOME to a directory with more"
	root_for "making the test machine's root"
	address=${ALRANDOM_MIRROR:-$(mirror)}
	if [ -z "$address" ]; then
		logged apt "updating the host's package lists" as_root apt-get -q update
		address=$(mirror)
	fi
	[ -n "$address" ] || die "the host's apt has no Debian mirror: set ALRANDOM_MIRROR to the address of one"
	# What an interrupted run has left. It had its mounts in a namespace that is gone.
	for partial in "$cache"/root-*.partial; do
		[ ! -e "$partial" ] ||
			logged removal "removing what an interrupted run has left" as_root rm -rf --one-file-system "$partial"
	done
	# Each option of apt is one line; none has a newline in it.
	set -- "$1" "$address"
	options=$(apt_options)
	while [ -n "$options" ]; do
		set -- "$@" "${options%%
*}"
		case $options in
		*'
'*) options=${options#*
} ;;
		*) options= ;;
		esac
	done
	target=$1
	shift
	logged root "making a Debian $SUITE with kernel, compilers and tools (two minutes or so)" \
		as_root env "ALRANDOM_KERNEL=$KERNEL_SERIES" unshare --mount "$here/root.sh" make "$target.partial" "$@"
	as_root mv "$target.partial" "$target"
	for old in "$cache"/root-????????????????; do
		key=${old##*/root-}
		[ "$old" != "$target" ] && [ -z "$(find "$cache/used-$key" -mtime "-$KEEP_DAYS" 2>/dev/null)" ] || continue
		as_root rm -rf --one-file-system "$old" "$cache/headers-root-$key" "$cache/target-$key" \
			"$cache/programs-$key"-* "$cache/used-$key"
	done
}

# Prints the paths, from the project's directory, of the files that the programs are made from.
program_sources() {
	cd "$clone"
	for crate in $PROGRAM_CRATES; do
		find "tests/$crate" -name target -prune -o -type f -print
	done
	# Files of the module's that are compiled into tests, or compared with what these find.
	grep -rhoE '"\.\./\.\./\.\./[^"]+"' tests/*/src --include='*.rs' | tr -d '"' | sed 's,^\.\./\.\./\.\./,,' |
		sort -u | while read -r file; do
		[ ! -f "$file" ] || echo "$file"
	done
	# The workspace, which cargo wants whole.
	find tests -name target -prune -o -name Cargo.toml -print -o -name Cargo.lock -print
	for crate in tests/*/Cargo.toml; do
		find "$(dirname "$crate")" -maxdepth 2 -path '*/src/lib.rs' -o -maxdepth 2 -path '*/src/main.rs'
	done
}

# What of the host's cargo says where crates come from, for the cargo in the root.
cargo_config() {
	for file in "${CARGO_HOME:-$HOME/.cargo}/config.toml" "${CARGO_HOME:-$HOME/.cargo}/config"; do
		[ -r "$file" ] || continue
		awk '/^ *\[/ { keep = /^ *\[+ *(source|registries|registry|http|net)[].]/ } keep' "$file"
		return
	done
}

make_programs() {
	rm -rf "$cache"/programs-*.partial "$cache/programs.build"
	mkdir -p "$1.partial" "$cache/programs.build" "$cache/cargo"
	# New files: cargo goes by their times, which a clone may have any of.
	program_sources | sort -u | tar -C "$clone" -cf - -T - | tar -C "$cache/programs.build" -xmf -
	cargo_config > "$cache/cargo/config.toml"
	target=$cache/target-${root##*/root-}
	# Static, as they run on the host and in the guest, whatever C library these have.
	CARGO_TARGET_DIR=$target RUSTFLAGS="-C target-feature=+crt-static" ALRANDOM_ROOT=$root \
		logged programs "building the emulator, the test runner and the guest's tests" \
		"$here/in-root.sh" cargo build --locked --release --bins --target x86_64-unknown-linux-gnu \
		--manifest-path "$cache/programs.build/tests/Cargo.toml" \
		-p alpharng-emu -p guest-tests -p alrandom-vm
	for program in $PROGRAMS; do
		[ ! -e "$target/x86_64-unknown-linux-gnu/release/$program" ] ||
			cp "$target/x86_64-unknown-linux-gnu/release/$program" "$1.partial/"
	done
	mv "$1.partial" "$1"
	rm -rf "$cache/programs.build"
	ls -dt "${1%-*}"-* | tail -n "+$((KEEP_PROGRAMS + 1))" | while read -r old; do
		rm -rf "$old"
	done
}

mkdir -p "$cache/logs"
host_packages

# shellcheck disable=SC2086 # However the lists are broken into lines, they are the same lists.
key=$( (echo $SUITE $KERNEL_SUITE $KERNEL_AT_LEAST "$KERNEL_SERIES" $BUILD_PACKAGES $GUEST_PACKAGES $NEWER_SUITES \
	$NEWER_PACKAGES $NEWER_FOLDER && cat "$here/root.sh") |
	sha256sum | cut -c 1-16)
root=$cache/root-$key
if [ ! -d "$root" ]; then
	lock root
	[ -d "$root" ] || make_root "$root"
	exec 9>&-
fi
: > "$cache/used-${root##*/root-}"
ln -sfn "${root##*/}" "$cache/root-current"
echo "root=$root"
[ "${1-}" != --root-only ] || exit 0

key=$(program_sources | sort -u | (cd "$clone" && xargs -d '\n' sha256sum) |
	cat - "$here/setup.sh" | sha256sum | cut -c 1-16)
programs=$cache/programs-${root##*/root-}-$key
if [ ! -d "$programs" ]; then
	lock programs
	[ -d "$programs" ] || make_programs "$programs"
	exec 9>&-
fi
echo "programs=$programs"
