package tracer

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer/event"
)

// trial is something that only one hook sees: with the hook everything is right,
// without it something is wrong.
type trial struct {
	hook string
	// prepare and script are run in a directory of the overlay; by the shell, unless
	// they are commands of test/workload ("w: …"). @ is a file of the trial's own.
	prepare, script string
	// right checks what came of script beyond the sums; nil if the sums tell.
	right func(o *overlay, since int) error
	fresh bool // to be begun with a new tracer
	race  bool // it depends on who is faster, which not every kernel leaves open
	// needed tells where the hook is needed at all; nil for everywhere.
	needed func(o *overlay) bool
}

func on(fileSystems ...string) func(*overlay) bool {
	return func(o *overlay) bool { return slices.Contains(fileSystems, o.fileSystem) }
}

func notOn(fileSystem string) func(*overlay) bool {
	return func(o *overlay) bool { return o.fileSystem != fileSystem }
}

// marks tells whether files can have extended attributes of users: on tmpfs since 6.6
// (upstream 2daf18a7884d), of which these tests' next kernel has the function.
func marks(o *overlay) bool { return o.fileSystem != "tmpfs" || o.has("backing_write_exit") }

// elsewhere is what a trial says that has nothing to show here.
const elsewhere = "n/a: not on this kernel, or nothing is wrong without it on this file system"

