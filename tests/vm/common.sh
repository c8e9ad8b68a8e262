# SPDX-License-Identifier: GPL-2.0
#
# What the scripts have in common that make things for the test machine. Sourced by them; `cache` is the
# directory of the cache.

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

# host_packages PROGRAM:PACKAGE...: installs what the host lacks of these.
host_packages() {
	missing=
	for pair; do
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

# Sets `address` to the mirror's, or says how to name one.
need_mirror() {
	address=${ALRANDOM_MIRROR:-$(mirror)}
	if [ -z "$address" ]; then
		logged apt "updating the host's package lists" as_root apt-get -q update
		address=$(mirror)
	fi
	[ -n "$address" ] || die "the host's apt has no Debian mirror: set ALRANDOM_MIRROR to the address of one"
}

# Prints how the host's apt reaches the network, and whether it takes lists that are past their date (as a
# frozen mirror's are), as options for another apt.
apt_options() {
	apt-config dump 2>/dev/null | grep -E \
		-e '^Acquire::(http|https)::(.*:)?(Proxy|CaInfo|CaPath|Verify-Peer|Verify-Host|Timeout)\b.* ".+";$' \
		-e '^Acquire::(Check-Valid-Until|Max-FutureTime|Check-Date) ".+";$' || true
}
