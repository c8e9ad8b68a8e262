# SPDX-License-Identifier: GPL-2.0
#
# Targets that need tests/; included by the Makefile above.

tests := $(dir $(lastword $(MAKEFILE_LIST)))
quote = '$(subst ','\'',$(1))'

.PHONY: check test test-debug soak bench fuzz demo shell clean-cache distclean

## check            tests that need no virtual machine, formatting and lints
check:
	@$(tests)check.sh

# Programs that run tests of their own and print TAP; each gets FILTER as its argument.
more-tests := $(tests)install/run.sh

test: export ALRANDOM_CHECK := all
## test             all tests: those of check, and those in a virtual machine (FILTER=... for some;
##                  ROUNDS=... for more rounds of the storms);
##                  KERNELS=all: the core tests with every kernel (KERNELS=list; KERNELS='7.2 sid arm64' for some)
test:
	@$(tests)vm/run.sh $(if $(KERNELS),kernels $(call quote,$(KERNELS)),test \
		$(if $(FILTER),--filter $(call quote,$(FILTER)),--host-tests $(tests)check.sh) \
		$(if $(ROUNDS),--rounds $(call quote,$(ROUNDS))) \
		$(addprefix --more-tests ,$(more-tests)))

## test-debug       the guest's tests on a kernel that looks for bugs (not part of test: it takes long;
##                  RACES=1 for the one that looks for data races; MACHINES=2 for two machines at once;
##                  FILTER=... and ROUNDS=... as above)
test-debug:
	@$(tests)vm/run.sh test-debug $(if $(RACES),--races) $(if $(FILTER),--filter $(call quote,$(FILTER))) \
		$(if $(ROUNDS),--rounds $(call quote,$(ROUNDS))) $(if $(MACHINES),--machines $(call quote,$(MACHINES)))

## soak             everything at once for a long time, in a virtual machine (HOURS=1, 0.05 or 24;
##                  SEED=... to do the same again; DEBUG=1 for the kernel that looks for bugs)
soak:
	@$(tests)vm/run.sh soak $(if $(HOURS),--hours $(call quote,$(HOURS))) \
		$(if $(SEED),--seed $(call quote,$(SEED))) $(if $(DEBUG),--debug)

## bench            benchmarks: the health tests, and the stream in a virtual machine (FILTER=... for some
##                  parts, ROUNDS=... for more or fewer rounds)
bench:
	@$(tests)bench.sh all $(call quote,$(FILTER)) $(ROUNDS)

## fuzz             descriptors, answers and data of hostile devices, made by a fuzzer (SECONDS=60 for
##                  each target; TARGET=... for one, INPUT=... for one case, SEED=N to begin alike)
fuzz:
	@$(if $(SEED),SEED=$(call quote,$(SEED))) $(tests)host/fuzz.sh $(call quote,$(SECONDS)) \
		$(call quote,$(TARGET)) $(call quote,$(INPUT))

## demo             show the module at work, in a virtual machine
demo:
	@$(tests)vm/run.sh demo

## shell            root shell in a virtual machine with an AlphaRNG (CMD='...' runs that; DEVICE=none;
##                  SYSTEMD=1 boots with systemd; BEFORE='...' runs that before the init)
shell:
	@$(tests)vm/run.sh shell $(if $(value CMD),--cmd $(call quote,$(value CMD))) $(if $(DEVICE),--device $(call quote,$(DEVICE))) \
		$(if $(SYSTEMD),--systemd) $(if $(value BEFORE),--before $(call quote,$(value BEFORE)))

## clean-cache      remove what the tests have made and kept (in ~/.cache/alrandom)
clean-cache:
	@$(tests)vm/clean-cache.sh

## distclean        clean and clean-cache, and what cargo has built in tests/
distclean: clean clean-cache
	@rm -rf $(tests)target $(tests)host/fuzz/target
