//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target amd64,arm64 -type file_key -type file_entry -type counter -type native_args -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-unused-function -Wno-sign-compare -mcpu=v3" native bpf/native.bpf.c -- -I../../bpf
//go:generate llvm-objcopy-14 --remove-section=.rel.BTF --remove-section=.rel.BTF.ext native_x86_bpfel.o
//go:generate llvm-objcopy-14 --remove-section=.rel.BTF --remove-section=.rel.BTF.ext native_arm64_bpfel.o

// nativeHere is the argument with which native starts a copy of the bench, before the
// number of rounds.
const nativeHere = "native-here"

// native prints what the programs' bodies cost where nothing can be attached, which
// some kernels forbid: each runs many times in a loop inside of the kernel
// (BPF_PROG_TEST_RUN), on a file and a process that are known. The file is the
// executable of the process. So that is a copy in dir: of files on an overlay stat says
// other numbers than the kernel has. It needs Linux 5.17.
func native(ctx context.Context, dir string, times int) (err error) {
	place, err := os.MkdirTemp(dir, "layertrace-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(place)) }()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("reading the own executable: %w", err)
	}
	if err := os.WriteFile(place+"/bench", self, 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, place+"/bench", nativeHere, strconv.Itoa(times))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running the programs' bodies: %w", err)
	}
	return nil
}

func runBodies(times int) error {
	const rounds = 1_000_000
	if err := features.HaveProgramHelper(ebpf.RawTracepoint, asm.FnLoop); errors.Is(err, ebpf.ErrNotSupported) {
		progress("this kernel has no loops for programs, so that their bodies are not run by themselves")
		return nil
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raising the limit on locked memory: %w", err)
	}
	spec, err := loadNative()
	if err != nil {
		return fmt.Errorf("reading the programs: %w", err)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("reading the kernel's BTF: %w", err)
	}
	var cast *btf.Func
	casts := kernel.TypeByName("bpf_rdonly_cast", &cast) == nil
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return fmt.Errorf("looking at the own executable: %w", err)
	}
	// The kernel's own encoding, unlike that of stat.
	device := unix.Major(st.Dev)<<20 | unix.Minor(st.Dev)
	if err := errors.Join(spec.Variables["casts"].Set(casts), spec.Variables["watched_device"].Set(device)); err != nil {
		return fmt.Errorf("setting variables: %w", err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("loading the programs: %w", err)
	}
	defer coll.Close()
	page := nativeFileEntry{
		Generation: 1, Size: st.Size, Disk: st.Blocks * 512, Layer: 1, State: 1, Mode: st.Mode, Settled: 1,
	}
	if err := coll.Maps["files"].Put(nativeFileKey{Inode: st.Ino, Device: device}, page); err != nil {
		return fmt.Errorf("entering a file: %w", err)
	}

	fmt.Printf("\n| body | %s a run |\n|---|--:|\n", unit())
	var empty float64
	for _, body := range []struct{ program, name string }{
		{"native_nothing", "nothing, in the loop"},
		{"native_lookup", "a file is looked up"},
		{"native_write", "1 byte is written in place"},
		{"native_allocate", "a block is allocated"},
	} {
		took := make([]float64, times)
		for i := range took {
			begin := time.Now()
			if _, err := coll.Programs[body.program].Run(&ebpf.RunOptions{Context: nativeNativeArgs{Rounds: rounds}}); err != nil {
				return fmt.Errorf("running %s: %w", body.program, err)
			}
			took[i] = float64(time.Since(begin).Nanoseconds()) / rounds
		}
		slices.Sort(took)
		median := took[len(took)/2]
		if body.program == "native_nothing" {
			empty = median
		}
		fmt.Printf("| %s | %.1f (%.1f–%.1f) |\n", body.name, median-empty, took[0]-empty, took[len(took)-1]-empty)
	}

	// What has been measured has to have been the counting.
	var counter nativeCounter
	if err := coll.Maps["counters_a"].Lookup(uint32(1), &counter); err != nil {
		return fmt.Errorf("reading the counter: %w", err)
	}
	if want := uint64(times * rounds); counter.Writes != want || counter.Disk != int64(want)*4096 {
		return fmt.Errorf("%d writes and %d bytes were counted of %d", counter.Writes, counter.Disk, want)
	}
	return nil
}
