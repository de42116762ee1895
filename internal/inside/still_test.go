package inside

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// overlay mounts what the layers of a scene make.
func (s *scene) overlay() {
	s.Helper()
	options := fmt.Sprintf("lowerdir=%[1]s/l1:%[1]s/l2,upperdir=%[1]s/upper,workdir=%[1]s/work,redirect_dir=off,metacopy=off", s.dir)
	err := unix.Mount("overlay", s.root, "overlay", 0, options)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		s.Skip("no overlay can be mounted here:", err)
	}
	s.must(err)
	s.Cleanup(func() { s.must(unix.Unmount(s.root, unix.MNT_DETACH)) })
}

// TestStillAsOverlayfs changes a real overlay and compares what the layers say with
// what overlayfs shows.
func TestStillAsOverlayfs(t *testing.T) {
	s := newScene(t)
	for _, d := range []string{"l1", "l2", "upper", "work"} {
		s.mkdir(d)
	}
	s.write("l2/etc/passwd", 10)
	s.write("l2/etc/both", 20)
	s.write("l1/etc/both", 30)
	s.write("l2/dir/deep/file", 40)
	s.write("l2/gone/file", 50)
	s.write("l2/again/old", 60)
	s.write("l1/file-then-dir", 70)
	s.write("l2/becomes/x", 80)
	s.link("l2/link", "/dir/deep")
	s.link("l2/var/run", "/run")
	s.overlay()
	in := func(name string) string { return filepath.Join(s.root, name) }
	s.must(os.Chmod(in("etc/passwd"), 0o600))     // copied up
	s.write("root/etc/new", 5)                    // added
	s.must(os.Remove(in("etc/both")))             // whiteout over two
	s.must(os.RemoveAll(in("gone")))              // whiteout of a directory
	s.must(os.RemoveAll(in("again")))             //
	s.write("root/again/new", 7)                  // opaque
	s.must(os.Remove(in("file-then-dir")))        //
	s.write("root/file-then-dir/f", 8)            //
	s.must(os.RemoveAll(in("becomes")))           //
	s.write("root/becomes", 9)                    // a file over a directory
	s.must(os.Rename(in("etc/new"), in("moved"))) //

	layers := Layers{Upper: s.dir + "/upper", Lowers: []string{s.dir + "/l1", s.dir + "/l2"}}
	still, err := NewStill(layers, nil)
	s.must(err)
	for _, name := range []string{
		"/", "/etc", "/etc/passwd", "/etc/both", "/etc/new", "/etc/none", "/dir", "/dir/deep/file", "/gone", "/gone/file",
		"/again", "/again/old", "/again/new", "/file-then-dir", "/file-then-dir/f", "/becomes", "/becomes/x", "/link/file",
		"/link/../deep/file", "/var/run/x", "/moved", "/none/deep", "/link",
	} {
		want := describe(Live(s.process, name))
		if got := describe(still.Find(name)); got != want {
			t.Errorf("%s: %s, overlayfs says %s", name, got, want)
		}
	}
	for name, want := range map[string]Found{
		"/etc/passwd":    {Exists: true, InLayer: true, CopiedUp: true, InImage: true, Host: layers.Upper + "/etc/passwd"},
		"/moved":         {Exists: true, InLayer: true, Host: layers.Upper + "/moved"},
		"/etc/both":      {Whiteout: true, InImage: true},
		"/dir/deep/file": {Exists: true, InImage: true, Host: layers.Lowers[1] + "/dir/deep/file"},
		"/gone":          {Whiteout: true, InImage: true},
		"/gone/file":     {InImage: true},
		"/again/old":     {InImage: true},
		"/again/new":     {Exists: true, InLayer: true, Host: layers.Upper + "/again/new"},
		"/becomes":       {Exists: true, InLayer: true, InImage: true, Host: layers.Upper + "/becomes"},
		"/becomes/x":     {InImage: true},
		"/none":          {},
	} {
		got, err := layers.Find(name)
		s.must(err)
		got.Stat, got.link = unix.Stat_t{}, ""
		if got != want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
	if got, err := layers.Find("/etc/passwd"); err != nil || got.Stat.Size != 10 || got.Stat.Mode&0o777 != 0o600 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStillMounts(t *testing.T) {
	s := newScene(t)
	s.mkdir("upper/run")
	s.mkdir("lower/var")
	s.mkdir("lower/etc")
	s.link("lower/var/run", "/run")
	s.link("lower/log", "/dev/stdout")
	s.link("lower/err", "dev/fd/2")
	s.write("volume/data", 100)
	s.write("volume/nested/hidden", 100)
	s.write("hosts", 7)
	s.link("host-link", s.dir+"/volume")
	mounts := []Mount{
		{Destination: "/srv/volume/nested", Empty: true}, // below one that is listed later
		{Destination: "/srv/volume", Source: s.dir + "/volume"},
		{Destination: "/var/run/secrets", Source: s.dir + "/hosts"},
		{Destination: "/etc/hosts", Source: s.dir + "/hosts"},
		{Destination: "/image"},
		{Destination: "/missing", Source: s.dir + "/none"},
		{Destination: "/linked", Source: s.dir + "/host-link"},
		{Destination: "/etc/hosts/impossible", Empty: true},
		{Destination: "/a/b/c/new", Empty: true},
	}
	still, err := NewStill(Layers{Upper: s.dir + "/upper", Lowers: []string{s.dir + "/lower"}}, mounts)
	s.must(err)
	for name, want := range map[string]struct {
		says  string
		mount int
	}{
		"/srv/volume/data":       {"/srv/volume/data", 1},
		"/srv/volume/new/file":   {"/srv/volume would hold /srv/volume/new/file", 1},
		"/srv/volume/nested":     {"/srv/volume/nested", 0},
		"/srv/volume/nested/x":   {"/srv/volume/nested would hold /srv/volume/nested/x", 0},
		"/srv/volume/nested/..":  {"/srv/volume", 1},
		"/srv":                   {"/srv", -1},
		"/srv/x":                 {"/srv would hold /srv/x", -1},
		"/run/secrets":           {"/run/secrets", 2},
		"/var/run/secrets":       {"/run/secrets", 2},
		"/etc/hosts":             {"/etc/hosts", 3},
		"/image/bin/sh":          {"/image unknown /image/bin/sh", 4},
		"/image/../etc":          {"/etc", -1},
		"/missing/x":             {"/missing unknown /missing/x", 5},
		"/linked/data":           {"/linked/data", 6},
		"/a/b/c":                 {"/a/b/c", -1},
		"/a/b/other":             {"/a/b would hold /a/b/other", -1},
		"/a/b/c/new/f":           {"/a/b/c/new would hold /a/b/c/new/f", 8},
		"/log":                   {"output 1", -1},
		"/err":                   {"output 2", -1},
		"/proc/self/fd/2":        {"output 2", -1},
		"/dev/stdout/../x":       {"/ would hold /dev/x", -1},
		"/srv/volume/data/below": {"error: /srv/volume/data is no directory", 0},
	} {
		p, err := still.Find(name)
		if err == nil && p.Mount != want.mount {
			t.Errorf("%s: mount %d, want %d", name, p.Mount, want.mount)
		}
		if got := describe(p, err); got != want.says {
			t.Errorf("%s: %s, want %s", name, got, want.says)
		}
	}
	for i, want := range map[int]string{2: "/run/secrets", 7: "/etc/hosts/impossible"} {
		if got := still.Destination(i); got != want {
			t.Errorf("destination %d: %s, want %s", i, got, want)
		}
	}

	blind, err := NewStill(Layers{}, mounts)
	s.must(err)
	for name, want := range map[string]string{
		"/etc/passwd": "/etc unknown /etc/passwd", // there is a directory for hosts
		"/usr/bin":    "/ unknown /usr/bin",
		"/etc/hosts":  "/etc/hosts",
	} {
		if got := describe(blind.Find(name)); got != want {
			t.Errorf("without layers: %s: %s, want %s", name, got, want)
		}
	}
	if _, err := NewStill(Layers{Upper: s.dir + "/none"}, mounts); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layer is gone: %v", err)
	}
}
