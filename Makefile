# What the project does, one target each; `make help` lists them. Whatever a target needs of the
# machine (compilers, QEMU, Go itself) it installs or downloads when it is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
# The kernels of test-vm: names that test/vm/fetch knows.
KERNELS ?= 6.1 newest
# That of compare.
KERNEL ?= 6.1
# How long the model checker goes on in test-matrix and test-model, on each kernel with each file system.
MODEL_TIME ?= 3m
# Packages whose tests run there.
VM_PACKAGES := tracer test/model test/e2e
# Tests of what depends on neither the kernel nor the file system, in two halves.
ONCE_1 := TestErrors|TestExplain|TestIdle|TestLogs
ONCE_2 := TestSeveralNames|TestFate|TestCgroup$$|TestTableFull|TestLayerIDIsReused|TestLayerWithoutRoom|TestSlowReader|TestPID
# What is left to test-daemon, test-drivers, test-cgroups, test-podman and test-rootless.
ELSEWHERE := TestDaemon|TestPlainWays|TestPlainLife|TestFuseOverlayfs|TestContained(Blind)?$$|TestCgroups|TestPodman$$|TestContainerd|Rootless
# What is left to the other kernel where both are run, by the kernel that leaves it: one half of those
# each, and of what takes long. Together both run everything else but TestScanWhileWriting, which test-matrix
# runs on each kernel.
LEAVES_6.1 := $(ONCE_1)|TestPrograms|TestBusyStart|TestNames|TestLongPaths|TestRunToCompletion|TestExecutableWithoutPath|TestIndexBeforeScan|TestScanWhileWriting|TestMountOptions/^(index|metacopy|redirect_dir)=on$$
LEAVES_newest := $(ONCE_2)|TestPlain|TestScanWhileWriting|TestLifecycle|TestShortLived|TestShortContainers|TestSoak|TestCovered|TestRemount|TestNobodyCollects|TestProcesses|TestCopyUpBeforeScan|TestMountOptions/nfs_export
# Where test-cgroups runs: kernels, and the hierarchies that they are given.
CGROUPS ?= 6.1-v1 newest-hybrid newest-v2
# Where test-drivers runs: kernels and file systems. On ext4 the driver is vfs, or fuse-overlayfs.
DRIVERS ?= newest-ext4 6.1-btrfs
# What test-matrix goes through.
MATRIX_KERNELS ?= 5.10 6.1 6.12 newest
MATRIX_FILE_SYSTEMS ?= ext4 xfs btrfs tmpfs
# What it leaves to the other targets: besides those, tests of many containers, processes or minutes.
MATRIX_LEAVES := $(ELSEWHERE)|$(ONCE_1)|$(ONCE_2)|TestSoak|TestShortContainers
# What it leaves to ext4: tests of what no file system has a part in.
MATRIX_EXT4 := TestTurn|TestNobodyCollects|TestExecutableWithoutPath|TestRemount|TestScanWhileWriting|TestCovered|TestIntervals|TestProcesses|TestLifecycle|TestRunToCompletion|TestShortLived
MATRIX = $(foreach kernel,$(MATRIX_KERNELS),$(MATRIX_FILE_SYSTEMS:%=$(kernel)-%))
# What test-docker runs.
DOCKER_TESTS ?= TestAcceptance|TestLifecycle|TestRunToCompletion|TestShortLived|TestShortContainers|TestOneWay|TestCovered|TestExplain|TestFate
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

GO := .ci/with-go go
# In containers and synced folders the checkout often belongs to somebody else.
GIT := git -c safe.directory='*'
VERSION = $(shell $(GIT) describe --tags --always --dirty 2>/dev/null)
COMMIT = $(shell $(GIT) rev-parse HEAD 2>/dev/null)
# The tag leaves out web pages of a library, half a megabyte.
LDFLAGS = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
SCRIPTS = $(shell $(GIT) grep --untracked -lE '^\#!.*(ba)?sh\b' -- .ci test) test/vm/lib.sh

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: build
build: ## build bin/layertrace, statically linked
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -tags grpcnotrace -ldflags "$(LDFLAGS)" -o bin/layertrace ./cmd/layertrace

.PHONY: install
install: build ## install it below PREFIX (/usr/local)
	install -D -m 755 bin/layertrace $(DESTDIR)$(PREFIX)/bin/layertrace

.PHONY: image
image: build ## build the image layertrace with Docker, to run it in a container
	tar -c -C bin layertrace -C ../deploy/docker Dockerfile | docker build -t layertrace -

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

.PHONY: check
check: ## check what is no test: that the generated code is current, and what the linters say
	@$(MAKE) --no-print-directory -k generate-check lint

.PHONY: test
test: ## run all of the tests, and count
	@rm -rf bin/results; status=0; \
	$(MAKE) --no-print-directory -k fetch >/dev/null 2>&1 & \
	$(MAKE) --no-print-directory -k test-unit test-vm || status=1; \
	bin/tally -total bin/results/unit $(KERNELS:%=bin/results/vm-%) || status=1; \
	exit $$status

