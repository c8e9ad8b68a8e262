# SPDX-License-Identifier: GPL-2.0
#
# Builds the module in the folder $1 against the kernel's folder $2, and holds it to the kernel's
# lints: whatever rustc, clippy or rustdoc warn of fails the build.

make -C "$2" M="$1" CLIPPY=1 KRUSTFLAGS=-Dwarnings modules

# The kernel's build system has no rule for the documentation of a module: it is made with the flags
# of the compiler's call, less those that rustdoc does not know.
cd "$1"
command=$(sed -n 's/^savedcmd_[^ ]* := //p' .alrandom.o.cmd | sed \
	-e 's/ ; .*//' \
	-e 's, \([^ ]*/\)\?\(rustc\|clippy-driver\) , rustdoc ,' \
	-e 's/ --out-dir [^ ]*//' \
	-e 's/ --emit=[^ ]*//g' \
	-e 's/ --remap-path-[^ ]*//g' \
	-e 's/ -Zbinary_dep_depinfo=y//' \
	-e 's/\$\$/$/g' \
	-e 's/\$(pound)/#/g')
srcarch=$(ls "$2/arch" | head -n 1)
export ALRANDOM_BINDINGS="$1/bindings_generated.rs" ALRANDOM_MAX_BYTES=100000 RUSTC_BOOTSTRAP=1 SRCARCH="$srcarch"
eval "$command --crate-name alrandom --document-private-items -Dwarnings --output $1/doc"
test -e "$1/doc/alrandom/index.html"
