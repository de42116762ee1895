package tracer

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer/event"
)

// rewriter is a file of the layer that this process writes in place.
type rewriter struct {
	*overlay
	file *os.File
}

func newRewriter(o *overlay, name string) *rewriter {
	o.t.Helper()
	f, err := os.OpenFile(filepath.Join(o.merged, name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = f.Close() }) // most have done so themselves
	return &rewriter{o, f}
}

// write writes bytes at a place, a number of times.
func (w *rewriter) write(bytes, at int64, times int) {
	w.t.Helper()
	for range times {
		if _, err := w.file.WriteAt(make([]byte, bytes), at); err != nil {
			w.t.Fatal(err)
		}
	}
}

// own sums up what this process did to one inode since the last Collect.
func (w *rewriter) own(batch *event.Batch, inode uint64) (sum event.Delta) {
	for _, d := range batch.Deltas {
		if d.Process.PID == uint32(os.Getpid()) && d.File.Inode == inode {
			sum.Layer, sum.File = d.Layer, d.File
			sum.Size += d.Size
			sum.Written += d.Written
			sum.Writes += d.Writes
			sum.Causes |= d.Causes
		}
	}
	return sum
}

func (w *rewriter) inode() uint64 {
	w.t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(w.file.Fd()), &st); err != nil {
		w.t.Fatal(err)
	}
	return st.Ino
}

// TestInPlace: writes in place, which mostly are counted without a look at the page,
// are counted on the right file, process and layer, and hide no change of size.
func TestInPlace(t *testing.T) {
	o := newOverlay(t, nil)
	w := newRewriter(o, "f")
	inode := w.inode()

	t.Run("several intervals", func(t *testing.T) {
		w.write(1000, 0, 1)
		for range 3 {
			w.write(10, 5, 20)
			got := w.own(o.collect(), inode)
			if got.Writes < 20 || got.Written < 200 || got.Causes&event.CauseWrite == 0 {
				t.Errorf("%+v", got)
			}
			w.write(10, 5, 1)
		}
		o.check("in place")
		if o.written != 1000+3*200+3*10 {
			t.Errorf("written %d", o.written)
		}
	})

	t.Run("shrunk by another and grown again", func(t *testing.T) {
		w.write(10, 5, 5)
		o.sh("truncate -s 900 f")
		w.write(100, 900, 1)
		if got := w.own(o.collect(), inode); got.Size != 100 || got.Writes != 6 {
			t.Errorf("the writer's: %+v", got)
		}
		o.check("shrunk and grown")
	})

	t.Run("written by another in between", func(t *testing.T) {
		before := len(o.deltas)
		for range 3 {
			w.write(10, 5, 5)
			o.sh("printf 0123456 | dd of=f conv=notrunc status=none")
		}
		batch := o.collect()
		if got := w.own(batch, inode); got.Written != 150 || got.Writes != 15 {
			t.Errorf("the writer's: %+v", got)
		}
		var other uint64
		for _, d := range o.deltas[before:] {
			if d.Process.PID != uint32(os.Getpid()) && d.File.Inode == inode {
				other += d.Written
			}
		}
		if other != 21 {
			t.Errorf("%d bytes of the others, want 21", other)
		}
	})

	t.Run("the number is used again", func(t *testing.T) {
		reused := 0
		for range 20 {
			f := newRewriter(o, "gone")
			number := f.inode()
			f.write(100, 0, 5)
			if err := f.file.Close(); err != nil {
				t.Fatal(err)
			}
			o.sh("rm gone; echo 2 > /proc/sys/vm/drop_caches")
			g := newRewriter(o, "next")
			g.write(100, 0, 3)
			if g.inode() == number {
				reused++
			}
			o.check("the next one")
			o.sh("rm next")
		}
		t.Logf("%d of 20 numbers were used again", reused)
	})

	t.Run("the layer is another", func(t *testing.T) {
		w.write(10, 5, 5)
		if err := o.tracer.RemoveLayer(testLayer); err != nil {
			t.Fatal(err)
		}
		if err := o.tracer.AddLayer(testLayer+1, o.directory(o.rootInode)); err != nil {
			t.Fatal(err)
		}
		file, _, err := o.tracer.Track(testLayer+1, o.device, inode, unix.S_IFREG)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(w.file.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if _, err := o.tracer.Settle(o.device, file, st.Size, st.Blocks*512); err != nil {
			t.Fatal(err)
		}
		w.write(7, 5, 5)
		var written uint64
		for _, d := range o.collect().Deltas {
			if d.Layer == testLayer+1 && d.File == file {
				written += d.Written
			}
		}
		if written != 35 {
			t.Errorf("%d bytes were written to the new layer, want 35", written)
		}
	})
}

// TestMsync: what msync has written back of others' is theirs, though it asks for a
// range as a write with O_DSYNC does.
func TestMsync(t *testing.T) {
	o := newOverlay(t, nil)
	if !on("ext4")(o) {
		t.Skip("n/a: only ext4 takes a block for a file's extents when it is written back")
	}
	o.sh("for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=f bs=100 count=1 seek=${i}000 conv=notrunc status=none; done")
	o.collect()
	since := len(o.deltas)
	// What is open for reading only counts as a private mapping, which msync passes by.
	f, err := os.OpenFile(filepath.Join(o.merged, "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapping, err := unix.Mmap(int(f.Fd()), 0, 900_000, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Msync(mapping, unix.MS_SYNC); err != nil {
		t.Error(err)
	}
	if err := unix.Munmap(mapping); err != nil {
		t.Error(err)
	}
	o.check("written back")
	if err := tookBlock("dd")(o, since); err != nil {
		t.Error(err)
	}
}

// TestLookOpen: whenever nobody is in the middle of a change, page and disk agree, even
// of a file that is written, written back and cut off all the time.
func TestLookOpen(t *testing.T) {
	o := newOverlay(t, nil)
	o.sh("echo text > f")
	o.collect()
	const script = `while true; do head -c 300000 /dev/zero > f; echo more >> f; sync $0/f; truncate -s 20000 f; done`
	writer := exec.Command("bash", "-ec", script, o.upper)
	writer.Dir = o.merged
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = writer.Process.Kill()
		_ = writer.Wait()
	}()
	fd, err := unix.Open(filepath.Join(o.upper, "f"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	looks, steady := 0, map[uint64]bool{}
	for deadline := time.Now().Add(time.Minute); len(steady) < 100 && time.Now().Before(deadline); looks++ {
		all, err := o.tracer.LookOpen()
		if err != nil {
			t.Fatal(err)
		}
		look, told := all[fd]
		if !on("ext4")(o) || o.tracer.old {
			if told {
				t.Errorf("told on %s: %+v", o.fileSystem, look)
			}
			return
		}
		if !told {
			t.Fatalf("not told: %+v", all)
		}
		if !look.Steady {
			continue
		}
		steady[look.Events] = true
		if look.Disk != look.Allocated {
			t.Fatalf("after %d looks: %+v", looks, look)
		}
	}
	if len(steady) < 20 {
		t.Errorf("of %d looks, only %d saw the file at rest, each time after another change", looks, len(steady))
	}
}
