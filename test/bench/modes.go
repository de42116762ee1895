//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/tracer"
)

// mode is a way of being traced, or not to be.
type mode struct {
	name string
	// start begins it; what it returns ends it.
	start func(context.Context, *ground, *overlay) (stop func() error, err error)
}

const (
	untraced   = "untraced"
	empty      = "empty programs"
	layertrace = "layertrace"
)

func modesOf(names []string) ([]mode, error) {
	modes := []mode{
		{untraced, func(context.Context, *ground, *overlay) (func() error, error) {
			return func() error { return nil }, nil
		}},
		{empty, func(context.Context, *ground, *overlay) (func() error, error) { return attachEmpty() }},
		{layertrace, func(_ context.Context, _ *ground, o *overlay) (func() error, error) { return trace(o) }},
	}
	for _, name := range names {
		i := slices.IndexFunc(peerModes, func(m mode) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no peer %q: there are %s", name, strings.Join(peerNames(), ", "))
		}
		modes = append(modes, peerModes[i])
	}
	return modes, nil
}

// trace traces the overlay as a watch does, and collects once a second.
func trace(o *overlay) (stop func() error, err error) {
	t, err := tracer.New(tracer.Config{Log: zerolog.Nop()})
	if err != nil {
		return nil, err
	}
	if err := o.watch(t, 1); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-done:
				ended <- nil
				return
			case <-tick.C:
			}
			batch, err := t.Collect()
			if err == nil && len(batch.Losses) > 0 {
				err = fmt.Errorf("something was lost: %+v", batch.Losses)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	return func() error {
		close(done)
		return errors.Join(<-ended, t.Close())
	}, nil
}

// attachEmpty attaches programs that do nothing to all functions that layertrace traces here: what cannot
// be done any cheaper on the same functions.
func attachEmpty() (stop func() error, err error) {
	hooks, err := tracer.PlannedHooks(false)
	if err != nil {
		return nil, err
	}
	// An overlay on ext4 is what is measured.
	hooks = slices.DeleteFunc(hooks, func(h tracer.Hook) bool { return h.Later != "" })
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{}}
	for i, hook := range hooks {
		program := &ebpf.ProgramSpec{
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
			License:      "Dual BSD/GPL",
		}
		switch hook.Kind {
		case "fentry":
			program.Type, program.AttachType, program.AttachTo = ebpf.Tracing, ebpf.AttachTraceFEntry, hook.Target
		case "fexit":
			program.Type, program.AttachType, program.AttachTo = ebpf.Tracing, ebpf.AttachTraceFExit, hook.Target
		default:
			program.Type, program.AttachType = ebpf.Kprobe, ebpf.AttachTraceKprobeMulti
		}
		spec.Programs[fmt.Sprint(i)] = program
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: btf.NewCache()})
	if err != nil {
		return nil, err
	}
	var links []link.Link
	stop = func() error {
		var errs []error
		for _, l := range links {
			errs = append(errs, l.Close())
		}
		coll.Close()
		return errors.Join(errs...)
	}
	for i, hook := range hooks {
		program := coll.Programs[fmt.Sprint(i)]
		var l link.Link
		switch hook.Kind {
		case "fentry", "fexit":
			l, err = link.AttachTracing(link.TracingOptions{Program: program})
		case "kprobe":
			l, err = link.KprobeMulti(program, link.KprobeMultiOptions{Symbols: []string{hook.Target}})
		default:
			l, err = link.KretprobeMulti(program, link.KprobeMultiOptions{Symbols: []string{hook.Target}})
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attaching to %s: %w", hook.Target, err), stop())
		}
		links = append(links, l)
	}
	return stop, nil
}
