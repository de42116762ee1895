//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/record"
)

// busyKinds are processes that do one thing each as fast as they can.
var busyKinds = map[string]string{
	"busy-append":  "busy kind=append path=/w/busy.log chunk=1000 limit=4000000",
	"busy-rewrite": "busy kind=rewrite path=/w/busy.db chunk=4096",
	"busy-updown":  "busy kind=updown path=/w/busy.updown chunk=3000",
	"busy-churn":   "busy kind=churn path=/w/busy.d chunk=9000",
	"busy-mmap":    "busy kind=mmap path=/w/busy.map",
}

func startBusy(t *testing.T, b *box) (stop func()) {
	t.Helper()
	var all []*proc
	for name, line := range busyKinds {
		p := b.spawn(t, name, fields(line)...)
		p.until(t, "busy")
		all = append(all, p)
	}
	return func() {
		t.Helper()
		for _, p := range all {
			p.resume(t)
		}
		for _, p := range all {
			for _, r := range p.finish(t) {
				if r.Writes == 0 && r.Detail == "0 steps" {
					t.Errorf("this test is wrong: %s did nothing", p.name)
				}
			}
		}
	}
}

// TestBusyStart: layertrace starts while the container writes at full speed.
// What it then says holds to the byte all the same.
func TestBusyStart(t *testing.T) {
	if onTmpfs(t) {
		t.Skip("n/a: a directory on tmpfs that is being read does not show what is renamed in it meanwhile")
	}
	b := newBox(t)
	stop := startBusy(t, b)
	for round := range 2 {
		t.Run(fmt.Sprintf("round %d", round), func(t *testing.T) {
			s := launch(t, "--interval", "200ms", b.name)
			// Files of the image are copied up while the baseline is taken.
			copier := b.spawn(t, "copier", fields(repeated(busyFiles/2, fmt.Sprintf("chmod path=/usr/share/busy/f%d%%02d mode=%d then ", round, 0o600+round))+"wait")...)
			s.ready()
			// From here on every byte must be seen: those of a process that starts now.
			const size = 123_456
			name := fmt.Sprintf("probe-%d", round)
			b.run(t, name, fields("write path=/w/"+name+" size="+strconv.Itoa(size)+" chunk=1000")...)
			s.until(seenLimit, "the probe beside the busy processes", func(v *view) error {
				if err := grownAt(v, b, name, "/w/"+name, size); err != nil {
					return err
				}
				if got := v.by(b, name); got.written != size || got.writes != 124 {
					return fmt.Errorf("written %d in %d writes, want %d in 124", got.written, got.writes, size)
				}
				return grown(v, b, name, size)
			})
			// And every busy process must be known by its name.
			s.until(seenLimit, "the busy processes", func(v *view) error {
				for busy := range busyKinds {
					if v.by(b, busy).records == 0 {
						return fmt.Errorf("no record of %s", busy)
					}
				}
				return nil
			})
			copier.until(t, "waiting")
			copier.resume(t)
			copier.finish(t)
			if round == 1 {
				stop()
				s.quiet(b)
				return
			}
			// Ends while the container is busy: then the stream must agree with
			// itself, there is no still disk to hold it against.
			s.stop()
			layers := s.layersOf(b)
			if len(layers) == 0 {
				t.Fatalf("no layer record\n%s", s.dump())
			}
			first, last, sum := layers[0], layers[len(layers)-1], s.sum(b.of)
			if sum.size != last.Size-first.BaselineSize || sum.disk != last.Allocated-first.BaselineAllocated {
				t.Errorf("the growth records add up to %+v, the last layer record is %+v", sum, last)
			}
		})
	}
}

