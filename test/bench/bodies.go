//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer"
)

// use is what the kernel says of one program: how often it ran and how long all of that took.
type use struct {
	name string
	runs uint64
	took float64
}

// bodies prints what each program costs by itself, as the kernel measures it (BPF_STATS_RUN_TIME): without
// the trampoline, and with the two readings of the clock.
func (g *ground) bodies(ctx context.Context) (err error) {
	o, err := g.mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.unmount()) }()
	before, err := programs()
	if err != nil {
		return err
	}
	t, err := tracer.New(tracer.Config{Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer t.Close()
	if err := o.watch(t, 1); err != nil {
		return err
	}
	all, err := programs()
	if err != nil {
		return err
	}
	var ours []ebpf.ProgramID
	for _, id := range all {
		if !slices.Contains(before, id) {
			ours = append(ours, id)
		}
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("measuring programs: %w", err)
	}
	defer stats.Close()

	fmt.Printf("\n| work | program | runs an operation | %s a run |\n|---|---|--:|--:|\n", unit())
	for _, w := range operations(g.o) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		at, err := uses(ours)
		if err != nil {
			return err
		}
		if _, err := w.measure(o); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		now, err := uses(ours)
		if err != nil {
			return err
		}
		name := w.name
		for i := range now {
			runs := now[i].runs - at[i].runs
			if runs*10 < uint64(w.n) {
				continue // of what prepares and cleans up
			}
			fmt.Printf("| %s | `%s` | %.2f | %.0f |\n", name, now[i].name, float64(runs)/float64(w.n), (now[i].took-at[i].took)/float64(runs))
			name = ""
		}
		if name != "" {
			fmt.Printf("| %s | none | 0 | 0 |\n", name)
		}
	}
	return nil
}

// programs lists all that the kernel has.
func programs() (ids []ebpf.ProgramID, err error) {
	for id := ebpf.ProgramID(0); ; {
		switch id, err = ebpf.ProgramGetNextID(id); {
		case err == nil:
			ids = append(ids, id)
		case errors.Is(err, os.ErrNotExist):
			return ids, nil
		default:
			return nil, err
		}
	}
}

func uses(ids []ebpf.ProgramID) ([]use, error) {
	list := make([]use, len(ids))
	for i, id := range ids {
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return nil, err
		}
		info, err := program.Info()
		if err != nil {
			return nil, err
		}
		stats, err := program.Stats()
		if err != nil {
			return nil, err
		}
		list[i] = use{info.Name, stats.RunCount, float64(stats.Runtime)}
		if err := program.Close(); err != nil {
			return nil, err
		}
	}
	return list, nil
}