// trials has one for each hook: TestHooks demands that.
var trials = []trial{
	{hook: "instantiate_entry", script: "echo text > created"},
	// Without its entry a copy-up passes for one that began before tracing did, and
	// what is allocated late (the mount is volatile) is missed; without its exit what
	// the thread writes next passes for a part of it.
	{hook: "copy_up_entry", script: "chmod 600 up.1", right: copiedUp("up.1"), needed: on("ext4")},
	{hook: "copy_up_exit", script: ": >> up.2; echo text > @", right: wrote(5)},
	// The one copy of a file of two names is made in the index, and then linked.
	{hook: "link_exit", script: "chmod 600 up.4"},
	{hook: "copied_up_entry", script: "chmod 700 up.dir", right: copiedUp("up.dir")},
	// What inherits so long an access control list takes a block for it.
	{hook: "rename_entry", prepare: "w: setacl path=gone.dir kind=default entries=40", script: "mv gone.dir/image @", needed: on("ext4")},
	{hook: "rename_exit", prepare: "echo text > old", script: "mv old new", right: named(event.FileRenamed, "new")},
	{hook: "remove_entry", script: "rm gone.1", right: named(event.FileWhiteout, "gone.1")},
	{hook: "whiteout_entry", script: "rm gone.2", right: named(event.FileWhiteout, "gone.2")},
	{hook: "remove_exit", prepare: "echo text > removed", script: "rm removed", right: named(event.FileUnlinked, "removed")},
	{hook: "drop_nlink_exit", prepare: "echo text > dropped", script: "rm dropped"},
	{hook: "clear_nlink_exit", prepare: "mkdir cleared", script: "rmdir cleared", needed: on("ext4")},
	{hook: "backing_write_exit", script: "w: write path=@ size=1000"},
	{hook: "backing_splice_exit", prepare: "w: write path=source size=1000", script: "w: splice from=source path=@"},
	// Some of so many writes end only after the call that began them; on ext4 hardly one.
	{hook: "backing_aio_entry", race: true, prepare: "head -c 4M /dev/zero > @; sync @", script: "w: aio path=@ size=4194304 chunk=4096 direct=1", right: wrote(4 << 20), needed: on("xfs", "btrfs")},
	{hook: "iter_write_exit", script: "w: write path=@ size=1000"},
	{hook: "iocb_write_exit", script: "w: aio path=@ size=65536"},
	// Somebody else writes the file while many asynchronous writes are on their way.
	{hook: "iocb_queue_entry", race: true, prepare: "head -c 8M /dev/zero > @; sync @", right: wroteAs("workload", 8<<20), needed: on("xfs", "btrfs"),
		script: `perl -e 'open F, "+<", shift; while (1) { sysseek F, 0, 0; syswrite F, "x" }' @ & $WORKLOAD aio path=@ size=8388608 chunk=4096 direct=1 >/dev/null; kill $!; wait $! || true`},
	{hook: "ovl_aio_entry", race: true, prepare: "head -c 4M /dev/zero > @; sync @", script: "w: aio path=@ size=4194304 chunk=4096 direct=1", right: wrote(4 << 20), needed: on("xfs", "btrfs")},
	{hook: "fallocate_exit", script: "w: fallocate path=@ size=65536"},
	{hook: "copy_range_entry", prepare: "w: write path=source size=1000", script: "w: copyrange from=source path=@", right: wrote(1000),
		needed: func(o *overlay) bool { return !on("xfs", "btrfs")(o) }},
	{hook: "copy_range_exit", prepare: "w: write path=source size=1000", script: "w: copyrange from=source path=@",
		// Elsewhere the copy is a write underneath, which is seen as such.
		needed: func(o *overlay) bool {
			return o.has("backing_write_exit") || on("xfs", "btrfs")(o)
		}},
	{hook: "clone_range_exit", prepare: "w: write path=source size=65536", script: "w: clone from=source path=@", right: wrote(0), needed: on("xfs", "btrfs")},
	{hook: "notify_change_exit", prepare: "w: write path=@ size=5000", script: "w: truncate path=@ size=12"},
	{hook: "setxattr_exit", prepare: "w: create path=@", script: "w: setxattr path=@ size=10", right: caused(event.CauseMetadata), needed: marks},
	{hook: "removexattr_exit", prepare: "w: create path=@ then setxattr path=@ size=10", script: "w: removexattr path=@", right: caused(event.CauseMetadata), needed: marks},
	{hook: "set_acl_exit", prepare: "w: create path=@", right: restricted},
	{hook: "remove_acl_exit", prepare: "w: create path=@", right: released},
	{hook: "page_mkwrite_exit", prepare: "truncate -s 64K @", right: mapped("page_mkwrite_exit"), needed: notOn("tmpfs")},
	{hook: "shmem_fault_exit", prepare: "truncate -s 64K @", right: mapped("shmem_fault_exit"), needed: on("tmpfs")},
	{hook: "shmem_read_exit", prepare: "truncate -s 64K @", script: "w: sendfile from=@ path=copied", needed: on("tmpfs")},
	// So many extents take a block of their own when they are written back. (A
	// volatile overlay does not do that by itself.)
	{hook: "writepages_entry", prepare: "for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=@ bs=100 count=1 seek=${i}000 conv=notrunc status=none; done",
		script: "sync $UPPER/@", right: unchanged("sync"), needed: on("ext4")},
	{hook: "writepages_exit", prepare: "echo text > @; echo text > @.2", right: wroteAs("perl", 100), needed: notOn("tmpfs"),
		script: `perl -MIO::Handle -e 'open F, ">>", shift; syswrite F, "x" x 90; open S, "+<", shift; S->sync or die $!; open G, ">>", shift; syswrite G, "x" x 10' @ $UPPER/@ @.2`},
	// Writing into the middle of what was allocated ahead makes three extents of one, of
	// which the inode has room for four.
	{hook: "sync_write_entry", prepare: "w: fallocate path=@ size=65536 then pwrite path=@ offset=1000000 size=10 then pwrite path=@ offset=2000000 size=10 then pwrite path=@ offset=3000000 size=10 then sync path=$UPPER/@",
		script: "dd if=/dev/zero of=$UPPER/@ bs=4096 count=1 seek=8 conv=notrunc oflag=dsync status=none", right: tookBlock("dd"), needed: on("ext4")},
	{hook: "quota_alloc_exit", script: "w: write path=@ size=100000", needed: on("ext4")},
	{hook: "quota_free_entry", prepare: "w: write path=@ size=100000", script: "w: truncate path=@ size=0", needed: on("ext4")},
	{hook: "xfs_unlock_entry", prepare: "w: write path=@ size=5000", script: "w: fallocate kind=keep path=@ size=200000 then setxattr path=@ size=3000", needed: on("xfs")},
	{hook: "btrfs_clear_exit", script: "dd if=/dev/zero of=@ oflag=direct conv=fsync bs=1M count=8 status=none",
		// A worker allocates: later kernels' may be done before the call returns.
		needed: func(o *overlay) bool { return on("btrfs")(o) && !o.has("backing_write_exit") }},
	// A worker allocates, and mostly before the write returns.
	{hook: "btrfs_direct_entry", race: true, prepare: "w: append path=@ size=8192 then sync path=@", right: byOwn(onDisk), needed: on("btrfs"),
		script: "dd if=/dev/zero of=@ oflag=append,direct conv=notrunc,fsync bs=64k count=4 status=none"},
	{hook: "covered_write_entry", script: "w: write path=$OUTSIDE size=1000", right: covered},
	{hook: "covered_write_exit", script: "w: write path=$OUTSIDE size=1000", right: covered},
	{hook: "covered_writev_entry", script: "w: writev path=$OUTSIDE size=1000 chunk=100", right: covered},
	{hook: "covered_writev_exit", script: "w: writev path=$OUTSIDE size=1000 chunk=100", right: covered},
	// Without these, the ledger is wrong from then on.
	{hook: "evict_entry", prepare: "echo text > evicted", script: "rm evicted", right: gone},
	{hook: "mount_exit", right: remounted, fresh: true},
	{hook: "unmount_entry", right: unmounted, fresh: true},
}

