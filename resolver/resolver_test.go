package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

func TestDescribe(t *testing.T) {
	h := newHost(t)
	d := h.overlay2()
	r := h.resolver(newFakeEngine(d))
	c, err := r.Find(t.Context(), "my-api")
	h.must(err)

	want := Container{
		ID: id("a"), Name: "my-api", Image: "my-api:1.4.0", Runtime: "docker", State: StateRunning,
		InitPID: 4000, StartedAt: d.StartedAt, CgroupID: inode(t, h.root+"/cgroup/docker/"+id("a")),
		Driver: "overlay2", UpperDir: h.root + "/docker/overlay2/aaaa/diff",
		UpperDevice: 8<<20 | 17, UpperFileSystem: "xfs", UpperInode: inode(t, h.root+"/docker/overlay2/aaaa/diff"),
		OverlayDevice: 60, Labels: d.Labels,
		LowerDirs: []string{h.root + "/docker/overlay2/l/X", h.root + "/docker/overlay2/l/Y"},
	}
	got := c
	got.Mounts, got.declared, got.rootDevice, got.rootMount = nil, nil, 0, Mount{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	type mount struct {
		class, destination, source, name string
		readOnly                         bool
	}
	var mounts []mount
	for _, m := range c.RecordMounts() {
		mounts = append(mounts, mount{m.Class, m.Destination, m.Source, m.Name, m.ReadOnly})
	}
	wantMounts := []mount{
		{record.ClassTmpfs, "/dev/shm", "", "", false},
		{record.ClassTmpfs, "/scratch", "", "", false},
		{record.ClassVolume, "/opt/vol", h.root + "/docker/volumes/named/_data", "named", false},
		{record.ClassBind, "/run/b", "/data", "", false},
		{record.ClassDockerFile, "/etc/resolv.conf", d.ResolvConfPath, "", false},
		{record.ClassDockerFile, "/etc/hostname", d.HostnamePath, "", false},
		{record.ClassDockerFile, "/etc/hosts", d.HostsPath, "", false},
		{record.ClassLayer, "/rb", "", "", false},
		{record.ClassImageMount, "/image", "", "tools:2", true},
		{record.ClassNestedOverlay, "/nested", "", "", false},
		{record.ClassBind, "/opt/vol/sub", "/extra", "", true},
		{record.ClassBind, "/sbin/docker-init", "/usr/bin/docker-init", "", true},
	}
	if !reflect.DeepEqual(mounts, wantMounts) {
		t.Errorf("got  %+v\nwant %+v", mounts, wantMounts)
	}
	if got, want := c.Record(), (record.Container{ID: id("a"), Name: "my-api", Image: "my-api:1.4.0", Runtime: "docker"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestLayerWithin: a layer has to be where those are of whom the runtime may tell,
// whatever it, or the process that it names, says.
func TestLayerWithin(t *testing.T) {
	h := newHost(t)
	d := h.overlay2()
	upper := d.DriverData["UpperDir"]
	h.dir("home/graph/overlay/own")
	h.must(os.Symlink(upper, h.root+"/home/graph/overlay/diff"))
	h.must(os.Symlink(h.root+"/home", h.root+"/moved"))
	for _, tc := range []struct{ within, said, want string }{
		{"", "", upper},
		{h.root + "/docker", "", upper},
		{h.root + "/home/graph", "", ""}, // by the mounts of the process
		{h.root + "/home/graph", h.root + "/home/graph/overlay/diff", ""},
		{h.root + "/home/graph", h.root + "/home/graph/overlay/own", h.root + "/home/graph/overlay/own"},
		{h.root + "/moved/graph", h.root + "/moved/graph/overlay/own", h.root + "/moved/graph/overlay/own"},
		{h.root + "/home/graph/overlay/ow", h.root + "/home/graph/overlay/own", ""},
	} {
		d.Within, d.DriverData = tc.within, map[string]string{"UpperDir": tc.said}
		c, err := h.resolver(newFakeEngine(d)).Find(t.Context(), "my-api")
		if h.must(err); (c.LayerErr == nil) != (tc.want != "") || c.LayerErr == nil && c.UpperDir != tc.want {
			t.Errorf("%+v: %s, %v", tc, c.UpperDir, c.LayerErr)
		}
	}
}

// TestOwner: a user's daemon may tell of his processes and directories only.
func TestOwner(t *testing.T) {
	const user, other = 4711, 4712
	h := newHost(t)
	for name, uid := range map[string]int{"home/own": user, "home/others": other} {
		h.dir(name + "/diff")
		if err := os.Chown(filepath.Join(h.root, name), uid, uid); errors.Is(err, fs.ErrPermission) {
			t.Skip("files can not be given away here:", err)
		} else {
			h.must(err)
		}
	}
	h.must(os.Symlink(h.root+"/home/others/diff", h.root+"/home/own/link"))
	d := h.overlay2()
	for _, tc := range []struct {
		said string
		ok   bool
	}{
		{"", false}, // by the mounts of the process, which is root's
		{"home/own/diff", true},
		{"home/others/diff", false},
		{"home/own/link", false},
	} {
		d.DriverData = nil
		if tc.said != "" {
			d.DriverData = map[string]string{"UpperDir": filepath.Join(h.root, tc.said)}
		}
		r := h.resolver(newFakeEngine(d))
		r.owner = user
		c, err := r.Find(t.Context(), "my-api")
		if h.must(err); (c.LayerErr == nil) != tc.ok {
			t.Errorf("%q: %s, %v", tc.said, c.UpperDir, c.LayerErr)
		}
		if c.InitPID != 0 || c.CgroupID != 0 {
			t.Errorf("%q: process %d of control group %d is taken for the user's", tc.said, c.InitPID, c.CgroupID)
		}
	}
}

func TestClassify(t *testing.T) {
	h := newHost(t)
	running := h.overlay2()
	stopped := running
	stopped.ID, stopped.Name, stopped.PID, stopped.State = id("b"), "stopped", 0, StateExited
	h.process(5000, "vfs.mountinfo", "/docker/"+id("d"))
	vfs := Details{
		ID: id("d"), Name: "vfs", State: StateRunning, PID: 5000, Driver: "vfs",
		Mounts:    []DeclaredMount{{Type: "volume", Name: "named", Source: h.root + "/docker/volumes/named/_data", Destination: "/opt/vol"}},
		HostsPath: h.root + "/docker/containers/dd/hosts",
	}
	r := h.resolver(newFakeEngine(running, stopped, vfs))

	const ovl, ext4, xfs, btrfs = 60, 254 << 20, 8<<20 | 17, 52
	for _, tc := range []struct {
		container string
		device    uint64
		path      string
		want      string // class destination name
	}{
		{"my-api", ovl, "/var/log/x", "layer"},
		{"my-api", ovl, "/rb/x", "layer"},      // a bind of the layer onto itself
		{"my-api", ovl, "/opt/vol/x", "layer"}, // whatever the path
		{"my-api", ovl, "", "layer"},           //
		{"my-api", 0, "/var/log/x", "layer"},   // by path alone
		{"my-api", 0, "/rb/x", "layer"},        //
		{"my-api", 0, "/opt/volume", "layer"},  // a prefix, but no parent
		{"my-api", 0, "/", "layer"},            //
		{"my-api", 0, "", "other"},             // nothing is known
		{"my-api", 0, "/opt/vol", "volume /opt/vol named"},
		{"my-api", 0, "/opt/vol/../vol/x", "volume /opt/vol named"},
		{"my-api", xfs, "/opt/vol/x", "volume /opt/vol named"},
		{"my-api", 0, "/opt/vol/sub/x", "bind /opt/vol/sub"},
		{"my-api", xfs, "/opt/vol/sub/x", "volume /opt/vol named"}, // under the mount at sub
		{"my-api", ext4, "/run/b/x", "bind /run/b"},
		{"my-api", xfs, "/etc/hosts", "docker_file /etc/hosts"},
		{"my-api", 68, "/dev/shm/x", "tmpfs /dev/shm"},
		{"my-api", 69, "/scratch/x", "tmpfs /scratch"},
		{"my-api", 69, "", "tmpfs /scratch"},
		{"my-api", 69, "/elsewhere", "tmpfs /scratch"}, // a path of another namespace
		{"my-api", 73, "/nested/x", "nested_overlay /nested"},
		{"my-api", 80, "/image/x", "image_mount /image tools:2"},
		{"my-api", ext4, "", "bind"}, // one of several
		{"my-api", xfs, "", "other"}, // of several kinds
		{"my-api", 62, "/proc/x", "other /proc"},
		{"my-api", btrfs, "/var/log/x", "other"},
		{"my-api", 9999, "", "other"},
		{"stopped", 0, "/opt/vol/x", "volume /opt/vol named"},
		{"stopped", 0, "/etc/hosts", "docker_file /etc/hosts"},
		{"stopped", 0, "/etc/passwd", "layer"},
		{"stopped", 0, "/scratch/x", "tmpfs /scratch"},
		{"stopped", 0, "/dev/shm/x", "tmpfs /dev/shm"},
		{"stopped", 0, "/proc/self", "other /proc"},
		{"vfs", xfs, "/var/log/x", "layer"}, // device shared with volumes
		{"vfs", xfs, "/opt/vol/x", "volume /opt/vol named"},
		{"vfs", xfs, "/etc/hosts", "docker_file /etc/hosts"},
		{"vfs", xfs, "", "other"},
		{"vfs", 0, "/x", "layer"},
	} {
		c, err := r.Find(t.Context(), tc.container)
		h.must(err)
		s := c.Classify(tc.device, tc.path)
		got := strings.Join(strings.Fields(s.Class+" "+s.Destination+" "+s.Name), " ")
		if got != tc.want {
			t.Errorf("%s: Classify(%d, %q) = %q, want %q", tc.container, tc.device, tc.path, got, tc.want)
		}
	}
}

func TestUpperDir(t *testing.T) {
	for _, tc := range []struct {
		name    string
		build   func(*host) Details
		upper   string // relative to the host's root
		overlay uint64
		err     error // nil: UpperDir is known, or any error if upper is empty
	}{
		{"created, told by the driver", func(h *host) Details {
			h.dir("docker/overlay2/bbbb/diff")
			return Details{State: StateCreated, Driver: "overlay2",
				DriverData: map[string]string{"UpperDir": h.root + "/docker/overlay2/bbbb/diff"}}
		}, "docker/overlay2/bbbb/diff", 0, nil},
		{"stopped, but mounted for docker cp", func(h *host) Details {
			h.dir("docker/overlay2/aaaa/diff")
			return Details{State: StateExited, Driver: "overlay2",
				DriverData: map[string]string{"UpperDir": h.root + "/docker/overlay2/aaaa/diff"}}
		}, "docker/overlay2/aaaa/diff", 60, nil},
		{"containerd, running", func(h *host) Details {
			h.process(4100, "containerd.mountinfo", "/docker/"+id("e"))
			h.dir("docker/snapshots/9/fs")
			return Details{State: StateRunning, PID: 4100, Driver: "overlayfs"}
		}, "docker/snapshots/9/fs", 61, nil},
		{"containerd, mounted by the host only", func(h *host) Details {
			h.dir("docker/snapshots/9/fs")
			return Details{ID: id("c"), State: StateCreated, Driver: "overlayfs"}
		}, "docker/snapshots/9/fs", 61, nil},
		{"containerd, created", func(h *host) Details {
			return Details{State: StateCreated, Driver: "overlayfs"}
		}, "", 0, nil},
		{"containerd, image without layers", func(h *host) Details {
			h.process(4200, "scratch.mountinfo", "/docker/"+id("e"))
			h.dir("docker/snapshots/12/fs")
			return Details{State: StateRunning, PID: 4200, Driver: "overlayfs"}
		}, "docker/snapshots/12/fs", 0, nil},
		{"process has just ended", func(h *host) Details {
			h.dir("docker/overlay2/bbbb/diff")
			return Details{State: StateRunning, PID: 9999, Driver: "overlay2",
				DriverData: map[string]string{"UpperDir": h.root + "/docker/overlay2/bbbb/diff"}}
		}, "docker/overlay2/bbbb/diff", 0, nil},
		{"relative", func(h *host) Details {
			h.process(4300, "containerd.mountinfo", "/docker/"+id("e"))
			h.file("proc/4300/mountinfo", "1 0 0:61 / / rw - overlay overlay rw,lowerdir=l/X,upperdir=eeee/diff,workdir=eeee/work\n")
			h.dir("docker/overlay2/eeee/diff")
			return Details{State: StateRunning, PID: 4300, Driver: "overlay2"}
		}, "docker/overlay2/eeee/diff", 61, nil},
		{"backslash taken literally", func(h *host) Details {
			h.process(4400, "containerd.mountinfo", "/docker/"+id("e"))
			h.file("proc/4400/mountinfo", "1 0 0:61 / / rw - overlay overlay rw,upperdir="+h.root+`/docker/a\134b`+"\n")
			h.dir(`docker/a\b`)
			return Details{State: StateRunning, PID: 4400, Driver: "overlayfs"}
		}, `docker/a\b`, 61, nil},
		{"symlink in the path", func(h *host) Details {
			h.dir("docker/overlay2/bbbb/diff")
			h.must(os.Symlink("docker", h.root+"/link"))
			return Details{State: StateCreated, Driver: "overlay2",
				DriverData: map[string]string{"UpperDir": h.root + "/link/overlay2/bbbb/diff"}}
		}, "link/overlay2/bbbb/diff", 0, nil},
		{"the inode number of the root decides", func(h *host) Details {
			h.process(4500, "containerd.mountinfo", "/docker/"+id("e"))
			h.dir("docker/other")
			upper := h.dir("docker/snapshots/9/fs")
			h.must(os.Remove(h.root + "/proc/4500/root"))
			h.must(os.Symlink(upper, h.root+"/proc/4500/root"))
			return Details{State: StateRunning, PID: 4500, Driver: "overlayfs",
				DriverData: map[string]string{"UpperDir": h.root + "/docker/other"}}
		}, "docker/snapshots/9/fs", 61, nil},
		{"gone", func(h *host) Details {
			return Details{State: StateCreated, Driver: "overlay2",
				DriverData: map[string]string{"UpperDir": h.root + "/docker/none"}}
		}, "docker/none", 0, os.ErrNotExist},
		{"not a directory", func(h *host) Details {
			h.file("docker/file", "")
			return Details{State: StateCreated, Driver: "overlay2",
				DriverData: map[string]string{"UpperDir": h.root + "/docker/file"}}
		}, "docker/file", 0, unix.ENOTDIR},
		{"vfs, running", func(h *host) Details {
			h.process(5000, "vfs.mountinfo", "/docker/"+id("d"))
			h.dir("docker/vfs/dir/dddd")
			return Details{State: StateRunning, PID: 5000, Driver: "vfs"}
		}, "docker/vfs/dir/dddd", 0, nil},
		{"vfs, created", func(h *host) Details {
			h.file("docker/image/vfs/layerdb/mounts/"+id("e")+"/mount-id", "ffff")
			h.dir("docker/vfs/dir/ffff")
			return Details{State: StateCreated, Driver: "vfs", DriverData: map[string]string{}}
		}, "docker/vfs/dir/ffff", 0, nil},
		{"vfs, told by the driver", func(h *host) Details {
			return Details{State: StateCreated, Driver: "vfs", DriverData: map[string]string{"SourceDir": h.dir("docker/vfs/dir/ffff")}}
		}, "docker/vfs/dir/ffff", 0, nil},
		{"btrfs, created", func(h *host) Details {
			h.file("docker/image/btrfs/layerdb/mounts/"+id("e")+"/mount-id", "ffff")
			h.dir("docker/btrfs/subvolumes/ffff")
			return Details{State: StateCreated, Driver: "btrfs"}
		}, "docker/btrfs/subvolumes/ffff", 0, nil},
		{"fuse-overlayfs", func(h *host) Details {
			return Details{State: StateCreated, Driver: "fuse-overlayfs", DriverData: map[string]string{"UpperDir": h.dir("docker/fuse-overlayfs/x/diff")}}
		}, "docker/fuse-overlayfs/x/diff", 0, nil},
		{"vfs, not known yet", func(h *host) Details {
			return Details{State: StateCreated, Driver: "vfs"}
		}, "", 0, nil},
		{"zfs", func(h *host) Details {
			return Details{State: StateCreated, Driver: "zfs", DriverData: map[string]string{"Mountpoint": "/x"}}
		}, "", 0, ErrNoUpperDir},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			d := tc.build(h)
			d.Name = "c"
			if d.ID == "" {
				d.ID = id("e")
			}
			e := newFakeEngine(d)
			e.rootDir = h.root + "/docker"
			c, err := h.resolver(e).Find(t.Context(), "c")
			h.must(err)
			want := ""
			if tc.upper != "" {
				want = filepath.Join(h.root, tc.upper)
			}
			if c.Plain != (plainDir[d.Driver] != "" || d.Driver == fuseOverlayfs || strings.Contains(tc.name, "without layers")) {
				t.Errorf("plain: %v", c.Plain)
			}
			if c.UpperDir != want || c.OverlayDevice != tc.overlay {
				t.Errorf("upper %q, overlay %d, want %q, %d", c.UpperDir, c.OverlayDevice, want, tc.overlay)
			}
			switch {
			case tc.err != nil:
				if !errors.Is(c.LayerErr, tc.err) {
					t.Errorf("error %v, want %v", c.LayerErr, tc.err)
				}
			case want == "":
				if c.LayerErr == nil {
					t.Error("no error")
				}
			default:
				if c.LayerErr != nil || c.UpperDevice != 8<<20|17 || c.UpperInode != inode(t, want) {
					t.Errorf("error %v, device %d, inode %d", c.LayerErr, c.UpperDevice, c.UpperInode)
				}
			}
		})
	}
}

// A container of the containerd store that was seen running keeps its layer.
func TestUpperDirRemembered(t *testing.T) {
	h := newHost(t)
	h.process(4100, "containerd.mountinfo", "/docker/"+id("e"))
	upper := h.dir("docker/snapshots/9/fs")
	e := newFakeEngine(Details{ID: id("e"), Name: "c", State: StateRunning, PID: 4100, Driver: "overlayfs"})
	r := h.resolver(e)
	_, err := r.Find(t.Context(), "c")
	h.must(err)
	e.set(func(m map[string]Details) {
		m[id("e")] = Details{ID: id("e"), Name: "c", State: StateExited, Driver: "overlayfs"}
	})
	c, err := r.Refresh(t.Context(), id("e"))
	h.must(err)
	if c.UpperDir != upper || c.LayerErr != nil || c.Running() {
		t.Errorf("%+v", c)
	}
	e.set(func(m map[string]Details) { clear(m) })
	c, err = r.Refresh(t.Context(), id("e"))
	var gone *NotFoundError
	if !errors.As(err, &gone) || c.Name != "c" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestRefreshMounts(t *testing.T) {
	h := newHost(t)
	r := h.resolver(newFakeEngine(h.overlay2()))
	c, err := r.Find(t.Context(), "my-api")
	h.must(err)
	h.file("proc/4000/mountinfo", h.fixture("overlay2.mountinfo")+
		"799 700 0:99 / /late rw - tmpfs tmpfs rw\n")
	if got := c.Classify(99, "/late/x").Class; got != record.ClassOther {
		t.Errorf("before: %s", got)
	}
	fresh := r.RefreshMounts(c)
	if got := fresh.Classify(99, "/late/x"); got.Class != record.ClassTmpfs || got.Destination != "/late" {
		t.Errorf("after: %+v", got)
	}
	if got := fresh.Classify(8<<20|17, "/opt/vol/x"); got.Name != "named" {
		t.Errorf("after: %+v", got)
	}
	h.must(os.RemoveAll(h.root + "/proc/4000"))
	if again := r.RefreshMounts(fresh); !reflect.DeepEqual(again, fresh) {
		t.Error("the mounts of a container that has ended changed")
	}
}

func TestFind(t *testing.T) {
	h := newHost(t)
	e := newFakeEngine(
		Details{ID: "ab" + id("1")[2:], Name: "my-api"},
		Details{ID: "ac" + id("2")[2:], Name: "my-db"},
		Details{ID: "ff" + id("3")[2:], Name: "ab"}, // a name that is another's id prefix
		Details{ID: id("0"), Name: ""},
	)
	r := h.resolver(e)
	for _, tc := range []struct{ ref, want string }{
		{"my-api", "my-api"}, {"/my-api", "my-api"}, {"ab", "ab"}, {"ab1", "my-api"}, {"ac", "my-db"},
		{"f", "ab"}, {id("0"), ""}, {"ac" + id("2")[2:], "my-db"},
	} {
		c, err := r.Find(t.Context(), tc.ref)
		if err != nil || c.Name != tc.want {
			t.Errorf("Find(%q): %q, %v", tc.ref, c.Name, err)
		}
	}
	for _, tc := range []struct{ ref, nearest string }{
		{"my-apo", "my-api"}, {"my-pai", "my-api"}, {"myapi", "my-api"}, {"my-ap", "my-api"},
		{"zzz", ""}, {"api", "my-api"}, {"", ""}, {"MY-DB", ""}, {strings.Repeat("x", 1e6), ""},
	} {
		_, err := r.Find(t.Context(), tc.ref)
		var gone *NotFoundError
		if !errors.As(err, &gone) || gone.Nearest != tc.nearest || gone.Name != tc.ref {
			t.Errorf("Find(%.20q): %v, nearest %+v", tc.ref, err, gone)
		}
	}
	_, err := r.Find(t.Context(), "a")
	var several *AmbiguousError
	if !errors.As(err, &several) || len(several.Matches) != 2 || several.Matches[0][:2] != "ab" {
		t.Errorf("Find(a): %v", err)
	}
	e.inspectErr[id("0")] = &NotFoundError{Name: id("0")}
	if _, err := r.Find(t.Context(), "00"); err == nil || err.Error() != "no such container: 00" {
		t.Errorf("gone since it was listed: %v", err)
	}
	all, err := r.List(t.Context())
	h.must(err)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"ab", "my-api", "my-db"}) {
		t.Errorf("List: %q", names)
	}
	e.down = fmt.Errorf("test: %w", ErrUnreachable)
	if _, err := r.Find(t.Context(), "my-api"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("unreachable: %v", err)
	}
	if _, err := r.List(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("unreachable: %v", err)
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no engine: no error")
	}
	h := newHost(t)
	if _, err := New(Config{Engine: newFakeEngine(), ProcRoot: h.root}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no mount table: %v", err)
	}
	h.file("proc/self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:9 / /no/such rw - cgroup2 cgroup2 rw\n")
	if _, err := New(Config{Engine: newFakeEngine(), ProcRoot: h.root + "/proc"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no cgroup root: %v", err)
	}
	// A host without cgroups.
	h.file("proc/self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/vda rw\n")
	d := h.overlay2()
	r := h.resolver(newFakeEngine(d))
	c, err := r.Find(t.Context(), "my-api")
	h.must(err)
	if c.CgroupID != 0 {
		t.Errorf("cgroup %d", c.CgroupID)
	}
	if _, ok := r.Actor(1); ok {
		t.Error("an actor without cgroups")
	}
}

func TestRemovedAreForgotten(t *testing.T) {
	r := newHost(t).resolver(newFakeEngine())
	for i := range maxRemoved + 10 {
		c := Container{ID: fmt.Sprint(i), CgroupID: uint64(i + 1000)}
		r.remember(c)
		r.retire(c.ID)
	}
	if _, ok := r.Known("9"); ok || len(r.removed) != maxRemoved {
		t.Errorf("%d removed", len(r.removed))
	}
	if _, ok := r.Known("10"); !ok {
		t.Error("forgotten too early")
	}
	if _, ok := r.Actor(1009); ok {
		t.Error("cgroup of a forgotten container")
	}
	if id, ok := r.Actor(1010); !ok || id != "10" {
		t.Errorf("cgroup of a removed container: %q", id)
	}
}

// TestRawNames: what is not UTF-8 goes into records whole.
func TestRawNames(t *testing.T) {
	const raw, text, b64 = "/v\xff", "/v\uFFFD", "L3b/"
	c := Container{ID: "1", Name: raw, Mounts: []Mount{{Class: record.ClassBind, Destination: raw, Source: raw + raw, Device: 1}}}
	if r := c.Record(); r.Name != text || r.NameB64 != b64 {
		t.Errorf("container %+v", r)
	}
	want := record.Storage{Class: record.ClassBind, Destination: text, DestinationB64: b64, Source: text + text, SourceB64: "L3b/L3b/"}
	if got := c.Classify(1, ""); got != want {
		t.Errorf("storage %+v", got)
	}
	mounts := c.RecordMounts()
	if len(mounts) != 1 || mounts[0] != (record.Mount{Class: want.Class, Destination: text, DestinationB64: b64, Source: text + text, SourceB64: want.SourceB64}) {
		t.Errorf("mounts %+v", mounts)
	}
}
