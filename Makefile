# SPDX-License-Identifier: GPL-2.0
#
# For people; the kernel's build system reads Kbuild instead of this file.

# The kernel to build for.
KVER ?= $(shell uname -r)
# Its build folder; where it lacks the Rust metadata, the private copy that has it.
KDIR ?=
RUSTC ?= rustc

build := $(CURDIR)/build
metadata := $(build)/rust-metadata

# Finds the build folder, or says what is missing and how to get it.
find-kdir = kdir='$(KDIR)'; [ -n "$$kdir" ] || kdir=$$($(metadata) --find $(KVER)) || exit 1

.PHONY: all modules modules_install rust-metadata load clean help

all: modules

## modules          build alrandom.ko for the running kernel (KVER=... for another one)
modules: $(if $(KDIR),,$(metadata))
	@$(find-kdir); $(MAKE) --no-print-directory -C "$$kdir" M=$(CURDIR) modules

## modules_install  install it, to be loaded by modprobe and by hot-plug (as root)
modules_install: $(if $(KDIR),,$(metadata))
	@[ -n '$(INSTALL_MOD_PATH)' ] || [ "$$(id -u)" = 0 ] || { \
		echo >&2 "make: installing a module needs root: sudo make modules_install"; exit 1; }
	@$(find-kdir); $(MAKE) --no-print-directory -C "$$kdir" M=$(CURDIR) modules_install
	@[ -n '$(INSTALL_MOD_PATH)' ] || depmod $(KVER)

## rust-metadata    make what the headers of a distribution's kernel lack (once for each kernel)
rust-metadata: $(metadata)
	@$(metadata) $(KVER)

## load             load the module that was built (as root; the same as ./load.sh)
load:
	@./load.sh

$(metadata): tools/rust-metadata.rs
	@command -v $(RUSTC) >/dev/null || { \
		echo >&2 "make: $(RUSTC) not found: install the Rust compiler that built the kernel (Debian: apt install rustc rust-src bindgen)"; \
		exit 1; }
	@mkdir -p $(build)
	@$(RUSTC) --edition 2021 -O -o $@ $<

## clean            remove what was built here
clean:
	@rm -rf $(build)
	@find . -path ./tests -prune -o -type f \( -name '*.o' -o -name '*.ko' -o -name '*.mod' \
		-o -name '*.mod.c' -o -name '.*.cmd' -o -name '.*.d' -o -name 'bindings_generated.rs' \
		-o -name 'Module.symvers' -o -name 'modules.order' \) -exec rm -f {} +

## help             this list
help:
	@echo "Targets (see README.md for how to install, CONTRIBUTING.md for how to test):"
	@sed -n 's/^## /  /p' $(MAKEFILE_LIST)

-include tests/tests.mk
-include packaging/packaging.mk
