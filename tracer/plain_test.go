package tracer

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer/event"
)

// newPlain is newOverlay of a directory without an overlay above it.
func newPlain(t *testing.T) *overlay {
	t.Helper()
	_, fileSystem := scratch(t)
	if fileSystem == tmpfs {
		t.Skip("n/a: no hooks for a directory on tmpfs without an overlay")
	}
	if _, err := os.Stat("/sys/kernel/btf/" + fileSystem); err != nil {
		t.Skip("n/a: the file system's module has no BTF")
	}
	dir, err := os.MkdirTemp("/scratch", "plain")
	if err != nil {
		t.Fatal(err)
	}
	o := &overlay{t: t, upper: dir, merged: dir, plain: true, processes: map[event.ProcessID]event.Process{}}
	o.sh("mkdir -p image/sub; head -c 70000 /dev/zero > image/a; head -c 5000 /dev/zero > image/sub/b; sync .")
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o.start()
	return o
}

// names returns what happened to a name, in order.
func (o *overlay) names(name string) []event.FileOp {
	var ops []event.FileOp
	for _, f := range o.files {
		if f.Name == name {
			ops = append(ops, f.Op)
		}
	}
	return ops
}

// TestPlain: a directory without an overlay is accounted for to the byte.
func TestPlain(t *testing.T) {
	o := newPlain(t)
	o.check("baseline")
	for _, script := range []string{
		"echo hello > new",
		"echo more >> new; echo more >> image/a",
		"head -c 100000 /dev/zero > zeros; sync zeros",
		"dd if=/dev/zero of=dd bs=4k count=20 status=none",
		"dd if=/dev/zero of=dd bs=4k count=20 conv=notrunc status=none",
		"dd if=/dev/zero of=direct bs=4k count=20 oflag=direct status=none",
		"cp zeros copy; cp -r image image2",
		"truncate -s 10M sparse; truncate -s 5 zeros; truncate -s 3 image/sub/b",
		"mkdir -p a/b/c/d; ln -s x a/short; ln -s $(printf 'y%.0s' {1..200}) a/long; mkfifo a/fifo",
		"ln new a/hard; rm new; rm a/hard",
		"chmod 600 image/a; chown -R 1:1 image2",
		"echo 1 > v1; echo 22 > v2; mv v1 v2; mv a z; echo x > z/b/c/d/f",
		"ln v2 v3; mv v3 z/v4",
		"sed -i s/h/j/ image/a",
		"tar cf t.tar image2; mkdir un; tar xf t.tar -C un",
		"fallocate -l 1M fal; fallocate -p -o 4096 -l 8192 fal; fallocate -n -o 2M -l 64k fal",
		"setfattr -n user.x -v $(printf 'v%.0s' {1..1000}) fal || true",
		"exec 3> del; head -c 50000 /dev/zero >&3; rm del; head -c 50000 /dev/zero >&3; exec 3>&-",
		"for i in $(seq 50); do echo $i > many.$i; done; rm many.*",
		"mkdir big; cd big; for i in $(seq 300); do : > some-quite-long-file-name-that-fills-directories-$i; done",
		"rm -r big image2",
		"mkdir ../outside-$$; echo out > ../outside-$$/file; rm -r ../outside-$$",
		"mkdir -p ../outside-$$/come; cd ../outside-$$; head -c 70000 /dev/zero > in; echo 1 > over; echo 2 > z; mv in over come $OLDPWD; mv z $OLDPWD/zeros; rmdir ../outside-$$",
		"echo more >> in; echo more > come/below; ln over over2",
		"mkdir ../outside-$$; exec 3>> held; head -c 9000 /dev/zero >&3; mv in held come/below over2 ../outside-$$; echo elsewhere >&3; mv ../outside-$$/held .; head -c 9000 /dev/zero >&3; rm -r ../outside-$$",
		"sync",
	} {
		o.sh(script)
		o.check(script)
	}
	nameless(o)
	for name, want := range map[string][]event.FileOp{
		"v1":   {event.FileCreated},
		"v2":   {event.FileCreated, event.FileRenamed},
		"v3":   {event.FileLinked, event.FileUnlinked},
		"v4":   {event.FileLinked},
		"del":  {event.FileCreated, event.FileUnlinked},
		"z":    {event.FileRenamed},
		"file": nil,
		"in":   {event.FileCreated, event.FileUnlinked},
		"held": {event.FileCreated, event.FileUnlinked, event.FileCreated},
	} {
		if got := o.names(name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if size, _, written := o.processNamed("dd"); size != 2*20*4096 || written != 3*20*4096 {
		t.Errorf("dd: size %d, written %d, want %d and %d", size, written, 2*20*4096, 3*20*4096)
	}
}

// nameless makes a file without a name and gives it one.
func nameless(o *overlay) {
	o.t.Helper()
	fd, err := unix.Open(o.upper, unix.O_TMPFILE|unix.O_WRONLY, 0o600)
	if err != nil {
		o.t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, make([]byte, 3000)); err != nil {
		o.t.Fatal(err)
	}
	o.check("a file without a name")
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, o.upper+"/nameless", unix.AT_SYMLINK_FOLLOW); err != nil {
		o.t.Fatal(err)
	}
	o.check("its first name")
	if _, err := unix.Write(fd, make([]byte, 5000)); err != nil {
		o.t.Fatal(err)
	}
	o.check("what came later")
	if got := o.names("nameless"); !slices.Equal(got, []event.FileOp{event.FileLinked}) {
		o.t.Errorf("nameless: %v", got)
	}
	if _, _, written := o.processNamed("tracer.test"); written != 8000 {
		o.t.Errorf("written %d, want 8000", written)
	}
}

// TestPlainAppenders: two processes that append to one file at the same time are
// each charged with their own bytes; where the size is read only after the inode's lock
// was let go of (btrfs), one may be charged with the other's.
func TestPlainAppenders(t *testing.T) {
	o := newPlain(t)
	cmd := exec.Command("bash", "-ec", `
		dd if=/dev/zero of=shared bs=100 count=4000 oflag=append conv=notrunc status=none & a=$!
		head -c 300000 /dev/zero | cat >> shared
		wait $a`)
	cmd.Dir = o.merged
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o.check("two appenders")
	var sum int64
	for name, want := range map[string]int64{"dd": 400_000, "cat": 300_000} {
		size, _, written := o.processNamed(name)
		sum += size
		if size != want && o.fileSystem != btrfs || written != uint64(want) {
			t.Errorf("%s: size %d, written %d, want %d", name, size, written, want)
		}
	}
	if sum != 700_000 {
		t.Errorf("both together: %d, want 700,000", sum)
	}
}

// TestPlainRemoval: what is deleted while the layer is not in use is its removal,
// not a change.
func TestPlainRemoval(t *testing.T) {
	o := newPlain(t)
	o.sh("echo hello > new")
	o.check("before")
	if _, err := o.tracer.SetMounted(testLayer, func() bool { return false }); err != nil {
		t.Fatal(err)
	}
	o.deltas, o.files = nil, nil
	o.sh("rm -r image new")
	o.collect()
	for _, d := range o.deltas {
		if d.Size != 0 {
			t.Errorf("booked: %+v", d)
		}
	}
	for _, f := range o.files {
		if f.Op == event.FileUnlinked {
			t.Errorf("a name that is removed: %+v", f)
		}
	}
}

// appenders are two processes that append to one file. While one waits for the disk, with
// the inode's lock let go of, the other's next write ends.
const appenders = `perl -e 'open F, ">>", shift; while (1) { syswrite F, "x" }' @ & until test -s @; do :; done
	dd if=/dev/zero of=@ bs=100 count=100 oflag=append,sync conv=notrunc status=none; kill $!; wait $! || true`

// plainTrials has one for each hook of plain directories: TestPlainHooks demands that.
var plainTrials = []trial{
	{hook: "plain_instantiate_entry", prepare: "echo text > linked", script: "ln linked @", right: named(event.FileLinked, "plain_instantiate_entry")},
	{hook: "plain_instantiate_new_entry", script: "echo text > @", needed: notOn("xfs")}, // it calls the other one
	{hook: "plain_tmpfile_exit", script: "w: tmpfile dir=. path=@ size=1000", right: wrote(1000)},
	{hook: "plain_move_entry", prepare: "echo text > old", script: "mv old @", right: named(event.FileRenamed, "plain_move_entry")},
	{hook: "plain_enter_entry", script: "echo text > $OUTSIDE; mv $OUTSIDE @", right: named(event.FileCreated, "plain_enter_entry")},
	{hook: "plain_leave_entry", prepare: "echo text > @", script: "mv @ $OUTSIDE", right: named(event.FileUnlinked, "plain_leave_entry")},
	{hook: "plain_exchange_entry", prepare: "echo 1 > @; echo 2 > other", script: "w: rename kind=exchange from=@ path=other", right: named(event.FileRenamed, "other")},
	{hook: "plain_delete_entry", prepare: "echo text > @", script: "rm @", right: named(event.FileUnlinked, "plain_delete_entry")},
	{hook: "plain_perform_exit", race: true, prepare: "rm -f @", script: appenders, right: byOwn(inSize), needed: on("ext4")},
	{hook: "plain_iomap_exit", race: true, prepare: "rm -f @", script: appenders, right: byOwn(inSize), needed: on("xfs")},
	{hook: "plain_copy_range_entry", prepare: "w: write path=source size=1000", script: "w: copyrange from=source path=@", right: wrote(1000),
		needed: func(o *overlay) bool { return !o.has("copy_range_entry") && o.fileSystem == ext4 }},
	{hook: "plain_copy_range_exit", prepare: "w: write path=source size=1000", script: "w: copyrange from=source path=@", right: wrote(1000)},
	{hook: "plain_ext4_exit", script: "w: write path=@ size=1000", right: wrote(1000), needed: on("ext4")},
	{hook: "plain_xfs_exit", script: "w: write path=@ size=1000", right: wrote(1000), needed: on("xfs")},
	{hook: "plain_btrfs_exit", script: "w: write path=@ size=1000", right: wrote(1000), needed: on("btrfs")},
	// Some of so many writes end only after the call that began them; on ext4 hardly one.
	{hook: "plain_aio_entry", race: true, prepare: "head -c 4M /dev/zero > @; sync @", script: "w: aio path=@ size=4194304 chunk=4096 direct=1", right: wrote(4 << 20), needed: on("xfs", "btrfs")},
	{hook: "plain_uring_entry", race: true, prepare: "head -c 4M /dev/zero > @; sync @", script: "w: uring path=@ size=4194304 chunk=4096 direct=1", right: wrote(4 << 20), needed: on("xfs", "btrfs")},
	{hook: "plain_ext4_entry", race: true, prepare: "head -c 4M /dev/zero > @; sync @", script: "w: aio path=@ size=4194304 chunk=4096 direct=1", right: wrote(4 << 20), needed: on("ext4")},
	{hook: "plain_xfs_entry", race: true, prepare: "head -c 4M /dev/zero > @; sync @", script: "w: aio path=@ size=4194304 chunk=4096 direct=1", right: wrote(4 << 20), needed: on("xfs")},
	{hook: "plain_btrfs_entry", race: true, prepare: "head -c 4M /dev/zero > @; sync @", script: "w: aio path=@ size=4194304 chunk=4096 direct=1", right: wrote(4 << 20), needed: on("btrfs")},
}

// TestPlainHooks is TestHooks for them.
func TestPlainHooks(t *testing.T) {
	o := newPlain(t)
	o.sh("mkdir without")
	o.check("the beginning")
	for i := range plainTrials {
		trial := &plainTrials[i]
		t.Run(trial.hook, func(t *testing.T) {
			if trial.needed != nil && !trial.needed(o) {
				t.Skip(elsewhere)
			}
			o.t = t
			if !o.has(trial.hook) {
				t.Fatal("it is not attached")
			}
			if err := o.try(trial, "."); err != nil {
				t.Fatalf("with the hook: %v", err)
			}
			o.missed(trial)
		})
	}
	tried(t, plainHooks, plainTrials)
	o.t = t
}
