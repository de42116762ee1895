# What the project does, one target each; `make help` lists them. Whatever a target needs of the
# machine (compilers, QEMU, Go itself) it installs or downloads when it is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
# The kernels of test-vm: names that test/vm/fetch knows.
KERNELS ?= 6.1 newest
# Packages whose tests run there.
VM_PACKAGES := tracer test/e2e
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

GO := .ci/with-go go
# In containers and synced folders the checkout often belongs to somebody else.
GIT := git -c safe.directory='*'
VERSION = $(shell $(GIT) describe --tags --always --dirty 2>/dev/null)
COMMIT = $(shell $(GIT) rev-parse HEAD 2>/dev/null)
LDFLAGS = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
SCRIPTS = $(shell $(GIT) grep --untracked -lE '^\#!.*(ba)?sh\b' -- .ci test) test/vm/lib.sh

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: build
build: ## build bin/layertrace, statically linked
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "$(LDFLAGS)" -o bin/layertrace ./cmd/layertrace

.PHONY: install
install: build ## install it below PREFIX (/usr/local)
	install -D -m 755 bin/layertrace $(DESTDIR)$(PREFIX)/bin/layertrace

.PHONY: generate
generate: ## compile bpf/ and generate its Go code
	@.ci/need clang-14=clang-14 llvm-strip-14=llvm-14 /usr/include/bpf/bpf_helpers.h=libbpf-dev
	$(GO) generate ./...

.PHONY: generate-check
generate-check: ## check that the generated code is that of bpf/
	.ci/generate-check

.PHONY: lint
lint: ## run the linters
	$(GO) run $(GOLANGCI_LINT) run
	@.ci/need shellcheck=shellcheck
	shellcheck -x $(SCRIPTS)

.PHONY: test
test: ## run all of the checks and tests, and count
	@rm -rf bin/results; status=0; \
	$(MAKE) --no-print-directory -k generate-check lint test-unit test-vm || status=1; \
	bin/tally -total bin/results/unit $(KERNELS:%=bin/results/vm-%) || status=1; \
	exit $$status

.PHONY: test-unit
test-unit: test-programs ## run the tests that need no kernel of their own
	@.ci/need gcc=gcc /usr/include/stdlib.h=libc6-dev busybox=busybox-static
	$(GO) vet ./...
	$(GO) test -race -json ./... | bin/tally -save bin/results/unit

.PHONY: test-vm
test-vm: $(KERNELS:%=test-vm-%) ## run the kernel and Docker tests in VMs (KERNELS="6.1 newest")

test-vm-%: build test-programs
	.ci/with-go test/vm/run --docker --kernel $* --out bin/results/vm-$* -- test/vm/suite $(VM_PACKAGES) | \
		bin/tally -v -strict -save bin/results/vm-$*

# Everything that a test needs besides the go command, which would be slow in an emulated machine.
.PHONY: test-programs
test-programs:
	@mkdir -p bin/results
	@CGO_ENABLED=0 $(GO) build -buildvcs=false -o bin/ ./test/tally ./test/workload cmd/test2json
	@for package in $(VM_PACKAGES); do \
		CGO_ENABLED=0 $(GO) test -c -o bin/$${package##*/}.test ./$$package; \
	done

.PHONY: demo
demo: build test-programs ## show it at work on a container, in a VM if need be
	@test/demo/run

.PHONY: clean
clean: ## remove what was built here; downloads stay in /var/cache/layertrace
	rm -rf bin
