package session

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// room is how many files the kernel side has room for in these tests.
const room = 20

func withRoom(adjust func(*Config, *world)) func(*Config, *world) {
	return func(cfg *Config, w *world) {
		w.kernel.MaxFiles = room
		if adjust != nil {
			adjust(cfg, w)
		}
	}
}

func containerOf(t *testing.T, name string, files int) resolver.Container {
	t.Helper()
	sizes := map[string]int{}
	for i := range files {
		sizes[fmt.Sprintf("d/%d", i)] = 10
	}
	return sessiontest.NewContainer(t, name, sizes)
}

// leftOut checks that the loss records tell of the container, and no other record
// but those of its life.
func (w *world) leftOut(c resolver.Container) {
	w.Helper()
	losses := of[*record.Loss](w.out)
	if len(losses) != 1 || losses[0].Reason != string(event.LossTableFull) || losses[0].Events != 1 ||
		losses[0].Container == nil || losses[0].Container.ID != c.ID {
		w.Errorf("losses: %+v", losses)
	}
	for _, l := range of[*record.Layer](w.out) {
		if l.Container.ID == c.ID {
			w.Errorf("layer record of a container that was left out: %+v", l)
		}
	}
	for _, s := range of[*record.Summary](w.out) {
		if slices.ContainsFunc(s.Containers, func(s record.ContainerSummary) bool { return s.Container.ID == c.ID }) {
			w.Errorf("summary of a container that was left out: %+v", s)
		}
	}
}

func TestNoRoomForTheOnlyContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, withRoom(nil), containerOf(t, "big", room))
		if err := w.end(); !errors.Is(err, tracer.ErrTableFull) || err.Error() != "taking the baseline of big: the table of files is full" {
			t.Errorf("Run: %v", err)
		}
		if got := w.out.types(); len(got) != 0 {
			t.Errorf("records: %v", got)
		}
		if n := w.kernel.Layers(); n != 0 {
			t.Errorf("%d layers left in the kernel", n)
		}
	})
}

func TestNoRoomForOneOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big, small := containerOf(t, "big", room), containerOf(t, "small", 3)
		w := run(t, withRoom(func(cfg *Config, _ *world) { cfg.IncludeCovered = true }), big, small)
		about := of[*record.Session](w.out)[0]
		if want := []string{"taking the baseline of big: the table of files is full"}; about.Coverage != "partial" || !slices.Equal(about.Reasons, want) {
			t.Errorf("coverage %s: %q", about.Coverage, about.Reasons)
		}
		if n := w.kernel.Layers(); n != 1 {
			t.Errorf("%d layers in the kernel", n)
		}
		w.write(small, "new", 100) // for which there is room again

		// What becomes of the big one is told, but it is not tried again.
		w.containers.Send(resolver.Stopped, big)
		w.containers.Send(resolver.Started, big)
		w.sleep(2 * time.Second)
		w.equalsDisk(small)
		w.containers.Send(resolver.Removed, small)
		if err := w.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		w.wellFormed()
		w.leftOut(big)
		if s := of[*record.Summary](w.out)[0]; s.Ended != record.EndedContainersGone || len(s.Containers) != 1 || s.Containers[0].UnattributedSize != 0 {
			t.Errorf("summary: %+v", s)
		}
	})
}

func TestNoRoomForALaterContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := containerOf(t, "small", 3)
		w := run(t, withRoom(all), small)
		big := containerOf(t, "big", room)
		w.containers.Send(resolver.Found, big)
		w.sleep(0)
		if got, want := w.out.types()[1:], []string{"found", "found", "loss"}; !slices.Equal(got, want) {
			t.Errorf("records: %v, want %v", got, want)
		}
		w.containers.Send(resolver.Removed, big)
		// One of the same name has a layer of its own.
		next := containerOf(t, "big", 1)
		next.ID = sessiontest.ID("b")
		w.containers.Send(resolver.Found, next)
		w.sleep(0)
		w.write(small, "new", 100)
		w.write(next, "new", 100)
		w.finish()
		w.leftOut(big)
		if s := of[*record.Summary](w.out)[0]; len(s.Containers) != 2 {
			t.Errorf("summary: %+v", s)
		}
	})
}

// Those that fail only because a large one was read at the same time are read
// again.
func TestNoRoomBesideALargeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const small = scansAtOnce - 1
		big := containerOf(t, "big", room)
		list := []resolver.Container{big}
		var ofSmall []uint64 // one inode of each, not its root, for which there is room
		for i := range small {
			c := containerOf(t, fmt.Sprintf("small-%d", i), 2)
			list = append(list, c)
			ofSmall = append(ofSmall, inodes(t, c)[1])
		}
		ofBig := inodes(t, big)
		var tracked, tried atomic.Int64
		until := func(done func() bool) {
			for !done() {
				time.Sleep(time.Millisecond)
			}
		}
		w := run(t, withRoom(func(cfg *Config, w *world) {
			all(cfg, w)
			// The large one fills the table, then the others find it full, then the
			// large one does.
			full := func() bool { return tracked.Load() == room-small }
			w.kernel.OnTrack = func(inode uint64) bool {
				switch {
				case tried.Load() == small:
				case slices.Contains(ofSmall, inode):
					until(full)
					tried.Add(1)
				case !slices.Contains(ofBig, inode):
				case full():
					until(func() bool { return tried.Load() == small })
				default:
					until(func() bool { return w.kernel.Layers() == small+1 })
					tracked.Add(1)
				}
				return false
			}
		}), list...)
		w.sleep(time.Second)
		if n := w.kernel.Layers(); n != small {
			t.Errorf("%d layers in the kernel", n)
		}
		w.write(list[1], "new", 100)
		w.finish()
		w.leftOut(big)
		if s := of[*record.Summary](w.out)[0]; len(s.Containers) != small {
			t.Errorf("summary: %+v", s)
		}
	})
}

// inodes lists those of a container's layer.
func inodes(t *testing.T, c resolver.Container) (list []uint64) {
	t.Helper()
	err := filepath.WalkDir(c.UpperDir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		list = append(list, st.Ino)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestNoRoomWhileAnotherIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big, later := containerOf(t, "big", room), containerOf(t, "later", 1)
		w := run(t, withRoom(func(cfg *Config, _ *world) {
			cfg.Keep = true
			cfg.Select.Refs = append(cfg.Select.Refs, later.Name)
		}), big)
		w.containers.Send(resolver.Found, later)
		w.sleep(0)
		w.write(later, "new", 100)
		w.finish()
		w.leftOut(big)
		w.equalsDisk(later)
	})
}
