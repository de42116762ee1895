package resolver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// fromContainer makes the machine one that is looked at from a container: what was
// the root directory is below proc/1 now.
func (h *host) fromContainer() {
	h.Helper()
	h.dir("proc/1")
	h.must(os.Symlink(h.root, filepath.Join(h.root, "proc/1/root")))
	h.file("proc/1/mountinfo", strings.ReplaceAll(h.fixture("host.mountinfo"), h.root+"/", "/"))
	h.file("proc/self/mountinfo", "1 0 0:99 / / rw - overlay overlay rw,upperdir=/elsewhere\n")
}

// TestFromContainer: paths of the host are looked up below its root, symlinks as it
// resolves them; what is told of the container has its own paths.
func TestFromContainer(t *testing.T) {
	h := newHost(t)
	d := h.overlay2()
	h.fromContainer()
	h.file("proc/4000/mountinfo", strings.ReplaceAll(h.fixture("overlay2.mountinfo"), h.root+"/", "/"))
	h.must(os.Symlink("/docker", filepath.Join(h.root, "moved")))
	d.DriverData = map[string]string{"UpperDir": "/moved/overlay2/aaaa/diff"}
	root := filepath.Join(h.root, "proc/1/root")
	r, err := New(Config{Log: zerolog.Nop(), Engine: newFakeEngine(d), ProcRoot: filepath.Join(h.root, "proc"), HostRoot: root})
	h.must(err)
	defer r.Close()
	c, err := r.Find(t.Context(), "my-api")
	h.must(err)
	if c.LayerErr != nil || c.UpperDir != "/moved/overlay2/aaaa/diff" || c.UpperPath() != root+"/docker/overlay2/aaaa/diff" {
		t.Errorf("upper directory %s, reached at %s, error %v", c.UpperDir, c.UpperPath(), c.LayerErr)
	}
	if c.UpperDevice != 8<<20|17 || c.UpperFileSystem != "xfs" || c.UpperInode != inode(t, h.root+"/docker/overlay2/aaaa/diff") {
		t.Errorf("on %#x, %s, inode %d", c.UpperDevice, c.UpperFileSystem, c.UpperInode)
	}
	if want := inode(t, h.root+"/cgroup/docker/"+id("a")); c.CgroupID != want {
		t.Errorf("cgroup %d, want %d", c.CgroupID, want)
	}
}

func TestHostRoot(t *testing.T) {
	for _, tc := range []struct {
		name, pids, cgroups string
		same                bool
		missing             string
	}{
		{"on the host", initialPIDs, initialCgroups, true, ""},
		{"in a container", initialPIDs, initialCgroups, false, ""},
		{"without --pid", "pid:[4026532001]", "cgroup:[4026532002]", false, "--pid=host"},
		{"without --cgroupns", initialPIDs, "cgroup:[4026532002]", false, "--cgroupns=host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := &host{t, t.TempDir()}
			h.dir("proc/self/ns")
			h.must(os.Symlink(tc.pids, filepath.Join(h.root, "proc/self/ns/pid")))
			h.must(os.Symlink(tc.cgroups, filepath.Join(h.root, "proc/self/ns/cgroup")))
			h.dir("proc/1/root")
			if tc.same {
				h.must(os.Symlink("../1/root", filepath.Join(h.root, "proc/self/root")))
			} else {
				h.dir("proc/self/root")
			}
			root, err := HostRoot(filepath.Join(h.root, "proc"))
			var view *ViewError
			switch {
			case tc.missing != "":
				if !errors.As(err, &view) || view.Missing != tc.missing {
					t.Errorf("error %v, want that %s is missing", err, tc.missing)
				}
			case err != nil:
				t.Error(err)
			case tc.same != (root == ""), !tc.same && root != filepath.Join(h.root, "proc/1/root"):
				t.Errorf("the host's root is %q", root)
			}
		})
	}
}
