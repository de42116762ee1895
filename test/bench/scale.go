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

	"github.com/cilium/ebpf"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

func appendByte(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("x"))
	return errors.Join(err, f.Close())
}

// point is what was measured at one size of something.
type point struct {
	write, collect float64 // one write in place; one Collect
	growth         float64 // a Collect for each that changed; 0 if nothing did
	entered        float64 // entering a file into the ledger; 0 if that was not done
	memory         uint64  // of all maps, bytes
}

// growths are what may grow, and to where.
var growths = []struct {
	name, what string
	sizes      []int
	grow       func(*scaled, int) (changed int, err error)
}{
	{"known", "files known", []int{100, 10_000, 1_000_000}, (*scaled).know},
	{"changed", "files changed", []int{10, 1_000, 100_000}, (*scaled).change},
	{"processes", "processes", []int{10, 1_000, 50_000}, (*scaled).spawn},
	{"layers", "layers", []int{10, 100, 1_000}, (*scaled).layers},
}

func growthNames() []string {
	var names []string
	for _, g := range growths {
		names = append(names, g.name)
	}
	return names
}

// scale makes one thing grow at a time.
func (g *ground) scale(ctx context.Context) error {
	fmt.Printf("\n| what grows | to | write in place, %[1]s | Collect after one write, %[1]s | Collect, %[1]s for each that changed | entering a file, %[1]s | kernel memory, KiB |\n|---|--:|--:|--:|--:|--:|--:|\n", unit())
	for _, grown := range growths {
		if !slices.Contains(g.o.grow, grown.name) {
			continue
		}
		for _, size := range grown.sizes {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			progress("%s: %d", grown.what, size)
			p, err := g.measure(size, grown.grow)
			if err != nil {
				return fmt.Errorf("%s: %d: %w", grown.what, size, err)
			}
			some := func(value float64) string {
				if value == 0 {
					return "-"
				}
				return grouped(value)
			}
			fmt.Printf("| %s | %s | %s | %s | %s | %s | %s |\n", grown.what, grouped(float64(size)), grouped(p.write),
				grouped(p.collect), some(p.growth), some(p.entered), grouped(float64(p.memory>>10)))
		}
	}
	return nil
}

// scaled is a tracer at work.
type scaled struct {
	*overlay
	t       *tracer.Tracer
	entered float64 // what entering a file into the ledger took
}

// measure lets something grow and looks what work costs then.
func (g *ground) measure(size int, grow func(*scaled, int) (int, error)) (p point, err error) {
	o, err := g.mount()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, o.unmount()) }()
	maps, err := allMaps()
	if err != nil {
		return p, err
	}
	cfg := tracer.Config{Log: zerolog.Nop()}
	if size > 60_000 {
		cfg.MaxCounters = 1 << 17
	}
	t, err := tracer.New(cfg)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := o.watch(t, 1); err != nil {
		return p, err
	}
	s := &scaled{overlay: o, t: t}
	changed, err := grow(s, size)
	if err != nil {
		return p, err
	}
	p.entered = s.entered
	took, err := s.collect(changed)
	if err != nil {
		return p, err
	}
	if changed > 0 {
		p.growth = took / float64(changed)
	}
	step, done, err := onFile(inLayer, unix.O_RDWR|unix.O_CREAT, inPlace)(o)
	if err != nil {
		return p, err
	}
	p.write, err = timed(thread, func() error {
		for i := range g.o.ops {
			if err := step(i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return p, err
	}
	p.write /= float64(g.o.ops)
	// The first also brings the new file.
	for range 3 {
		if err := step(0); err != nil {
			return p, err
		}
		if p.collect, err = s.collect(1); err != nil {
			return p, err
		}
	}
	if p.memory, err = memory(maps); err != nil {
		return p, err
	}
	return p, done()
}

// collect measures a Collect, which has to find that many changes.
func (s *scaled) collect(changed int) (took float64, err error) {
	var batch *event.Batch
	took, err = timed(process, func() error {
		batch, err = s.t.Collect()
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case len(batch.Deltas) < changed || len(batch.Losses) > 0:
		return 0, fmt.Errorf("Collect found %d changes instead of %d, and lost %v", len(batch.Deltas), changed, batch.Losses)
	}
	return took, nil
}

// know enters inodes that nobody has: the ledger does not look at them.
func (s *scaled) know(n int) (int, error) {
	const first = 1 << 40
	took, err := timed(process, func() error {
		for i := range uint64(n) {
			file, _, err := s.t.Track(1, s.g.device, first+i, unix.S_IFREG)
			if err != nil {
				return err
			}
			if _, err := s.t.Settle(s.g.device, file, 0, 0); err != nil {
				return err
			}
		}
		return nil
	})
	s.entered = took / float64(n)
	return 0, err
}

func (s *scaled) change(n int) (int, error) {
	for i := range n {
		if err := appendByte(fmt.Sprintf("%s/%d", s.merged, i)); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (s *scaled) spawn(n int) (int, error) {
	// A shell forks much faster than a program of Go is started.
	out, err := exec.Command("sh", "-c", `for i in $(seq "$1"); do (echo x >>"$2"); done`, "sh", strconv.Itoa(n), s.merged+"/shared").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	return n, nil
}

// layers adds layers in which nothing happens.
func (s *scaled) layers(n int) (int, error) {
	for i := range n - 1 {
		more := &overlay{g: s.g, upper: fmt.Sprintf("%s/upper-%d", s.dir, i)}
		if err := os.Mkdir(more.upper, 0o755); err != nil {
			return 0, err
		}
		if err := more.watch(s.t, event.LayerID(2+i)); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func allMaps() (ids map[ebpf.MapID]bool, err error) {
	ids = map[ebpf.MapID]bool{}
	for id := ebpf.MapID(0); ; {
		id, err = ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
		ids[id] = true
	}
}

// memory is what maps take that were not there before.
func memory(before map[ebpf.MapID]bool) (bytes uint64, err error) {
	now, err := allMaps()
	if err != nil {
		return 0, err
	}
	for id := range now {
		if before[id] {
			continue
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return 0, err
		}
		info, err := m.Info()
		if err != nil {
			return 0, err
		}
		used, _ := info.Memlock()
		bytes += used
		if err := m.Close(); err != nil {
			return 0, err
		}
	}
	return bytes, nil
}
