# SPDX-License-Identifier: GPL-2.0
#
# Builds the programs under tests/, inside a root. Sourced by the scripts that make things for the test
# machine; `here`, `clone` and `cache` are this directory, the project's and the cache's.

# Directories under tests/ of the programs to build, and the programs.
PROGRAM_CRATES="emulator guest vm"
PROGRAMS="alpharng-emu guest-tests vm vm-agent"

# Of the programs for one root, so many are kept.
KEEP_PROGRAMS=5

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

# Prints the sum of what the programs are made from.
programs_key() {
	(program_sources) | sort -u | (cd "$clone" && xargs -d '\n' sha256sum) |
		cat - "$here/setup.sh" "$here/programs.sh" | sha256sum | cut -c 1-16
}

# make_programs DIR ROOT TARGET [LINKER]: builds the programs in ROOT for Rust's TARGET, into DIR; with a LINKER,
# which a foreign TARGET takes, without the emulator, which runs on the host. Run under the lock `programs`. The
# name of DIR ends with a hyphen and the key.
make_programs() {
	rm -rf "$cache"/programs-*.partial "$cache/programs.build"
	mkdir -p "$1.partial" "$cache/programs.build" "$cache/cargo"
	# New files: cargo goes by their times, which a clone may have any of.
	(program_sources) | sort -u | tar -C "$clone" -cf - -T - | tar -C "$cache/programs.build" -xmf -
	cargo_config > "$cache/cargo/config.toml"
	packages="-p guest-tests -p alrandom-vm"
	if [ -z "${4-}" ]; then
		packages="$packages -p alpharng-emu"
	else
		printf '[target.%s]\nlinker = "%s"\n' "$3" "$4" >> "$cache/cargo/config.toml"
	fi
	built=${2##*/}
	built=$cache/target-${built#root-}
	# Static, as they run on the host and in the guest, whatever C library these have.
	# shellcheck disable=SC2086 # A list of words.
	CARGO_TARGET_DIR=$built RUSTFLAGS="-C target-feature=+crt-static" ALRANDOM_ROOT=$2 \
		logged programs "building the emulator, the test runner and the guest's tests" \
		"$here/in-root.sh" cargo build --locked --release --bins --target "$3" \
		--manifest-path "$cache/programs.build/tests/Cargo.toml" \
		$packages
	for program in $PROGRAMS; do
		[ ! -e "$built/$3/release/$program" ] || cp "$built/$3/release/$program" "$1.partial/"
	done
	mv "$1.partial" "$1"
	rm -rf "$cache/programs.build"
	# Not those used within a day: a run that takes hours may need them again.
	ls -dt "${1%-*}"-* | tail -n "+$((KEEP_PROGRAMS + 1))" | while read -r old; do
		[ -z "$(find "$old" -maxdepth 0 -mtime +0)" ] || rm -rf "$old"
	done
}