.PHONY: test-unit
test-unit: test-programs ## run the tests that need no kernel of their own
	@.ci/need gcc=gcc /usr/include/stdlib.h=libc6-dev busybox=busybox-static
	$(GO) vet ./...
	$(GO) test -race -json ./... | bin/tally -save bin/results/unit

.PHONY: fetch
fetch: $(KERNELS:%=fetch-%) ## download what the VMs are made of (otherwise done when one is started)
	test/vm/fetch busybox
	test/vm/fetch docker 20.10

fetch-%:
	test/vm/fetch kernel $*

.PHONY: test-vm
# All at once: test/vm/run lets as many run as the machine can bear.
test-vm: build test-programs guest-programs ## run the kernel and Docker tests in VMs (KERNELS="6.1 newest")
	@runs=(); status=0; \
	for kernel in $(KERNELS); do \
		$(MAKE) --no-print-directory suite-$$kernel 2>&1 | sed -u "s/^/$$kernel: /" & runs+=($$!); \
	done; \
	for run in "$${runs[@]}"; do wait "$$run" || status=1; done; exit $$status

suite-%:
	@LAYERTRACE_TEST_SKIP='$(if $(word 2,$(KERNELS)),$(ELSEWHERE)|$(LEAVES_$*))' .ci/with-go test/vm/run --docker --kernel $* --timeout 3000 --out bin/results/vm-$* -- test/vm/suite $(VM_PACKAGES) | \
		bin/tally -v -strict -save bin/results/vm-$*

.PHONY: test-cgroups
test-cgroups: $(CGROUPS:%=test-cgroup-%) ## run those that depend on control groups under v1, v2 and hybrid

test-cgroup-%: build test-programs
	LAYERTRACE_TEST_RUN='TestCgroups|TestContained' .ci/with-go test/vm/run --docker \
		--kernel $(word 1,$(subst -, ,$*)) --cgroup $(word 2,$(subst -, ,$*)) --out bin/results/cgroup-$* -- \
		test/vm/suite test/e2e | bin/tally -v -strict -save bin/results/cgroup-$*

.PHONY: test-drivers
test-drivers: $(DRIVERS:%=test-driver-%) ## run those of layers that are plain directories

test-driver-%: build test-programs guest-programs
	LAYERTRACE_TEST_RUN='TestPlain|TestFuseOverlayfs' .ci/with-go test/vm/run --docker \
		--kernel $(word 1,$(subst -, ,$*)) --fs $(word 2,$(subst -, ,$*)) --out bin/results/driver-$* -- \
		test/vm/suite tracer test/e2e | bin/tally -v -strict -save bin/results/driver-$*

.PHONY: test-matrix
test-matrix: build test-programs guest-programs ## run those that depend on it everywhere, for docs/exactness.md (some hours)
	@rm -rf bin/results/matrix; status=0; \
	$(MAKE) --no-print-directory -k test-daemon test-cgroups test-drivers test-docker test-podman test-rootless || status=1; \
	printf '%s\n' $(MATRIX) | xargs -P "$$(nproc)" -I{} $(MAKE) --no-print-directory matrix-{} || status=1; \
	$(MAKE) --no-print-directory exactness || status=1; exit $$status

matrix-%:
	@mkdir -p bin/results/matrix; cp bin/commit bin/results/matrix/$*.commit
	@LAYERTRACE_TEST_TIMEOUT=90m LAYERTRACE_MODEL_TIME=$(MODEL_TIME) LAYERTRACE_TEST_SKIP='$(MATRIX_LEAVES)$(if $(filter-out %-ext4,$*),|$(MATRIX_EXT4))' .ci/with-go test/vm/run --docker \
		--kernel $(word 1,$(subst -, ,$*)) --fs $(word 2,$(subst -, ,$*)) --timeout 7200 --out bin/results/vm-$* -- \
		test/vm/suite $(VM_PACKAGES) 2>&1 | bin/tally -v -strict -save bin/results/matrix/$* 2>&1 | sed -u 's/^/$*: /'

.PHONY: test-docker
test-docker: build test-programs guest-programs ## run the tests with newer Docker daemons, and with containerd's image store
	@status=0; for docker in 26.1 newest "newest --containerd-store"; do \
		LAYERTRACE_TEST_RUN='$(DOCKER_TESTS)' .ci/with-go test/vm/run --docker=$$docker --kernel newest -- \
			test/vm/suite test/e2e | bin/tally -v -strict || status=1; \
	done; exit $$status

# How many containers test-daemon runs; from 100 on its tests of the daemon take longer, too.
CONTAINERS ?= 200

.PHONY: test-daemon
test-daemon: build test-programs ## run those in which Docker's daemon stops, restarts and is slow, and many containers come and go (CONTAINERS=200)
	@.ci/need criu=criu
	LAYERTRACE_CONTAINERS=$(CONTAINERS) LAYERTRACE_TEST_TIMEOUT=2h LAYERTRACE_TEST_RUN='TestDaemon|TestShortContainers' .ci/with-go test/vm/run --docker \
		--kernel $(KERNEL) --timeout 7500 -- test/vm/suite test/e2e | bin/tally -v -strict