// copiedUp demands that the last copy-up was reported under its name.
func copiedUp(name string) func(*overlay, int) error { return named(event.FileCopiedUp, name) }

// named demands an event of a file of that name.
func named(op event.FileOp, name string) func(*overlay, int) error {
	return func(o *overlay, _ int) error {
		for _, f := range o.files {
			if f.Op == op && f.Name == name {
				return nil
			}
		}
		return fmt.Errorf("no event %d of %q", op, name)
	}
}

// gone demands that an inode was reported as freed.
func gone(o *overlay, _ int) error {
	for _, f := range o.files {
		if f.Op == event.FileGone {
			return nil
		}
	}
	return fmt.Errorf("no inode was freed")
}

// caused demands a delta with that cause.
func caused(cause event.Causes) func(*overlay, int) error {
	return func(o *overlay, since int) error {
		for _, d := range o.deltas[since:] {
			if d.Causes&cause != 0 {
				return nil
			}
		}
		return fmt.Errorf("no change has the cause %b", cause)
	}
}

// mapped stores into a hole through a shared mapping, and demands that the disk
// use is right while it is still mapped and not written back.
func mapped(name string) func(*overlay, int) error {
	return func(o *overlay, since int) error {
		file, err := os.OpenFile(filepath.Join(o.merged, o.dir, name), os.O_RDWR, 0)
		if err != nil {
			o.t.Fatal(err)
		}
		defer file.Close()
		mapping, err := unix.Mmap(int(file.Fd()), 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			o.t.Fatal(err)
		}
		defer func() {
			if err := unix.Munmap(mapping); err != nil {
				o.t.Error(err)
			}
		}()
		before := o.error()
		mapping[0] = 1
		o.collect()
		if after := o.error(); after != before {
			return fmt.Errorf("disk is wrong by %d", after[1]-before[1])
		}
		return caused(event.CauseMmap)(o, since)
	}
}

// restricted sets an ACL, and demands that it was seen.
func restricted(o *overlay, since int) error {
	o.restrict("set_acl_exit")
	o.collect()
	return caused(event.CauseMetadata)(o, since)
}

// released takes an ACL away, and demands that it was seen.
func released(o *overlay, _ int) error {
	path := o.restrict("remove_acl_exit")
	o.collect()
	since := len(o.deltas)
	if err := unix.Removexattr(path, "system.posix_acl_access"); err != nil {
		o.t.Fatal(err)
	}
	o.collect()
	return caused(event.CauseMetadata)(o, since)
}

