export PATH := $(CURDIR)/node_modules/.bin:$(PATH)
export NODE_COMPILE_CACHE ?= $(CURDIR)/build/compile-cache

# What a test run left that was killed; some tests mount there.
EMPTY_TAP = awk '$$5 ~ "^$(CURDIR)/[.]tap/" { print $$5 }' /proc/self/mountinfo | tac | xargs -r umount --lazy; rm -rf .tap

PREFIX ?= /usr/local
PRETTIER_CACHE = --cache --cache-location build/prettier-cache
C_FILES = $(wildcard native/*/*.[ch])

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-engines install uninstall native pack build fmt test test-unit test-redis test-root test-e2e test-vm test-fresh t demo up down bench bench-images base-images fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## Debian packages, Node, npm packages, native library (idempotent)
	@infra/setup.sh

setup-dev: # what building and testing needs
	@infra/setup.sh --dev

setup-engines: # what tests compare with
	@infra/setup.sh --engines

install: setup ## the commands wherry and wherry-oci in PREFIX/bin (/usr/local/bin), linked to this checkout
	@mkdir -p "$(PREFIX)/bin"
	@ln -sfn "$(CURDIR)/services/cli/wherry" "$(PREFIX)/bin/wherry"
	@ln -sfn "$(CURDIR)/services/oci/wherry-oci" "$(PREFIX)/bin/wherry-oci"
	@echo "installed: $(PREFIX)/bin/wherry, $(PREFIX)/bin/wherry-oci"

uninstall: ## remove what make install made
	@for command in cli/wherry oci/wherry-oci; do \
	  link="$(PREFIX)/bin/$${command#*/}"; \
	  [ "$$(readlink "$$link")" != "$(CURDIR)/services/$$command" ] || rm -f "$$link"; \
	done

native: ## the C library and its programs, into build/native
	@$(MAKE) --no-print-directory -C native

pack: build/wherry-oci.cjs ## wherry-oci as one compiled script, which starts in half the time

build/wherry-oci.cjs: infra/pack/pack.ts package-lock.json $(foreach room,contract platform runtime containers oci,$(wildcard services/$(room)/*.ts services/$(room)/*/*.ts))
	@node --disable-warning=ExperimentalWarning infra/pack/pack.ts services/oci/main.ts build/wherry-oci

build: setup-dev ## check types, lint and format (nothing is emitted: Node runs the .ts files)
	@mkdir -p build
	tsc -p .
	prettier --check --log-level warn $(PRETTIER_CACHE) .
	clang-format --dry-run -Werror $(C_FILES)
	oxlint --type-aware --deny-warnings

fmt: setup-dev ## format TypeScript and JSON (prettier) and C (clang-format)
	@mkdir -p build
	prettier --write --log-level warn $(PRETTIER_CACHE) .
	clang-format -i $(C_FILES)

test: setup-engines build ## everything this machine can run; ends with "N passed, N failed, N skipped"
	@$(MAKE) --no-print-directory -C native check sanitize
	@$(EMPTY_TAP)
	@tap

test-unit test-redis: test-%: setup-dev
	@$(EMPTY_TAP)
	@tap $(wildcard test/$*/*.test.ts)

test-root test-e2e: test-%: setup-engines
	@$(EMPTY_TAP)
	@tap $(wildcard test/$*/*.test.ts)

test-unit: ## pure logic: no root, no Redis
test-redis: ## queue, gateway, functions against a real redis-server
test-root: ## containers, images, native code: needs root
test-e2e: ## the whole product, as a user runs it

test-vm: LAYOUT ?= v2
test-vm: setup-dev ## the containers of the root tier on Debian's kernel, pure cgroup v2, emulated (LAYOUT=v1: pure v1)
	@infra/vm/run.sh -l $(LAYOUT) tap -t0 $(filter-out $(addprefix test/root/,image-% registry-% signatures%),$(wildcard test/root/*.test.ts)); status=$$?; \
	if [ $$status = 77 ]; then echo '0 passed, 0 failed, 1 skipped'; [ "$$CI" = true ] || status=0; fi; exit $$status

test-fresh: ## setup, demo and tests on minimal Debian 12 and 13 systems (SUITES=trixie: one); 15 minutes
	@infra/fresh/run.sh $(SUITES)

t: setup-dev ## one test file: make t F=test/unit/x.test.ts
	@$(EMPTY_TAP)
	@tap $(F)

demo: setup ## start everything, run two functions three ways, leave nothing behind
	@node infra/demo/demo.ts

up: setup ## Redis, registry, gateway and worker on this machine until Ctrl-C
	@services/cli/wherry up

down: ## stop what `wherry up` started
	@services/cli/wherry down

bench: setup ## the table of budgets, and build/bench.json
	@node --expose-gc test/bench/bench.ts

bench-images: setup-engines ## pulling an image, beside podman and skopeo with umoci; build/bench-images.json
	@node test/bench/images.ts

base-images: setup ## wherry/busybox, bash, node, python (BASES=go: also that) from Debian packages, for builds without a public registry
	@infra/base-images/make.sh $(BASES)

fuzz: setup-dev ## libFuzzer on the plan checker and the layer reader, FUZZ_SECONDS (30) each
	@$(MAKE) --no-print-directory -C native fuzz

clean: ## what building and testing made (not node_modules)
	@$(EMPTY_TAP)
	rm -rf build
