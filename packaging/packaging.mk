# SPDX-License-Identifier: GPL-2.0
#
# Packages; included by the Makefile above.

packaging := $(dir $(lastword $(MAKEFILE_LIST)))

.PHONY: deb

## deb              make the Debian package alrandom-dkms, in build/
deb:
	@$(packaging)build-deb.sh
