//go:build linux

// Command bench tells what being traced costs: it does the same work untraced, with programs that do
// nothing on the functions that layertrace traces, with layertrace and with other tools, in turns, and
// prints in markdown how many times as long each piece of work took.
//
//	make bench [KERNEL=newest] [PEERS="filetop bpftrace"]
//
// It needs root, a kernel that allows eBPF, bin/workload, and an ext4 file system that can hold
// overlay's upper directories. With LAYERTRACE_INSTRUCTIONS the clock counts the guest's instructions (test/vm/run
// --instructions), and the table says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// options are what the flags say.
type options struct {
	dir    string
	rounds int
	ops    int
	files  int
	peers  []string
	parts  []string
	grow   []string
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == nativeHere {
		rounds, err := strconv.ParseUint(os.Args[2], 10, 64)
		processor, errProcessor := strconv.Atoi(os.Args[3])
		if err = errors.Join(err, errProcessor); err == nil {
			err = runBody(rounds, processor)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(1)
		}
		return
	}
	var o options
	var peers, parts, grow string
	flag.StringVar(&o.dir, "dir", "/scratch", "where to make files: on ext4, and not on an overlay")
	flag.IntVar(&o.rounds, "rounds", 5, "how often to do everything; of the rounds the median counts")
	flag.IntVar(&o.ops, "ops", 2000, "how often a round does each of the short operations")
	flag.IntVar(&o.files, "files", 500, "files of the archive that is unpacked")
	flag.StringVar(&peers, "peers", "", "other tools to run: "+strings.Join(peerNames(), " "))
	flag.StringVar(&parts, "parts", strings.Join(allParts, " "), "what to measure")
	flag.StringVar(&grow, "grow", strings.Join(growthNames(), " "), "what the part scale lets grow")
	flag.Parse()
	o.peers, o.parts, o.grow = strings.Fields(peers), strings.Fields(parts), strings.Fields(grow)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

const (
	partOps      = "ops"
	partPrograms = "programs"
	partBodies   = "bodies"
	partScale    = "scale"
	partNative   = "native"
)

var allParts = []string{partOps, partPrograms, partBodies, partScale, partNative}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

func run(ctx context.Context, o *options) error {
	for _, p := range o.parts {
		if !slices.Contains(allParts, p) {
			return fmt.Errorf("no part %q: there are %s", p, strings.Join(allParts, ", "))
		}
	}
	for _, what := range o.grow {
		if !slices.Contains(growthNames(), what) {
			return fmt.Errorf("nothing %q that grows: there are %s", what, strings.Join(growthNames(), ", "))
		}
	}
	if o.rounds < 1 || o.ops < 1 || o.files < 1 {
		return errors.New("rounds, ops and files are at least 1")
	}
	// What is measured runs on one thread, so that it is not moved about.
	runtime.LockOSThread()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	fmt.Printf("Linux %s, %d CPUs, medians of %d rounds, in %s.\n", unix.ByteSliceToString(name.Release[:]),
		runtime.NumCPU(), o.rounds, unit())
	if slices.Contains(o.parts, partNative) {
		if err := native(ctx, o.dir, o.rounds); err != nil {
			return err
		}
		if len(o.parts) == 1 {
			return nil
		}
	}
	g, err := newGround(o)
	if err != nil {
		return err
	}
	defer g.close()
	if slices.Contains(o.parts, partOps) || slices.Contains(o.parts, partPrograms) {
		if err := g.compare(ctx); err != nil {
			return err
		}
	}
	if slices.Contains(o.parts, partBodies) {
		if err := g.bodies(ctx); err != nil {
			return err
		}
	}
	if slices.Contains(o.parts, partScale) {
		if err := g.scale(ctx); err != nil {
			return err
		}
	}
	return nil
}

// compare does all work in all modes and prints the table.
func (g *ground) compare(ctx context.Context) error {
	modes, err := modesOf(g.o.peers)
	if err != nil {
		return err
	}
	var list []work
	if slices.Contains(g.o.parts, partOps) {
		list = append(list, operations(g.o)...)
	}
	if slices.Contains(g.o.parts, partPrograms) {
		programs, missing := wholePrograms(g.o)
		list = append(list, programs...)
		if len(missing) > 0 {
			return fmt.Errorf("programs that are not installed: %s", strings.Join(missing, ", "))
		}
	}
	// Once for nothing: programs and the image are read from the disk then.
	progress("warming up")
	if err := g.turn(ctx, &modes[0], list, newResults(list, modes)); err != nil {
		return err
	}
	r := newResults(list, modes)
	for round := range g.o.rounds {
		for i := range modes {
			// Another one begins each time, so that none has the advantage.
			m := &modes[(i+round)%len(modes)]
			if r.failed[m.name] != nil {
				continue
			}
			progress("round %d of %d: %s", round+1, g.o.rounds, m.name)
			err := g.turn(ctx, m, list, r)
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.As(err, new(*peerError)):
				progress("%v", err)
				r.failed[m.name] = err
			case err != nil:
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
	}
	r.print(os.Stdout)
	return nil
}

// turn does all work once in one mode, on a fresh overlay.
func (g *ground) turn(ctx context.Context, m *mode, list []work, r *results) (err error) {
	o, err := g.mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.unmount()) }()
	stop, err := m.start(ctx, g, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for i := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		took, err := list[i].measure(o)
		if err != nil {
			return fmt.Errorf("%s: %w", list[i].name, err)
		}
		r.add(i, m.name, took)
	}
	return nil
}