// TestShortLived: processes that live for about a millisecond are all named and
// charged.
func TestShortLived(t *testing.T) {
	const count = 200
	b := newBox(t)
	b.run(t, "prep", fields("mkdir path=/w/short")...)
	b.before = walkLayer(t, b.upper)
	s := watch(t, b.name)
	name := func(i int) string { return fmt.Sprintf("short-%03d", i) }
	// Scripts on the bind mount: a script's process has the script's name.
	for i := range count {
		script := fmt.Sprintf("#!/bin/sh\necho -n '%s' > /w/short/%d\n", strings.Repeat("s", i+1), i)
		if err := os.WriteFile(filepath.Join(b.ctl, name(i)), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	work := make(chan int, count)
	for i := range count {
		work <- i
	}
	close(work)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range work {
				if p, err := b.try("/ctl/" + name(i)); err != nil || p.Code != 0 {
					t.Errorf("%s: %+v, %v", name(i), p, err)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%d processes in %.1f s", count, time.Since(began).Seconds())
	check := func(v *view) error {
		for i := range count {
			got := v.by(b, name(i))
			if got.size != int64(i+1) || got.written != uint64(i+1) || got.writes != 1 {
				return fmt.Errorf("%s: %+v, want size and written %d by one write:\n%s", name(i), got, i+1, v.linesOf(func(g *growth) bool { return b.of(g) && g.path() == fmt.Sprintf("/w/short/%d", i) }))
			}
			if err := grownAt(v, b, name(i), fmt.Sprintf("/w/short/%d", i), int64(i+1)); err != nil {
				return err
			}
		}
		return nil
	}
	s.until(seenLimit, "every one of the processes", check)
	s.quiet(b)
	if err := check(&s.view); err != nil {
		t.Errorf("at the end: %v", err)
	}
	pids := map[uint32]string{}
	for i := range s.growth {
		g := &s.growth[i]
		if !b.of(g) {
			continue
		}
		if other := pids[g.Process.PID]; other != "" && other != g.process() {
			t.Errorf("pid %d is both %s and %s", g.Process.PID, other, g.process())
		}
		pids[g.Process.PID] = g.process()
		if g.Process.Executable != "/bin/busybox" || g.Process.ContainerID != b.id {
			t.Errorf("process %+v, want executable /bin/busybox in container %s", *g.Process, b.id)
		}
	}
}

// TestCovered: with --include-mounts what goes into mounts is reported as such,
// and is no growth of the layer.
func TestCovered(t *testing.T) {
	b := newBox(t)
	b.before = walkLayer(t, b.upper)
	s := watch(t, "--include-mounts", b.name)
	b.run(t, "mounts", fields("append path=/data/v size=5000 chunk=1000 then write path=/run/t size=3000 then write path=/ctl/b size=2000 then append path=/etc/hosts size=10 then write path=/w/l size=100")...)
	wants := []struct {
		path    string
		size    int64
		storage record.Storage
	}{
		{"/data/v", 5000, record.Storage{Class: record.ClassVolume, Destination: "/data", Name: b.volume}},
		{"/run/t", 3000, record.Storage{Class: record.ClassTmpfs, Destination: "/run"}},
		{"/ctl/b", 2000, record.Storage{Class: record.ClassBind, Destination: "/ctl"}},
		{"/etc/hosts", 10, record.Storage{Class: record.ClassDockerFile, Destination: "/etc/hosts"}},
		{"/w/l", 100, record.Storage{Class: record.ClassLayer}},
	}
	check := func(v *view) error {
		for _, w := range wants {
			on := func(g *growth) bool { return g.process() == "mounts" && g.path() == w.path }
			got := v.sum(on)
			if got.size != w.size || got.written != uint64(w.size) {
				return fmt.Errorf("%s: size %d, written %d, want %d for both:\n%s", w.path, got.size, got.written, w.size, v.linesOf(on))
			}
			for i := range v.growth {
				g := &v.growth[i]
				if !on(g) {
					continue
				}
				said := g.Storage
				if w.storage.Class != record.ClassLayer && w.storage.Class != record.ClassTmpfs && said.Source == "" {
					return fmt.Errorf("%s: no source:\n%s", w.path, g.line)
				}
				said.Source = ""
				if said != w.storage {
					return fmt.Errorf("%s: storage %+v, want %+v:\n%s", w.path, said, w.storage, g.line)
				}
			}
		}
		return nil
	}
	s.until(seenLimit, "every write with its mount", check)
	s.quiet(b)
	if err := check(&s.view); err != nil {
		t.Errorf("at the end: %v", err)
	}
	if err := grown(&s.view, b, "mounts", 100); err != nil {
		t.Error(err)
	}
}

// TestSoak runs a mixed load at full speed, for three seconds or LAYERTRACE_SOAK,
// and prints what it costs. Its end is held to the same rules as any other run's.
func TestSoak(t *testing.T) {
	length := 3 * time.Second
	if text := os.Getenv("LAYERTRACE_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("LAYERTRACE_SOAK: %v", err)
		}
	}
	b := newBox(t)
	b.before = walkLayer(t, b.upper)
	s := launch(t, "--interval", "1s", b.name)
	s.ready()
	s.until(seenLimit, "the first layer record", func(v *view) error {
		_, err := v.lastLayer(b)
		return err
	})
	stop := startBusy(t, b)
	began := time.Now()
	step := max(length/20, time.Second)
	for next := step; time.Since(began) < length; next += step {
		time.Sleep(time.Until(began.Add(min(next, length))))
		s.refresh()
		select {
		case <-s.ended:
			t.Fatalf("layertrace ended (exit code %d)\n%s", s.code, s.dump())
		default:
		}
		last, err := s.lastLayer(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, s.dump())
		}
		events := uint64(0)
		for _, l := range s.losses {
			events += l.Events
		}
		rss, cpu := usage(t, s.cmd.Process.Pid)
		t.Logf("%6.0f s: layertrace RSS %5.1f MiB, CPU %6.1f s; %d records, %d losses (%d events); written %d MiB, layer %d bytes, unattributed %d/%d",
			time.Since(began).Seconds(), float64(rss)/mib, cpu.Seconds(), len(s.lines), len(s.losses), events, last.WrittenBytes/mib, last.Size, last.UnattributedSize, last.UnattributedDisk)
	}
	stop()
	s.quiet(b)
}

// usage is a process's resident memory and the processor time it has used.
func usage(t *testing.T, pid int) (rss int64, cpu time.Duration) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kib, err := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			rss = kib * 1024
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, ticks := range f[11:13] {
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		cpu += time.Duration(n) * 10 * time.Millisecond
	}
	return rss, cpu
}
