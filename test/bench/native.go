//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"

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
// number of runs for each line that it reads.
const nativeHere = "native-here"

// body is what one of the programs is, and how many run it at a time.
type body struct {
	program, name string
	processes     int
	oneFile       bool // all work on the same
}

func bodies() []body {
	all := []body{
		{"native_nothing", "nothing, in the loop", 1, true},
		{"native_lookup", "a file is looked up", 1, true},
		{"native_write", "1 byte is written in place", 1, true},
		{"native_allocate", "a block is allocated", 1, true},
	}
	if n := min(runtime.NumCPU(), 8); n > 1 {
		all = append(all,
			body{"native_write", fmt.Sprintf("1 byte is written in place, %d processors, a file for each", n), n, false},
			body{"native_write", fmt.Sprintf("1 byte is written in place, %d processors, all to one file", n), n, true},
			body{"native_allocate", fmt.Sprintf("a block is allocated, %d processors, a file for each", n), n, false},
			body{"native_allocate", fmt.Sprintf("a block is allocated, %d processors, all to one file", n), n, true})
	}
	return all
}

// native prints what the programs' bodies cost where nothing can be attached, which
// some kernels forbid: each runs many times in a loop inside of the kernel
// (BPF_PROG_TEST_RUN), on a file and a process that are known. The file is the
// executable of the process. So that is a copy in dir: of files on an overlay stat says
// other numbers than the kernel has. It needs Linux 5.17.
func native(ctx context.Context, dir string, times int) (err error) {
	const rounds = 1_000_000
	if err := features.HaveProgramHelper(ebpf.RawTracepoint, asm.FnLoop); errors.Is(err, ebpf.ErrNotSupported) {
		progress("this kernel has no loops for programs, so that their bodies are not run by themselves")
		return nil
	}
	place, err := os.MkdirTemp(dir, "layertrace-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(place)) }()
	bodies := bodies()
	copies, files, err := copySelf(place, bodies[len(bodies)-1].processes)
	if err != nil {
		return err
	}
	coll, err := loadBodies(files[0].Dev)
	if err != nil {
		return err
	}
	defer coll.Close()

	fmt.Printf("\n| body | %s a run |\n|---|--:|\n", unit())
	var empty float64
	written, allocated := 0, 0
	for _, body := range bodies {
		if err := enter(coll, files); err != nil {
			return err
		}
		took, err := body.run(ctx, coll.Programs[body.program], copies, times, rounds)
		if err != nil {
			return fmt.Errorf("running %s: %w", body.program, err)
		}
		median := took[len(took)/2]
		switch body.program {
		case "native_nothing":
			empty = median
		case "native_write":
			written += body.processes * times * rounds
		case "native_allocate":
			allocated += body.processes * times * rounds
		}
		fmt.Printf("| %s | %.1f (%.1f–%.1f) |\n", body.name, median-empty, took[0]-empty, took[len(took)-1]-empty)
	}
	return checkCounters(coll, uint64(written), int64(allocated)*4096)
}

// copySelf makes copies of the executable.
func copySelf(dir string, n int) (copies []string, files []unix.Stat_t, err error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, nil, fmt.Errorf("reading the own executable: %w", err)
	}
	for i := range n {
		path := fmt.Sprintf("%s/bench-%d", dir, i)
		if err := os.WriteFile(path, self, 0o700); err != nil {
			return nil, nil, err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return nil, nil, fmt.Errorf("looking at %s: %w", path, err)
		}
		copies, files = append(copies, path), append(files, st)
	}
	return copies, files, nil
}

// loadBodies loads the programs for files on a device, which is in the encoding of stat.
func loadBodies(dev uint64) (*ebpf.Collection, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raising the limit on locked memory: %w", err)
	}
	spec, err := loadNative()
	if err != nil {
		return nil, fmt.Errorf("reading the programs: %w", err)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's BTF: %w", err)
	}
	var cast *btf.Func
	casts := kernel.TypeByName("bpf_rdonly_cast", &cast) == nil
	if err := errors.Join(spec.Variables["casts"].Set(casts), spec.Variables["watched_device"].Set(kernelDevice(dev))); err != nil {
		return nil, fmt.Errorf("setting variables: %w", err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the programs: %w", err)
	}
	return coll, nil
}