.PHONY: test-podman
test-podman: build test-programs ## run the tests with podman, crun and runc, and with containerd alone
	LAYERTRACE_TEST_RUN='TestPodman$$|TestContainerd' .ci/with-go test/vm/run --docker --podman --kernel $(KERNEL) -- \
		test/vm/suite test/e2e | bin/tally -v -strict

.PHONY: test-rootless
test-rootless: build test-programs ## run the tests with a user's own podman and Docker
	@.ci/need rootlesskit=rootlesskit newuidmap=uidmap
	LAYERTRACE_TEST_RUN=Rootless .ci/with-go test/vm/run --docker --podman --kernel $(KERNEL) -- \
		test/vm/suite test/e2e | bin/tally -v -strict

.PHONY: test-model
test-model: test-programs ## let the model checker alone run on each of them for MODEL_TIME (3m)
	@printf '%s\n' $(MATRIX) | xargs -P "$$(nproc)" -I{} $(MAKE) --no-print-directory model-{}

model-%:
	@LAYERTRACE_MODEL_TIME=$(MODEL_TIME) LAYERTRACE_TEST_TIMEOUT=3h test/vm/run \
		--kernel $(word 1,$(subst -, ,$*)) --fs $(word 2,$(subst -, ,$*)) --timeout 10800 -- test/vm/suite test/model 2>&1 | \
		bin/tally -v -strict 2>&1 | sed -u 's/^/$*: /'

.PHONY: exactness
exactness: ## write docs/exactness.md from the results of test-matrix
	@mkdir -p bin/results; status=0; \
	$(GO) run ./test/matrix $(MATRIX:%=bin/results/matrix/%.json) >bin/results/exactness.md || status=1; \
	[[ ! -s bin/results/exactness.md ]] || mv bin/results/exactness.md docs/exactness.md; exit $$status

.PHONY: compare
compare: build ## change a layer in many ways; tabulate what layertrace and other tools say (KERNEL=6.1)
	@.ci/need filetop=libbpf-tools bpftrace=bpftrace fatrace=fatrace
	@CGO_ENABLED=0 $(GO) build -buildvcs=false -o bin/ ./test/workload ./test/compare
	@.ci/with-go test/vm/run --docker --kernel $(KERNEL) --timeout 300 -- bin/compare

# Where the VM's clock counts instructions the table is the same however busy the machine is; with
# BENCH_CLOCK=time it has times, and with BENCH_DIR (a directory on ext4) it is of this kernel.
BENCH_CLOCK ?= instructions
BENCH = bin/bench $(if $(PEERS),-peers "$(PEERS)") $(BENCH_FLAGS)
BENCH_VM = --kernel $(KERNEL) --timeout 900 $(if $(filter instructions,$(BENCH_CLOCK)),--instructions --cpus 1)

.PHONY: bench
bench: ## what being traced costs, as a table (KERNEL=6.1 PEERS="filetop bpftrace …" BENCH_CLOCK=time BENCH_DIR=…)
	@.ci/need fio=fio sqlite3=sqlite3 gcc=gcc tar=tar $(foreach peer,$(PEERS),$(peer_$(peer)))
	@CGO_ENABLED=0 $(GO) build -buildvcs=false -o bin/ ./test/workload ./test/bench
	@$(if $(BENCH_DIR),$(BENCH) -dir $(BENCH_DIR),.ci/with-go test/vm/run $(if $(filter docker-ps,$(PEERS)),--docker) $(BENCH_VM) -- $(BENCH))

# What the peers of bench need to be installed.
peer_filetop = filetop=libbpf-tools
peer_bpftrace = bpftrace=bpftrace
peer_bpftrace-each = bpftrace=bpftrace
peer_fatrace = fatrace=fatrace

# Everything that a test needs besides the go command, which would be slow in an emulated machine, and
# of what commit it is.
.PHONY: test-programs
test-programs:
	@mkdir -p bin/results
	@CGO_ENABLED=0 $(GO) build -buildvcs=false -o bin/ ./test/tally ./test/workload cmd/test2json
	@for package in $(VM_PACKAGES); do \
		CGO_ENABLED=0 $(GO) test -c -o bin/$${package##*/}.test ./$$package; \
	done
	@echo '$(VERSION)' >bin/commit

# Programs of the distribution that the tests run in containers.
.PHONY: guest-programs
guest-programs:
	@.ci/need fio=fio sqlite3=sqlite3 logrotate=logrotate fuse-overlayfs=fuse-overlayfs

.PHONY: demo
demo: build test-programs ## show it at work on a container, in a VM if need be
	@test/demo/run

.PHONY: clean
clean: ## remove what was built here; downloads stay in /var/cache/layertrace
	rm -rf bin
