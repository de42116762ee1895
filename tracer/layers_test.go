package tracer

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLayerIDIsReused: a layer that is removed while processes create files in it
// leaves nothing behind, and the next one of its id begins with nothing.
func TestLayerIDIsReused(t *testing.T) {
	o := newOverlay(t, nil)
	o.restart(Config{MaxCounters: 64})
	var other unix.Stat_t // of a layer that keeps the device watched
	if err := unix.Lstat(o.lower, &other); err != nil {
		t.Fatal(err)
	}
	if err := o.tracer.AddLayer(testLayer+1, o.directory(other.Ino)); err != nil {
		t.Fatal(err)
	}
	o.sh("mkdir d; for i in $(seq 200); do echo $i > d/f.$i; done") // more than the counters hold
	o.sh("timeout 60 bash -c 'while ! [ -e stop ]; do mkdir -p d/a d/b; echo 1 >> d/a/x; mv d/a d/b/a; rm -r d/b; done; touch stopped' > /dev/null 2>&1 &")
	if err := o.tracer.RemoveLayer(testLayer); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := o.tracer.Collect(); err != nil {
			t.Fatal(err)
		}
	}
	o.sh("echo more >> d/f.1; echo new > d/new")
	batch, err := o.tracer.Collect()
	if err != nil {
		t.Fatal(err)
	}
	if len(batch.Deltas)+len(batch.Files)+len(batch.Overflows)+len(batch.Losses) != 0 || len(batch.Layers) != 1 {
		t.Errorf("of a removed layer: %+v", batch)
	}
	o.sh("touch stop; until [ -e stopped ]; do :; done; rm -rf d/a d/b")

	o.baseSize, o.baseDisk, o.size, o.disk = 0, 0, 0, 0
	o.scan()
	o.sh("echo again > again")
	o.check("the id's second layer")
	if len(o.deltas) == 0 {
		t.Error("nothing was booked")
	}
}

// TestLayerWithoutRoom: a layer for which the ledger has no room leaves nothing
// behind.
func TestLayerWithoutRoom(t *testing.T) {
	o := newOverlay(t, nil)
	o.restart(Config{MaxFiles: 64})
	o.sh("mkdir d; for i in $(seq 100); do echo $i > d/f.$i; done")
	var st unix.Stat_t
	if err := unix.Lstat(o.lower, &st); err != nil {
		t.Fatal(err)
	}
	if err := o.tracer.AddLayer(testLayer+1, o.directory(st.Ino)); !errors.Is(err, ErrTableFull) {
		t.Fatalf("adding a layer to a full ledger: %v", err)
	}
	if _, known, err := o.tracer.Entry(o.device, st.Ino); known || err != nil {
		t.Errorf("entry of its directory: %v, %v", known, err)
	}
	batch, err := o.tracer.Collect()
	if err != nil {
		t.Fatal(err)
	}
	if len(batch.Layers) != 1 {
		t.Errorf("layers: %+v", batch.Layers)
	}
}

// TestTurn: what an audit has found and books itself is not booked again by the
// next hook, and a page that has changed since is left alone.
func TestTurn(t *testing.T) {
	o := newOverlay(t, func(_, upper string) {
		if err := os.WriteFile(upper+"/f", make([]byte, 1000), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	behind, err := os.OpenFile(o.upper+"/f", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	const missed = 20_000
	// Past overlayfs: its size is not noticed.
	if _, err := behind.Write(make([]byte, missed)); err != nil {
		t.Fatal(err)
	}
	o.collect()
	audit := func() (page Entry, st unix.Stat_t) {
		if err := unix.Lstat(o.upper+"/f", &st); err != nil {
			t.Fatal(err)
		}
		var known bool
		if page, known, err = o.tracer.Entry(o.device, st.Ino); err != nil || !known {
			t.Fatalf("entry: %v, %v", known, err)
		}
		return page, st
	}
	page, st := audit()
	if page.Size != 1000 {
		t.Fatalf("the ledger knows a size of %d already", page.Size)
	}
	ok, err := o.tracer.Turn(o.device, page, st.Size, st.Blocks*512)
	if err != nil || !ok {
		t.Fatalf("turning: %v, %v", ok, err)
	}
	o.baseSize += st.Size - page.Size
	o.baseDisk += st.Blocks*512 - page.Disk
	before := o.size
	o.sh("printf 0123456789 >> f")
	o.check("after a page was turned")
	if grown := o.size - before; grown != 10 {
		t.Errorf("%d bytes were booked for an append of 10", grown)
	}

	page, st = audit()
	o.sh("printf 0123456789 >> f")
	if ok, err := o.tracer.Turn(o.device, page, st.Size, st.Blocks*512); err != nil || ok {
		t.Errorf("a page that has changed since was turned: %v, %v", ok, err)
	}
	o.check("after a page was not turned")

	dir, known, err := o.tracer.Entry(o.device, o.rootInode)
	if err != nil || !known {
		t.Fatalf("entry of the root: %v, %v", known, err)
	}
	if ok, err := o.tracer.Turn(o.device, dir, 4096, dir.Disk); err != nil || !ok {
		t.Errorf("turning a directory: %v, %v", ok, err)
	}
	if dir, _, _ = o.tracer.Entry(o.device, o.rootInode); dir.Size != 0 {
		t.Errorf("a directory has a size: %d", dir.Size)
	}
}
