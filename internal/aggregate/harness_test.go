package aggregate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

const (
	regular   = 0o100644
	directory = 0o040755
)

var (
	boot = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	api  = record.Container{ID: strings.Repeat("a", 64), Name: "my-api", Image: "my-api:1", Runtime: "docker"}
	root = old(2)
)

// host is the world outside of the aggregator: cgroup 7 is my-api's, every pid
// below 1000 lives.
type host struct{}

func (host) Actor(cgroup uint64) (string, bool) {
	if cgroup == 7 {
		return api.ID, true
	}
	return "", false
}

func (host) Alive(pid uint32, _ uint64) bool { return pid < 1000 }

func (host) StartTime(ns uint64) time.Time { return boot.Add(time.Duration(ns)) }

func (host) Classify(_ event.LayerID, _ uint64, path string) record.Storage {
	if strings.HasPrefix(path, "/data") {
		return record.Storage{Class: record.ClassVolume, Destination: "/data", Name: "vol"}
	}
	return record.Storage{Class: record.ClassLayer}
}

func at(seconds int) time.Time { return boot.Add(time.Duration(seconds) * time.Second) }

func old(inode uint64) event.FileID { return event.FileID{Inode: inode, Generation: 1} }

func fresh(inode, generation uint64) event.FileID {
	return event.FileID{Inode: inode, Generation: event.Born | generation}
}

func process(pid uint32) event.ProcessID { return event.ProcessID{PID: pid, Start: uint64(pid) * 1000} }

func known(pid uint32, name string) event.Process {
	return event.Process{ID: process(pid), ParentPID: 1, CgroupID: 7, Name: name, Executable: "/usr/bin/" + name}
}

// newTest returns an aggregator with my-api as layer 1, whose root is seeded.
func newTest(t testing.TB, change ...func(*Config)) *Aggregator {
	t.Helper()
	cfg := Config{Start: boot, Actors: host{}, Mounts: host{}}
	for _, f := range change {
		f(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.AddLayer(1, api)
	a.Seed(1, Baseline{File: root, Mode: directory, Disk: 4096})
	return a
}

func seedFile(a *Aggregator, f, parent event.FileID, name string, size, disk int64) {
	a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: regular, Links: 1, Size: size, Disk: disk})
}

func seedDir(a *Aggregator, f, parent event.FileID, name string) {
	a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: directory, Links: 2, Size: 4096, Disk: 4096})
}

func fileEvent(op event.FileOp, f, parent event.FileID, name string, pid uint32) event.FileEvent {
	e := event.FileEvent{Layer: 1, Op: op, File: f, Parent: parent, Name: name, Process: process(pid)}
	if op != event.FileUnlinked && op != event.FileGone {
		e.Mode = regular
	}
	return e
}

func delta(f event.FileID, pid uint32, size, disk int64, causes event.Causes) event.Delta {
	d := event.Delta{Layer: 1, File: f, Size: size, Disk: disk, Causes: causes}
	if pid != 0 {
		d.Process = process(pid)
	}
	if causes&event.CauseWrite != 0 {
		d.Written, d.Writes = uint64(max(size, 1)), 1
	}
	return d
}

// show prints records in a short form that tests compare.
func show(recs []record.Record) string {
	var b strings.Builder
	for _, r := range recs {
		switch r := r.(type) {
		case *record.Growth:
			name := "?"
			if r.Process != nil {
				name = fmt.Sprintf("%s/%d", r.Process.Name, r.Process.PID)
				if r.Process.Exited {
					name += "+"
				}
			}
			fmt.Fprintf(&b, "%s %q", name, r.File.Path)
			if r.File.PreviousPath != "" {
				fmt.Fprintf(&b, " was %q", r.File.PreviousPath)
			}
			if r.Storage.Class != record.ClassLayer {
				fmt.Fprintf(&b, " on %s", r.Storage.Class)
			}
			if r.File.Origin != "" {
				fmt.Fprintf(&b, " %s", r.File.Origin)
			}
			if r.File.Deleted {
				b.WriteString(" deleted")
			}
			fmt.Fprintf(&b, " %d/%d grew %d/%d %s\n", r.File.Size, r.File.Allocated,
				r.SizeGrowth, r.DiskGrowth, strings.Join(r.Causes, ","))
		case *record.Layer:
			fmt.Fprintf(&b, "layer %d/%d base %d/%d grew %d/%d files %d\n", r.Size, r.Allocated,
				r.BaselineSize, r.BaselineAllocated, r.SizeGrowth, r.DiskGrowth, r.Files)
		case *record.Loss:
			fmt.Fprintf(&b, "loss %s %d %d\n", r.Reason, r.Events, r.Bytes)
		case *record.ContainerEvent:
			fmt.Fprintf(&b, "container %s %s", r.Event, r.Container.Name)
			if r.LostSize != nil {
				fmt.Fprintf(&b, " lost %d/%d", *r.LostSize, *r.LostAllocated)
				for _, p := range r.LostPaths {
					fmt.Fprintf(&b, " %s=%d", p.Path, p.Size)
				}
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func expect(t *testing.T, what string, got []record.Record, want ...string) {
	t.Helper()
	w := strings.Join(want, "\n")
	if w != "" {
		w += "\n"
	}
	if g := show(got); g != w {
		t.Errorf("%s:\n got:\n%s want:\n%s", what, indent(g), indent(w))
	}
}

func indent(s string) string { return "\t" + strings.ReplaceAll(s, "\n", "\n\t") }
