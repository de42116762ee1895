package tracer

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer/event"
)

// The kernel tests run in a VM with a stock kernel: `make test-vm`. Benchmarks need
// none: `go test -run - -bench . ./tracer`.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("LAYERTRACE_VM") == "" && flag.Lookup("test.bench").Value.String() == "" {
		fmt.Println("tracer: kernel tests need the VM: make test-vm")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const testLayer = event.LayerID(7)

// overlay is a mounted overlay with a traced upper directory.
type overlay struct {
	t                    *testing.T
	lower, upper, merged string
	tracer               *Tracer
	baseSize, baseDisk   int64
	size, disk           int64 // booked since
	written              uint64
	deltas               []event.Delta
	files                []event.FileEvent
	covered              []event.Covered
	outside              string // a file that is not in the layer
	dir                  string // below merged, where a trial takes place
	options              string // more of the mount's
	beforeScan           func() // called when the layer's root is known, and nothing below it
	processes            map[event.ProcessID]event.Process
	device, rootInode    uint64
	fileSystem           string
	plain                bool // see newPlain
}

func newOverlay(t *testing.T, populate func(lower, upper string)) *overlay {
	t.Helper()
	o, err := tryOverlay(t, "", populate)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// tryOverlay mounts it with further options. The error is the mount's.
func tryOverlay(t *testing.T, options string, populate func(lower, upper string)) (*overlay, error) {
	t.Helper()
	o, err := mountOverlay(t, options, populate)
	if err != nil {
		return nil, err
	}
	o.start()
	return o, nil
}

func newTracer(t *testing.T, cfg Config) *Tracer {
	t.Helper()
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t))
	tracer, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

// start begins to trace the layer with a tracer of its own.
func (o *overlay) start() {
	o.t.Helper()
	t := o.t
	o.tracer = newTracer(t, Config{})
	t.Cleanup(func() { // of the one that is there then, see restart
		if err := o.tracer.Close(); err != nil {
			t.Error(err)
		}
	})
	o.scan()
}

