package model

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// scratch is a file system that is there for the tests.
const scratch = "/scratch"

// rig is what all histories share.
type rig struct {
	dir, lower string
	team       *team
	tracer     *tracer.Tracer
	device     uint64
	// exact says that the tracer promises disk growth to the byte.
	exact      bool
	fileSystem string
	old        bool // tmpfs before 6.6: no attributes of users, no O_DIRECT
	histories  int
	played     map[order]int // histories
	operations map[string]*tally
	version    [2]int // of the kernel
	rings      bool   // it makes io_urings for us
}

// tally counts the operations of a kind.
type tally struct{ run, succeeded int }

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{operations: map[string]*tally{}, played: map[order]int{}}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	check(unix.Statfs(scratch, &fs))
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC:
		r.exact, r.fileSystem = true, "ext4"
	case unix.XFS_SUPER_MAGIC:
		r.exact, r.fileSystem = hasTypes("xfs"), "xfs"
		// Not that a worker of the kernel gives up meanwhile what was allocated ahead of
		// writers, after five minutes.
		check(os.WriteFile("/proc/sys/fs/xfs/speculative_prealloc_lifetime", []byte("86400"), 0))
	case unix.BTRFS_SUPER_MAGIC:
		r.exact, r.fileSystem = hasTypes("btrfs"), "btrfs"
	case unix.TMPFS_MAGIC:
		r.exact, r.fileSystem = true, "tmpfs"
	default:
		r.fileSystem = fmt.Sprintf("file system %#x", fs.Type)
	}
	_, err := fmt.Sscanf(kernel(), "%d.%d", &r.version[0], &r.version[1])
	check(err)
	r.device, err = deviceOf(scratch)
	check(err)
	// The kernel writes back only when it is told to: what it allocates then is
	// not the doing of the operation at which it is seen.
	check(os.WriteFile("/proc/sys/vm/dirty_writeback_centisecs", []byte("0"), 0))
	if ring, err := calls.NewRing(false); err == nil {
		r.rings = true
		ring.Close()
	}
	r.dir, err = os.MkdirTemp(scratch, "model")
	check(err)
	t.Cleanup(func() { _ = os.RemoveAll(r.dir) })
	r.lower = r.dir + "/lower"
	check(os.Mkdir(r.lower, 0o755))
	r.old = !hasUserAttributes(r.lower)
	check(populateLower(r.lower))
	r.team, err = newTeam(t.TempDir())
	check(err)
	t.Cleanup(func() {
		if err := r.team.stop(); err != nil {
			t.Error(err)
		}
	})
	r.tracer, err = tracer.New(tracer.Config{})
	check(err)
	t.Cleanup(func() {
		if err := r.tracer.Close(); err != nil {
			t.Error(err)
		}
	})
	if reasons := r.tracer.Coverage(); len(reasons) > 0 {
		t.Errorf("coverage is partial: %q", reasons)
	}
	return r
}

// hasTypes tells whether a module has BTF, without which what is allocated on its
// file system cannot be read.
func hasTypes(module string) bool {
	_, err := os.Stat("/sys/kernel/btf/" + module)
	return err == nil
}

// deviceOf is the kernel's number of the device that is mounted at a path. What
// stat says is another one on btrfs.
func deviceOf(mountPoint string) (uint64, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[4] != mountPoint {
			continue
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		a, errA := strconv.ParseUint(major, 10, 32)
		i, errI := strconv.ParseUint(minor, 10, 32)
		return a<<20 | i, errors.Join(errA, errI)
	}
	return 0, fmt.Errorf("nothing is mounted at %s", mountPoint)
}

// mount makes a new overlay for a history.
func (r *rig) mount(options string) (*overlay, error) {
	r.histories++
	return newOverlay(r.tracer, event.Upper{Device: r.device, FileSystem: r.fileSystem, Mounted: true}, r.lower, filepath.Join(r.dir, strconv.Itoa(r.histories)), options)
}

// userAttributes tells whether overlays can be mounted with userxattr (since 5.11).
func (r *rig) userAttributes() bool { return !r.old && r.since(5, 11) }

// since tells whether the kernel is of a version, or newer.
func (r *rig) since(major, minor int) bool {
	return r.version[0] > major || r.version[0] == major && r.version[1] >= minor
}

// count notes that an operation was done.
func (r *rig) count(o *op, result *result) {
	name := o.Kind
	if o.Choice != "" {
		name += " (" + o.Choice + ")"
	}
	if r.operations[name] == nil {
		r.operations[name] = &tally{}
	}
	r.operations[name].run++
	if result.Errno == "" {
		r.operations[name].succeeded++
	}
}

// total is the number of all operations.
func (r *rig) total() (sum tally) {
	for _, n := range r.operations {
		sum.run += n.run
		sum.succeeded += n.succeeded
	}
	return sum
}

// tallies is the numbers for each kind.
func (r *rig) tallies() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(r.operations)) {
		all = append(all, fmt.Sprintf("%s %d %d", name, r.operations[name].run, r.operations[name].succeeded))
	}
	return strings.Join(all, ", ")
}

// vain returns the kinds that were tried often and never succeeded: of those
// nothing was checked.
func (r *rig) vain() (names []string) {
	const often = 150
	for _, name := range slices.Sorted(maps.Keys(r.operations)) {
		kindName, choice, _ := strings.Cut(strings.TrimSuffix(name, ")"), " (")
		n := r.operations[name]
		if r.old && (strings.Contains(name, "direct") || strings.Contains(name, "xattr (user.")) {
			continue
		}
		if strings.HasPrefix(name, "uring") && !r.rings || kindName == "uringname" && !r.since(5, 11) {
			continue
		}
		if n.run >= often && n.succeeded == 0 && !slices.Contains(kindNamed[kindName].refused, choice) {
			names = append(names, name)
		}
	}
	return names
}