// kernelDevice is a device as the kernel itself encodes it.
func kernelDevice(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }

// enter has the programs know the files, and of none who wrote to it.
func enter(coll *ebpf.Collection, files []unix.Stat_t) error {
	for _, st := range files {
		page := nativeFileEntry{
			Generation: 1, Size: st.Size, Disk: st.Blocks * 512, Layer: 1, State: 1, Mode: st.Mode, Settled: 1,
		}
		if err := coll.Maps["files"].Put(nativeFileKey{Inode: st.Ino, Device: kernelDevice(st.Dev)}, page); err != nil {
			return fmt.Errorf("entering a file: %w", err)
		}
	}
	return nil
}

// run has copies of the bench run a program at the same time, and returns what a run took,
// sorted: the mean of the processes, once for each time.
func (b *body) run(ctx context.Context, program *ebpf.Program, copies []string, times, rounds int) (took []float64, err error) {
	fd, err := unix.FcntlInt(uintptr(program.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicating a descriptor: %w", err)
	}
	file := os.NewFile(uintptr(fd), program.String())
	defer file.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running []*runner
	defer func() {
		for _, r := range running {
			err = errors.Join(err, r.in.Close(), r.cmd.Wait())
		}
	}()
	for i := range b.processes {
		path := copies[0]
		if !b.oneFile {
			path = copies[i]
		}
		r, err := start(exec.CommandContext(ctx, path, nativeHere, strconv.Itoa(rounds), strconv.Itoa(i)), file)
		if err != nil {
			return nil, err
		}
		running = append(running, r)
	}
	for range times {
		for _, r := range running {
			if _, err := r.in.Write([]byte{'\n'}); err != nil {
				return nil, err
			}
		}
		var sum float64
		for _, r := range running {
			var ns float64
			if _, err := fmt.Fscanln(r.out, &ns); err != nil {
				return nil, fmt.Errorf("reading what it took: %w", err)
			}
			sum += ns
		}
		took = append(took, sum/float64(b.processes*rounds))
	}
	slices.Sort(took)
	return took, nil
}

// runner is a process that runs a program whenever it is told to.
type runner struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(cmd *exec.Cmd, program *os.File) (*runner, error) {
	cmd.ExtraFiles, cmd.Stderr = []*os.File{program}, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &runner{cmd: cmd, in: in, out: bufio.NewReader(out)}, cmd.Start()
}

// runBody runs the program that it is given, on a processor of its own, for each line
// that it reads, and prints how long that took.
func runBody(rounds uint64, processor int) error {
	runtime.LockOSThread()
	var only unix.CPUSet
	only.Set(processor)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		progress("processor %d is not to be had: %v", processor, err)
	}
	const given = 3 // the first of ExtraFiles
	program, err := ebpf.NewProgramFromFD(given)
	if err != nil {
		return fmt.Errorf("taking the program: %w", err)
	}
	defer program.Close()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		// Not what others took who wanted the processor, too.
		var before, after unix.Timespec
		errBefore := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
		_, err := program.Run(&ebpf.RunOptions{Context: nativeNativeArgs{Rounds: rounds}})
		errAfter := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
		if err := errors.Join(errBefore, err, errAfter); err != nil {
			return err
		}
		fmt.Println(after.Nano() - before.Nano())
	}
	return nil
}

// checkCounters makes sure that what has been measured was the counting.
func checkCounters(coll *ebpf.Collection, writes uint64, disk int64) error {
	counters := coll.Maps["counters_a"]
	var head nativeCounter
	if err := counters.Lookup(uint32(0), &head); err != nil {
		return fmt.Errorf("reading how many counters there are: %w", err)
	}
	var sum nativeCounter
	for slot := range uint32(head.Writes) {
		var counter nativeCounter
		if err := counters.Lookup(slot+1, &counter); err != nil {
			return fmt.Errorf("reading a counter: %w", err)
		}
		sum.Writes += counter.Writes
		sum.Disk += counter.Disk
	}
	if sum.Writes != writes || sum.Disk != disk {
		return fmt.Errorf("%d writes and %d bytes were counted of %d and %d", sum.Writes, sum.Disk, writes, disk)
	}
	return nil
}