// restrict gives the file an ACL and returns its path.
func (o *overlay) restrict(name string) string {
	o.t.Helper()
	// Version 2; owner, user 1, group, mask and others: tag, permissions, id.
	acl := []byte{2, 0, 0, 0}
	for _, entry := range [][3]uint32{{1, 6, ^uint32(0)}, {2, 6, 1}, {4, 4, ^uint32(0)}, {16, 6, ^uint32(0)}, {32, 4, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(entry[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(entry[1]))
		acl = binary.LittleEndian.AppendUint32(acl, entry[2])
	}
	path := filepath.Join(o.merged, o.dir, name)
	if err := unix.Setxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		o.t.Fatal(err)
	}
	return path
}

// wrote demands that so many bytes were counted as written.
func wrote(bytes uint64) func(*overlay, int) error {
	return func(o *overlay, since int) error {
		var sum uint64
		for _, d := range o.deltas[since:] {
			sum += d.Written
		}
		if sum != bytes {
			return fmt.Errorf("%d bytes counted as written, not %d", sum, bytes)
		}
		return nil
	}
}

// byOwn demands that each process is charged with as much, in what it grew, as it has
// written.
func byOwn(grown func(*event.Delta) int64) func(*overlay, int) error {
	return func(o *overlay, since int) error {
		own := map[event.ProcessID]int64{}
		for i := range o.deltas[since:] {
			d := &o.deltas[since+i]
			own[d.Process] += grown(d) - int64(d.Written)
		}
		for process, more := range own {
			if more != 0 {
				return fmt.Errorf("%s is charged with %+d bytes that it did not write", o.processes[process].Name, more)
			}
		}
		return nil
	}
}

func inSize(d *event.Delta) int64 { return d.Size }

func onDisk(d *event.Delta) int64 { return d.Disk }

// tookBlock demands that processes of that name are charged with a block.
func tookBlock(name string) func(*overlay, int) error {
	return func(o *overlay, since int) error {
		var sum int64
		for _, d := range o.deltas[since:] {
			if o.processes[d.Process].Name == name {
				sum += d.Disk
			}
		}
		if sum != 4096 {
			return fmt.Errorf("%s is charged with %d bytes of the disk, not with a block", name, sum)
		}
		return nil
	}
}

// unchanged demands that nothing was charged to processes of that name.
func unchanged(name string) func(*overlay, int) error {
	return func(o *overlay, since int) error {
		for _, d := range o.deltas[since:] {
			if o.processes[d.Process].Name == name && (d.Size != 0 || d.Disk != 0) {
				return fmt.Errorf("%s is charged with %d and %d bytes", name, d.Size, d.Disk)
			}
		}
		return nil
	}
}

// wroteAs demands that so many bytes count as written by processes of that name.
func wroteAs(name string, bytes uint64) func(*overlay, int) error {
	return func(o *overlay, since int) error {
		var sum uint64
		for _, d := range o.deltas[since:] {
			if o.processes[d.Process].Name == name {
				sum += d.Written
			}
		}
		if sum != bytes {
			return fmt.Errorf("%d bytes counted as written by %s, not %d", sum, name, bytes)
		}
		return nil
	}
}

// covered demands that what was written outside was reported, from its first byte.
func covered(o *overlay, _ int) error {
	for _, c := range o.covered {
		if c.Path == o.outside && c.Written == 1000 && c.Size == 1000 {
			return nil
		}
	}
	return fmt.Errorf("writes to %s: %+v", o.outside, o.covered)
}

// remounted demands that a new mount is noticed.
func remounted(o *overlay, _ int) error {
	if err := unix.Unmount(o.merged, 0); err != nil {
		o.t.Fatal(err)
	}
	o.collect()
	o.mount()
	if batch := o.collect(); !batch.Layers[0].Mounted {
		return fmt.Errorf("the layer is not mounted")
	}
	return nil
}

// unmounted demands that the end of a mount is noticed.
func unmounted(o *overlay, _ int) error {
	if err := unix.Unmount(o.merged, 0); err != nil {
		o.t.Fatal(err)
	}
	batch := o.collect()
	o.mount()
	o.collect()
	if batch.Layers[0].Mounted {
		return fmt.Errorf("the layer is mounted still")
	}
	return nil
}

// has reports whether a hook is in use, under any of its names.
func (o *overlay) has(hook string) bool {
	return slices.ContainsFunc(o.tracer.Hooks(), func(h Hook) bool { return ofHook(h.Name, hook) })
}

// ofHook tells whether a program is the hook's, or one of those that do its work
// where probes are used.
func ofHook(program, hook string) bool {
	return program == hook || program == hook+"_kprobe" || program == hook+"_kretprobe"
}

// command runs a trial's line.
func (o *overlay) command(dir, line, hook string) {
	o.t.Helper()
	workload, err := filepath.Abs("../bin/workload")
	if err != nil {
		o.t.Fatal(err)
	}
	line = strings.NewReplacer("@", hook, "$OUTSIDE", o.outside, "$UPPER", filepath.Join(o.upper, dir), "$WORKLOAD", workload).Replace(line)
	command, ok := strings.CutPrefix(line, "w: ")
	if !ok {
		o.sh("cd " + dir + "; " + line)
		return
	}
	cmd := exec.Command(workload, strings.Fields(command)...)
	cmd.Dir = filepath.Join(o.merged, dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		o.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// error is how far books and disk are apart.
func (o *overlay) error() [2]int64 {
	size, disk := o.measure()
	if !o.seesDisk() {
		return [2]int64{o.baseSize + o.size - size, 0}
	}
	return [2]int64{o.baseSize + o.size - size, o.baseDisk + o.disk - disk}
}

// try runs a trial and returns what is wrong after it.
func (o *overlay) try(trial *trial, dir string) error {
	o.outside = filepath.Join(filepath.Dir(o.upper), "outside."+trial.hook)
	if err := os.RemoveAll(o.outside); err != nil {
		o.t.Fatal(err)
	}
	o.files, o.covered, o.dir = nil, nil, dir
	if trial.prepare != "" {
		o.command(dir, trial.prepare, trial.hook)
	}
	o.collect()
	before, since := o.error(), len(o.deltas)
	if trial.script != "" {
		o.command(dir, trial.script, trial.hook)
	}
	o.collect()
	if after := o.error(); after != before {
		return fmt.Errorf("size and disk are wrong by %d and %d", after[0]-before[0], after[1]-before[1])
	}
	if trial.right != nil {
		return trial.right(o, since)
	}
	return nil
}

// TestHooks shows for each hook that something is seen with it that nothing else
// sees: its trial is passed with the hook, and failed without it.
func TestHooks(t *testing.T) {
	o := newOverlay(t, func(lower, _ string) {
		for _, name := range []string{"up.1", "up.2", "up.3", "up.4", "up.dir/image", "gone.1", "gone.2", "gone.dir/image"} {
			for _, again := range []string{"", "without/"} {
				path := filepath.Join(lower, again, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, make([]byte, 100_000), 0o644); err != nil {
					t.Fatal(err)
				}
				if name != "up.4" {
					continue
				}
				if err := os.Link(path, path+".link"); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if err := unix.Unmount(o.merged, 0); err != nil {
		t.Fatal(err)
	}
	o.options = ",volatile,index=on"
	o.mount()
	o.restart(Config{IncludeCovered: true})
	var st unix.Stat_t
	if err := unix.Stat("/sys/fs/cgroup", &st); err != nil {
		t.Fatal(err)
	}
	if err := o.tracer.WatchCgroup(st.Ino, testLayer); err != nil {
		t.Fatal(err)
	}

	// Where trials without a hook take place: nothing that they do unseen may
	// concern the others. It is in the layer before the first.
	o.sh("touch without/.")
	o.check("the beginning")

	for i := range trials {
		trial := &trials[i]
		t.Run(trial.hook, func(t *testing.T) {
			if !o.has(trial.hook) || trial.needed != nil && !trial.needed(o) {
				t.Skip(elsewhere)
			}
			o.t = t
			if trial.fresh {
				o.restart(Config{IncludeCovered: true})
			}
			if err := o.try(trial, "."); err != nil {
				t.Fatalf("with the hook: %v", err)
			}
			o.missed(trial)
		})
	}
	tried(t, hookSpecs, trials)
	o.t = t
}

// tried demands a trial of each hook.
func tried(t *testing.T, hooks []hookSpec, trials []trial) {
	t.Helper()
	for _, hook := range hooks {
		if !slices.ContainsFunc(trials, func(t trial) bool { return t.hook == hook.program }) {
			t.Errorf("there is no trial of %s", hook.program)
		}
	}
}

// missed demands that something is wrong without the hook.
func (o *overlay) missed(trial *trial) {
	o.t.Helper()
	again := o.without(trial.hook)
	defer again()
	tries := 1
	if trial.race {
		tries = 5
	}
	for range tries {
		if err := o.try(trial, "without"); err != nil {
			o.t.Logf("without the hook: %v", err)
			return
		}
	}
	if !trial.race {
		o.t.Fatal("without the hook nothing is wrong")
	}
	o.t.Log("n/a: each time, the same one was faster") // test/matrix looks for it
}

// without detaches a hook; what it returns attaches it again.
func (o *overlay) without(hook string) (again func()) {
	o.t.Helper()
	tr := o.tracer
	var wanted []attachment
	for i := len(tr.attached) - 1; i >= 0; i-- {
		if a := tr.attached[i]; ofHook(a.program, hook) {
			if err := tr.links[i].Close(); err != nil {
				o.t.Fatal(err)
			}
			wanted = append(wanted, a)
			tr.links, tr.attached = slices.Delete(tr.links, i, i+1), slices.Delete(tr.attached, i, i+1)
		}
	}
	return func() {
		tr.adding.Lock()
		defer tr.adding.Unlock()
		if tr.old { // these kernels cannot attach a tracing program once more: a new one it is
			for _, a := range wanted {
				if err := tr.coll.Programs[a.program].Close(); err != nil {
					o.t.Fatal(err)
				}
			}
			if err := tr.loadMore(wanted); err != nil {
				o.t.Fatal(err)
			}
		}
		for _, a := range wanted {
			if err := tr.attach(a); err != nil {
				o.t.Fatal(err)
			}
		}
	}
}
