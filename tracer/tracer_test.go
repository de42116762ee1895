package tracer

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer/event"
)

// The kernel tests run in a VM with a stock kernel: `make test-vm`.
func TestMain(m *testing.M) {
	if os.Getenv("LAYERTRACE_VM") == "" {
		fmt.Println("tracer: kernel tests need the VM: make test-vm")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const testLayer = event.LayerID(7)

// overlay is a mounted overlay with a traced upper directory.
type overlay struct {
	t                           *testing.T
	lower, upper, merged        string
	tracer                      *Tracer
	baseSize, baseDisk          int64
	size, disk                  int64 // booked since
	written                     uint64
	deltas                      []event.Delta
	files                       []event.FileEvent
	processes                   map[event.ProcessID]event.Process
	device, rootInode, deletedN uint64
}

func newOverlay(t *testing.T, populate func(lower, upper string)) *overlay {
	t.Helper()
	dir, err := os.MkdirTemp("/scratch", "overlay")
	if err != nil {
		t.Fatal(err)
	}
	o := &overlay{
		t: t, lower: dir + "/lower", upper: dir + "/upper", merged: dir + "/merged",
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
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s/work,index=off", o.lower, o.upper, dir)
	if err := unix.Mount("overlay", o.merged, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	if o.tracer, err = New(Config{Log: zerolog.New(zerolog.NewTestWriter(t))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.tracer.Close(); err != nil {
			t.Error(err)
		}
		_ = unix.Unmount(o.merged, unix.MNT_DETACH)
		_ = os.RemoveAll(dir)
	})
	o.scan()
	return o
}

func (o *overlay) scan() {
	o.t.Helper()
	var root unix.Stat_t
	if err := unix.Lstat(o.upper, &root); err != nil {
		o.t.Fatal(err)
	}
	o.device = uint64(unix.Major(root.Dev))<<20 | uint64(unix.Minor(root.Dev))
	o.rootInode = root.Ino
	if err := o.tracer.AddLayer(testLayer, o.device, root.Ino, true); err != nil {
		o.t.Fatal(err)
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
		if err != nil || file.Generation != 0 || known && st.Ino != o.rootInode {
			return err
		}
		for {
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			size, disk, again, _, err := o.tracer.Settle(testLayer, o.device, st.Ino, st.Size, st.Blocks*512)
			if err != nil {
				return err
			}
			if again {
				continue
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				o.baseSize += size
			}
			o.baseDisk += disk
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
	for _, l := range batch.Losses {
		o.t.Errorf("loss: %+v", l)
	}
	return batch
}

// check demands that what was booked is what the disk says.
func (o *overlay) check(what string) {
	o.t.Helper()
	o.collect()
	size, disk := o.measure()
	if got := o.baseSize + o.size; got != size {
		o.t.Errorf("%s: size: booked %d, on disk %d (%+d)", what, got, size, got-size)
	}
	if got := o.baseDisk + o.disk; got != disk {
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
