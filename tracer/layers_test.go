package tracer

import (
	"errors"
	"os"
	"strings"
	"sync"
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

// TestUntrack: an inode that had no name left when it was tracked is none of the layer,
// whatever is done to it by who holds it open, before it is given up and after.
func TestUntrack(t *testing.T) {
	o := newOverlay(t, nil)
	held, err := os.OpenFile(o.merged+"/f", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var closing sync.Once
	closeHeld := func() { closing.Do(func() { held.Close() }) }
	defer closeHeld()
	write := func(content string) {
		if _, err := held.WriteString(content); err != nil {
			t.Fatal(err)
		}
		if err := held.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	write("known before")
	// As after a scan that has found the name, and before it tells the kernel side.
	var st unix.Stat_t
	if err := unix.Lstat(o.upper+"/f", &st); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.merged + "/f"); err != nil {
		t.Fatal(err)
	}
	o.restart(Config{})
	before := len(o.deltas)
	file, known, err := o.tracer.Track(testLayer, o.device, st.Ino, st.Mode)
	if err != nil || known || file.Born() {
		t.Fatalf("tracking: %+v, %v, %v", file, known, err)
	}
	write("while it is tracked")
	write(strings.Repeat("and more", 5000))
	o.collect()
	if len(o.deltas) == before {
		t.Error("nothing was booked while it was tracked")
	}
	if err := o.tracer.Untrack(o.device, file); err != nil {
		t.Fatal(err)
	}
	o.check("after it was given up")
	before = len(o.deltas)
	write(strings.Repeat("and after that", 1000))
	o.check("what was done to it later")
	for _, d := range o.deltas[before:] {
		t.Errorf("booked later: %+v", d)
	}
	closeHeld()
	o.check("after it was freed")
	if entry, known, err := o.tracer.Entry(o.device, st.Ino); err != nil || known {
		t.Errorf("a page after the inode was freed: %+v, %v, %v", entry, known, err)
	}
	if held := o.collect().Layers[0].OpenDeleted; held != 0 {
		t.Errorf("%d bytes of deleted files, want 0", held)
	}

	// In the layer, a Track is not taken back.
	o.sh("echo more > g")
	o.check("a file that was born")
	if err := unix.Lstat(o.upper+"/g", &st); err != nil {
		t.Fatal(err)
	}
	if file, known, err = o.tracer.Track(testLayer, o.device, st.Ino, st.Mode); err != nil || !known || !file.Born() {
		t.Fatalf("tracking a file that was born: %+v, %v, %v", file, known, err)
	}
	if err := o.tracer.Untrack(o.device, file); err != nil {
		t.Fatal(err)
	}
	o.sh("echo more >> g")
	o.check("a file that was not given up")
}