// mountOverlay is tryOverlay without a tracer.
func mountOverlay(t *testing.T, options string, populate func(lower, upper string)) (*overlay, error) {
	t.Helper()
	dir, err := os.MkdirTemp("/scratch", "overlay")
	if err != nil {
		t.Fatal(err)
	}
	o := &overlay{
		t: t, lower: dir + "/lower", upper: dir + "/upper", merged: dir + "/merged", options: options,
		processes: map[event.ProcessID]event.Process{},
	}
	for _, d := range []string{o.lower, o.upper, dir + "/work", o.merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if populate != nil {
		populate(o.lower, o.upper)
	}
	unix.Sync()
	if err := o.tryMount(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	t.Cleanup(func() {
		_ = unix.Unmount(o.merged, unix.MNT_DETACH)
		_ = os.RemoveAll(dir)
	})
	return o, nil
}

func (o *overlay) mount() {
	o.t.Helper()
	if err := o.tryMount(); err != nil {
		o.t.Fatal(err)
	}
}

func (o *overlay) tryMount() error {
	o.t.Helper()
	work := filepath.Join(filepath.Dir(o.upper), "work")
	// What keeps a volatile overlay from being mounted again.
	if err := os.RemoveAll(work + "/work/incompat"); err != nil {
		o.t.Fatal(err)
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off%s", o.lower, o.upper, work, o.options)
	return unix.Mount("overlay", o.merged, "overlay", 0, options)
}

// directory is one of /scratch as a layer's.
func (o *overlay) directory(inode uint64) event.Upper {
	return event.Upper{Device: o.device, Inode: inode, FileSystem: o.fileSystem, Mounted: true, Plain: o.plain}
}

// scratch tells what /scratch is by the mount table: on btrfs stat gives another
// device.
func scratch(t *testing.T) (device uint64, fileSystem string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[4] != "/scratch" {
			continue
		}
		var major, minor uint64
		if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err != nil {
			t.Fatal(err)
		}
		return major<<20 | minor, fields[slices.Index(fields, "-")+1]
	}
	t.Fatal("/scratch is not mounted")
	return 0, ""
}

func (o *overlay) scan() {
	o.t.Helper()
	var root unix.Stat_t
	if err := unix.Lstat(o.upper, &root); err != nil {
		o.t.Fatal(err)
	}
	o.device, o.fileSystem = scratch(o.t)
	if o.plain && o.fileSystem == btrfs {
		o.device = uint64(unix.Major(root.Dev))<<20 | uint64(unix.Minor(root.Dev))
	}
	o.rootInode = root.Ino
	if err := o.tracer.AddLayer(testLayer, o.directory(root.Ino)); err != nil {
		o.t.Fatal(err)
	}
	if !o.seesDisk() {
		o.t.Log("size only: this kernel does not let allocated bytes be read on this file system") // test/matrix shows it
	}
	if o.beforeScan != nil {
		o.beforeScan()
	}
	err := filepath.WalkDir(o.upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		file, known, err := o.tracer.Track(testLayer, o.device, st.Ino, st.Mode)
		if err != nil || file.Born() || known && st.Ino != o.rootInode {
			return err
		}
		for {
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			is, err := o.tracer.Settle(o.device, file, st.Size, st.Blocks*512)
			if err != nil {
				return err
			}
			if is.Again {
				continue
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				o.baseSize += is.Size
			}
			o.baseDisk += is.Disk
			return nil
		}
	})
	if err != nil {
		o.t.Fatal(err)
	}
}

// measure adds up the upper directory as docker and du do.
func (o *overlay) measure() (size, disk int64) {
	o.t.Helper()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(o.upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		disk += st.Blocks * 512
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			size += st.Size
		}
		return nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return size, disk
}

func (o *overlay) collect() *event.Batch {
	o.t.Helper()
	batch, err := o.tracer.Collect()
	if err != nil {
		o.t.Fatal(err)
	}
	for _, p := range batch.Processes {
		o.processes[p.ID] = p
	}
	for _, d := range batch.Deltas {
		o.size += d.Size
		o.disk += d.Disk
		o.written += d.Written
	}
	o.deltas = append(o.deltas, batch.Deltas...)
	o.files = append(o.files, batch.Files...)
	o.covered = append(o.covered, batch.Covered...)
	for _, l := range batch.Losses {
		o.t.Errorf("loss: %+v", l)
	}
	return batch
}

// seesDisk tells whether the tracer can, which says so if not: before 5.11 the modules
// of xfs and btrfs have no BTF, and their allocations are left to the audit.
func (o *overlay) seesDisk() bool {
	return !slices.ContainsFunc(o.tracer.Coverage(), func(reason string) bool {
		return strings.HasPrefix(reason, "allocated bytes on "+o.fileSystem)
	})
}

// check demands that what was booked is what the disk says.
func (o *overlay) check(what string) {
	o.t.Helper()
	o.collect()
	size, disk := o.measure()
	if got := o.baseSize + o.size; got != size {
		o.t.Errorf("%s: size: booked %d, on disk %d (%+d)", what, got, size, got-size)
	}
	if got := o.baseDisk + o.disk; got != disk && o.seesDisk() {
		o.t.Errorf("%s: disk: booked %d, on disk %d (%+d)", what, got, disk, got-disk)
	}
	if o.t.Failed() {
		for _, d := range o.deltas {
			o.t.Logf("  %+v %s", d, o.processes[d.Process].Name)
		}
		for _, f := range o.files {
			o.t.Logf("  %+v", f)
		}
		o.t.FailNow()
	}
}

func (o *overlay) sh(script string) {
	o.t.Helper()
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = o.merged
	if out, err := cmd.CombinedOutput(); err != nil {
		o.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func TestShellWays(t *testing.T) {
	o := newOverlay(t, func(lower, upper string) {
		for path, size := range map[string]int{
			lower + "/image": 300000, lower + "/tree/a": 5000, lower + "/tree/sub/b": 70000, lower + "/gone": 9,
			upper + "/old": 12345, upper + "/var/log": 4097, lower + "/exec": 10,
		} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
	o.check("baseline")
	for _, script := range []string{
		"echo hello > new",
		"echo more >> new",
		"echo more >> old",
		"head -c 100000 /dev/zero > zeros; sync zeros",
		"dd if=/dev/zero of=dd bs=4k count=20 status=none",
		"dd if=/dev/zero of=dd bs=4k count=20 conv=notrunc status=none",
		"cp zeros copy; cp -r tree tree2",
		"truncate -s 10M sparse; truncate -s 5 zeros; truncate -s 3 old",
		"mkdir -p a/b/c/d; ln -s x a/short; ln -s $(printf 'y%.0s' {1..200}) a/long",
		"ln new a/hard; rm new; rm a/hard",
		"chmod 600 image",
		"chown -R 1:1 tree",
		"rm gone; rm -r tree",
		"echo 1 > v1; echo 22 > v2; mv v1 v2; mv a z; echo x > z/b/c/d/f",
		"sed -i s/h/j/ old var/log",
		"tar cf t.tar z tree2; mkdir un; tar xf t.tar -C un",
		"fallocate -l 1M fal; fallocate -p -o 4096 -l 8192 fal; fallocate -n -o 2M -l 64k fal",
		"setfattr -n user.x -v $(printf 'v%.0s' {1..1000}) fal || true",
		"exec 3> del; head -c 50000 /dev/zero >&3; rm del; head -c 50000 /dev/zero >&3; exec 3>&-",
		"for i in $(seq 50); do echo $i > many.$i; done; rm many.*",
		"mkdir big; cd big; for i in $(seq 300); do : > some-quite-long-file-name-that-fills-directories-$i; done",
		"rm -r big",
		"sync",
	} {
		o.sh(script)
		o.check(script)
	}
}

// processNamed sums what processes of a name are booked for.
func (o *overlay) processNamed(name string) (size, disk int64, written uint64) {
	for _, d := range o.deltas {
		if o.processes[d.Process].Name == name {
			size += d.Size
			disk += d.Disk
			written += d.Written
		}
	}
	return size, disk, written
}

// TestProcesses: every process, however short it lives, gets what it did.
func TestProcesses(t *testing.T) {
	o := newOverlay(t, nil)
	o.sh("for i in $(seq 100); do head -c $((i*100)) /dev/zero > f.$i; done")
	o.sh("exec dd if=/dev/zero of=dd bs=1000 count=7 status=none")
	o.check("short-lived")
	if size, _, written := o.processNamed("head"); size != 505000 || written != 505000 {
		t.Errorf("head: size %d, written %d, want 505000", size, written)
	}
	if size, _, _ := o.processNamed("dd"); size != 7000 {
		t.Errorf("dd, after an exec in the same process: size %d, want 7000", size)
	}
	pids := map[uint32]bool{}
	for id, p := range o.processes {
		if p.Name == "head" {
			pids[id.PID] = true
			if p.Executable != "/usr/bin/head" || p.CgroupID == 0 || p.ParentPID == 0 {
				t.Errorf("facts of a process: %+v", p)
			}
		}
	}
	if len(pids) != 100 {
		t.Errorf("%d processes named head, want 100", len(pids))
	}
}

// TestExecutableWithoutPath: a program that is executed from memory, as container
// runtimes do with copies of themselves, has no path that could be too long.
func TestExecutableWithoutPath(t *testing.T) {
	o := newOverlay(t, nil)
	program, err := os.ReadFile("../bin/workload")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("workload", 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd:workload")
	defer f.Close()
	if _, err := f.Write(program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/fd/3", "write", "path="+o.merged+"/file", "size=1000")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o.check("from memory") // no loss either
	if size, _, written := o.processNamed("3"); size != 1000 || written != 1000 {
		t.Errorf("size %d, written %d, want 1000", size, written)
	}
}

// TestRemount: a layer that is mounted again is still watched, from the first
// byte; what is removed below an unmounted layer is no change of it.
func TestRemount(t *testing.T) {
	o := newOverlay(t, nil)
	o.sh("echo one > a")
	o.check("first mount")
	if err := unix.Unmount(o.merged, 0); err != nil {
		t.Fatal(err)
	}
	if batch := o.collect(); batch.Layers[0].Mounted {
		t.Error("still mounted after umount")
	}
	o.mount()
	o.sh("echo two >> a; echo three > b; rm a")
	o.check("second mount")
	if err := unix.Unmount(o.merged, 0); err != nil {
		t.Fatal(err)
	}
	o.collect()
	size := o.size
	if err := os.Remove(o.upper + "/b"); err != nil {
		t.Fatal(err)
	}
	o.collect()
	if o.size != size {
		t.Errorf("removal of an unmounted layer booked %d", o.size-size)
	}
}

// TestTableFull: counters that do not fit are counted for the layer as a whole.
func TestTableFull(t *testing.T) {
	o := newOverlay(t, nil)
	o.restart(Config{MaxCounters: 64})
	o.sh("for i in $(seq 200); do echo $i > f.$i; done")
	batch, err := o.tracer.Collect()
	if err != nil {
		t.Fatal(err)
	}
	var size, disk int64
	for _, d := range batch.Deltas {
		size, disk = size+d.Size, disk+d.Disk
	}
	if len(batch.Overflows) != 1 || batch.Overflows[0].Size == 0 {
		t.Fatalf("overflows: %+v", batch.Overflows)
	}
	size, disk = size+batch.Overflows[0].Size, disk+batch.Overflows[0].Disk
	wantSize, wantDisk := o.measure()
	if size != wantSize-o.baseSize || disk != wantDisk-o.baseDisk {
		t.Errorf("booked %d and %d, on disk %d and %d", size, disk, wantSize-o.baseSize, wantDisk-o.baseDisk)
	}
	var lost bool
	for _, l := range batch.Losses {
		lost = lost || l.Reason == event.LossTableFull && l.Layer == testLayer && l.Bytes == batch.Overflows[0].Size
	}
	if !lost {
		t.Errorf("losses: %+v", batch.Losses)
	}
	o.sh("echo again > again")
	after, err := o.tracer.Collect()
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Losses) != 0 || len(after.Overflows) != 0 {
		t.Errorf("a new interval starts with losses: %+v", after)
	}
}

// restart replaces the tracer by one of another configuration.
func (o *overlay) restart(cfg Config) {
	o.t.Helper()
	if err := o.tracer.Close(); err != nil {
		o.t.Fatal(err)
	}
	o.tracer = newTracer(o.t, cfg)
	o.baseSize, o.baseDisk, o.size, o.disk = 0, 0, 0, 0
	o.scan()
}

// TestScanWhileWriting: a baseline that is taken while files are written,
// created, renamed and removed still adds up.
func TestScanWhileWriting(t *testing.T) {
	o := newOverlay(t, func(lower, upper string) {
		if err := os.Mkdir(lower+"/image", 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			if err := os.WriteFile(fmt.Sprintf("%s/image/f%d", lower, i), make([]byte, i*7), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 300 {
			if err := os.MkdirAll(fmt.Sprintf("%s/d%d", upper, i%10), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(fmt.Sprintf("%s/d%d/f%d", upper, i%10, i), make([]byte, i*17), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
	script := `n=0; while ! [ -e stop ]; do n=$((n+1)); d=d$((n%10)); echo $n >> $d/f$((n%300)); echo $n > $d/new.$n; rm -f $d/new.$((n-5)); done`
	copyUp := `for i in $(seq 0 999); do [ -e stop ] || : >> image/f$i; done`
	cmd := exec.Command("bash", "-c", "("+copyUp+") & "+script+"; wait")
	cmd.Dir = o.merged
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		o.restart(Config{})
	}
	for deadline := time.Now().Add(time.Minute); o.size == 0; o.collect() {
		if time.Now().After(deadline) {
			t.Fatal("the writer does nothing")
		}
	}
	o.sh("touch stop")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	o.check("a scan beside a writer")
}

// TestCopyUpBeforeScan: what is copied up in a directory that the scan has yet to
// enter is part of the baseline, and what becomes of it later is not.
func TestCopyUpBeforeScan(t *testing.T) {
	o := newOverlay(t, func(lower, upper string) {
		for _, dir := range []string{lower + "/a/b", upper + "/a/b"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(lower+"/a/b/image", make([]byte, 900), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	o.beforeScan = func() { o.sh("chmod 600 a/b/image") }
	o.restart(Config{})
	o.check("after the scan")
	if o.baseSize != 900 || o.size != 0 {
		t.Errorf("baseline of %d bytes, growth of %d; want 900 and 0", o.baseSize, o.size)
	}
	o.sh("echo more >> a/b/image")
	o.check("later")
	if o.size != 5 {
		t.Errorf("growth of %d, want 5", o.size)
	}
}

// TestCovered: writes of a watched cgroup outside of the layer, by path.
func TestCovered(t *testing.T) {
	o := newOverlay(t, nil)
	o.restart(Config{IncludeCovered: true})
	var st unix.Stat_t
	if err := unix.Stat("/sys/fs/cgroup", &st); err != nil {
		t.Fatal(err)
	}
	if err := o.tracer.WatchCgroup(st.Ino, testLayer); err != nil {
		t.Fatal(err)
	}
	outside, err := os.MkdirTemp("/scratch", "volume")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(outside)
	o.sh("echo 12345 > " + outside + "/file; echo 6789 >> " + outside + "/file; echo inside > inside")
	batch := o.collect()
	var found bool
	for _, c := range batch.Covered {
		if c.Path == outside+"/file" {
			found = true
			if c.Size != 11 || c.Written != 11 || c.Writes != 2 || c.FileSize != 11 || c.Layer != testLayer {
				t.Errorf("%+v", c)
			}
		}
		if filepath.Base(c.Path) == "inside" {
			t.Errorf("a file of the layer is reported as outside of it: %+v", c)
		}
	}
	if !found {
		t.Errorf("no record of the file outside: %+v", batch.Covered)
	}
}

// TestIntervals: nothing is lost or seen twice where writers go on while
// intervals end.
func TestIntervals(t *testing.T) {
	o := newOverlay(t, nil)
	cmd := exec.Command("bash", "-c", `
		for w in 1 2; do
			(n=0; while ! [ -e stop ]; do n=$((n+1)); echo $n; echo $n > new.$((n%7)); done >> log.$w) &
		done
		dd if=/dev/zero of=dd bs=4k count=3000 status=none; wait`)
	cmd.Dir = o.merged
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		o.collect()
	}
	o.sh("touch stop")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	o.check("a hundred intervals")
	if size, _, written := o.processNamed("dd"); size != 3000*4096 || written != 3000*4096 {
		t.Errorf("dd: size %d, written %d, want %d", size, written, 3000*4096)
	}
}
