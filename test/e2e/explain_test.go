//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/internal/record"
)

// explanation is what explain says in JSON, as far as the tests need it.
type explanation struct {
	State    string
	Resolved string
	Exists   *bool
	Parent   string
	Kind     string
	Storage  record.Storage
	Mount    *struct {
		FSType              string `json:"fs_type"`
		Declared, Anonymous bool
	}
	Origin          string
	ReadOnly        bool   `json:"read_only"`
	HostPath        string `json:"host_path"`
	Size, Allocated *int64
	Tree            *struct{ Size, Allocated, Whiteouts int64 }
	Fate            map[string]struct{ Outcome, Why string }
	Notes           []string
	Log             *struct {
		Driver, Path string
		Size         int64
	}
}

// explain asks for a path of a container.
func explain(t *testing.T, container, path string) explanation {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), env.bin, "explain", container, path, "-o", "json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("layertrace explain %s %s: %v\n%s%s", container, path, err, out, stderr.Bytes())
	}
	if err := outputtest.ValidateExplanation(out); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	var e explanation
	if err := json.Unmarshal(out, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// brief says of an explanation where the bytes are and what becomes of them.
func (e explanation) brief() string {
	where := e.Storage.Class
	if e.Storage.Destination != "" {
		where += " at " + e.Storage.Destination
	}
	switch {
	case e.Exists == nil:
		where += ", unknown"
	case !*e.Exists:
		where += ", absent"
	}
	if e.Origin != "" {
		where += ", " + e.Origin
	}
	if e.Size != nil && e.Kind == "file" {
		where += fmt.Sprintf(", %d", *e.Size)
	}
	fates := make([]string, 0, len(e.Fate))
	for _, what := range []string{"stop", "restart", "rm", "rm_volumes", "commit", "recreate"} {
		fates = append(fates, e.Fate[what].Outcome)
	}
	return where + ": " + strings.Join(fates, " ")
}

// anonymousName is the name of the volume that Docker made for a destination.
func anonymousName(t *testing.T, id, destination string) string {
	t.Helper()
	var got struct {
		Mounts []struct{ Name, Destination string }
	}
	env.docker.must(t, "GET", "/containers/"+id+"/json", nil, &got)
	for _, m := range got.Mounts {
		if m.Destination == destination {
			return m.Name
		}
	}
	t.Fatalf("no mount at %s: %+v", destination, got.Mounts)
	return ""
}

// mountedBox is a container with a mount of each kind that this Docker has.
type mountedBox struct {
	*box
	dir, shared       string // on the host
	second, anonymous string // names of volumes
}

func newMountedBox(t *testing.T) *mountedBox {
	m := &mountedBox{dir: filepath.Join(env.dir, "mounts")}
	m.shared = filepath.Join(m.dir, "shared")
	for _, d := range []string{"bind", "shared", "deep"} {
		if err := os.MkdirAll(filepath.Join(m.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"app.conf", "bind/f"} {
		if err := os.WriteFile(filepath.Join(m.dir, f), filler(321), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What the host mounts below it is to appear in the container.
	mount(t, "tmpfs", m.shared, "tmpfs", 0)
	if err := unix.Mount("", m.shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	mounts := []any{map[string]any{"Type": "tmpfs", "Target": "/scratch2"}}
	m.second = "e2e-second-volume"
	if hasParts() {
		var volume struct{ Mountpoint string }
		env.docker.must(t, "POST", "/volumes/create", map[string]any{"Name": m.second}, &volume)
		if err := os.Mkdir(filepath.Join(volume.Mountpoint, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, map[string]any{"Type": "volume", "Source": m.second, "Target": "/part", "VolumeOptions": map[string]any{"Subpath": "sub"}})
	}
	if hasImageMounts() {
		mounts = append(mounts, map[string]any{"Type": "image", "Source": imageName, "Target": "/image"})
	}
	var info struct{ DockerRootDir string }
	env.docker.must(t, "GET", "/info", nil, &info)
	m.box = newBoxWith(t, boxOptions{
		privileged: true,
		binds: []string{
			m.second + ":/data/nested",
			m.dir + "/bind:/bind",
			m.dir + "/app.conf:/etc/app.conf:ro",
			m.dir + "/deep:/img/symlink/deep", // leads through a symlink of the image
			info.DockerRootDir + "/volumes:/docker/volumes",
			m.shared + ":/shared:rslave",
		},
		adjust: func(config, host map[string]any) {
			config["Volumes"] = map[string]any{"/anonymous": struct{}{}}
			host["Tmpfs"].(map[string]string)["/scratch"] = ""
			host["Mounts"] = mounts
		},
	})
	m.anonymous = anonymousName(t, m.id, "/anonymous")
	t.Cleanup(func() {
		for _, v := range []string{m.second, m.anonymous} {
			_ = env.docker.do("DELETE", "/containers/"+m.id+"?force=1", nil, nil)
			if err := env.docker.do("DELETE", "/volumes/"+v, nil, nil); err != nil && !strings.Contains(err.Error(), "no such volume") {
				t.Errorf("removing volume %s: %v", v, err)
			}
		}
	})
	return m
}

// hasParts tells whether this Docker mounts parts of volumes, hasImageMounts whether it
// mounts images.
func hasParts() bool       { return apiAtLeast(1, 45) }
func hasImageMounts() bool { return apiAtLeast(1, 48) }

// mount mounts until the test's end.
func mount(t *testing.T, source, target, fsType string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(source, target, fsType, flags, ""); err != nil {
		t.Fatalf("mounting %s at %s: %v", source, target, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmounting %s: %v", target, err)
		}
	})
}

// later mounts, from inside the container and from the host, what was not there
// when it started.
func (m *mountedBox) later(t *testing.T) {
	t.Helper()
	busybox := func(args ...string) { m.tool(t, "/bin/busybox", args...) }
	busybox("mkdir", "-p", "/late/volume", "/late/layer", "/late/tmpfs", "/late/over", "/data/part", "/var/log/part")
	busybox("mount", "--bind", "/data/part", "/late/volume")
	busybox("mount", "--bind", "/var/log/part", "/late/layer")
	busybox("mount", "-t", "tmpfs", "none", "/late/tmpfs")
	sub := filepath.Join(m.shared, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	mount(t, "tmpfs", sub, "tmpfs", 0)
}

// TestExplain: each kind of mount, in a container that runs, with the classes of
// --include-mounts beside it, and in one that does not run.
func TestExplain(t *testing.T) {
	m := newMountedBox(t)
	m.later(t)
	const (
		size     = 4321
		layer    = ": kept kept lost lost included lost"
		reverts  = ": kept kept lost lost included restored"
		image    = ": kept kept kept kept included kept"
		kept     = ": kept kept kept kept left_out kept"
		nameless = ": kept kept kept lost left_out lost"
		memory   = ": lost lost lost lost left_out lost"
	)
	// The files that a process of the container writes, by what it writes to.
	files := []struct{ path, at, running, stopped string }{
		{"/var/log/app", "", "layer, added" + layer, ""},
		{"/data/f", "/data", "volume at /data" + kept, ""},
		{"/data/nested/f", "/data/nested", "volume at /data/nested" + kept, ""},
		{"/anonymous/f", "/anonymous", "volume at /anonymous" + nameless, ""},
		{"/bind/new", "/bind", "bind at /bind" + kept, ""},
		{"/img/symlink/deep/f", "/img/nowhere/in/particular/deep", "bind at /img/nowhere/in/particular/deep" + kept, ""},
		{"/docker/volumes/" + m.second + "/_data/g", "/docker/volumes", "bind at /docker/volumes" + kept, ""},
		{"/scratch/f", "/scratch", "tmpfs at /scratch" + memory, "tmpfs at /scratch, absent" + memory},
		{"/scratch2/f", "/scratch2", "tmpfs at /scratch2" + memory, "tmpfs at /scratch2, absent" + memory},
		{"/dev/shm/f", "/dev/shm", "tmpfs at /dev/shm" + memory, "tmpfs at /dev/shm, absent" + memory},
		{"/etc/hosts", "/etc/hosts", "docker_file at /etc/hosts: kept renewed lost lost left_out renewed", ""},
		{"/shared/f", "/shared", "bind at /shared" + kept, ""},
		{"/shared/sub/f", "/shared/sub", "tmpfs at /shared/sub" + kept, "bind at /shared" + kept},
		{"/late/volume/f", "/late/volume", "volume at /late/volume" + kept, "layer, absent" + layer},
		{"/late/layer/f", "", "layer, added" + layer, "layer, absent" + layer},
		{"/late/tmpfs/f", "/late/tmpfs", "tmpfs at /late/tmpfs" + memory, "layer, absent" + layer},
		{"/part/f", "/part", "volume at /part" + kept, ""}, // the last: see hasParts
	}
	if !hasParts() {
		files = files[:len(files)-1]
	}
	s := watch(t, "--include-mounts", m.name)
	var ops []string
	for _, f := range files {
		ops = append(ops, fmt.Sprintf("append path=%s size=%d", f.path, size))
	}
	m.run(t, "everywhere", fields(strings.Join(ops, " then "))...)
	m.run(t, "changes", fields("chmod path=/img/chmod then unlink path=/img/unlink")...)

	// Beside each other: what the stream and what explain say.
	s.until(seenLimit, "what was written to each mount", func(v *view) error {
		for _, f := range files {
			class, _, _ := strings.Cut(f.running, " ")
			class = strings.TrimRight(class, ",")
			found := slices.ContainsFunc(v.growth, func(g growth) bool {
				return g.process() == "everywhere" && g.Storage.Class == class && g.Storage.Destination == f.at && g.WrittenBytes == size &&
					(class == record.ClassLayer || g.path() == f.path || strings.HasPrefix(f.path, "/img/symlink"))
			})
			if !found {
				return fmt.Errorf("no record of %s on %s at %q:\n%s", f.path, class, f.at,
					v.linesOf(func(g *growth) bool { return g.process() == "everywhere" && g.path() == f.path }))
			}
		}
		return nil
	})
	s.quiet(m.box)

	t.Run("running", func(t *testing.T) {
		for _, f := range files {
			e := explain(t, m.name, f.path)
			if e.Size == nil || *e.Size < size || e.State != "running" {
				t.Errorf("%s: %+v", f.path, e)
				continue
			}
			e.Kind = "" // sizes differ: some files were there before
			if got := e.brief(); got != f.running {
				t.Errorf("%s: %s, want %s", f.path, got, f.running)
			}
			if f.running != f.stopped && e.HostPath != "" {
				var st unix.Stat_t
				if err := unix.Stat(e.HostPath, &st); err != nil || st.Size != *e.Size || st.Blocks*512 != *e.Allocated {
					t.Errorf("%s is said to be %s on the host, %d bytes, %d on the disk: %+v, %v", f.path, e.HostPath, *e.Size, *e.Allocated, st, err)
				}
			}
		}
		m.checkDetails(t)
	})
	env.docker.must(t, "POST", "/containers/"+m.id+"/stop?t=1", nil, nil)
	t.Run("stopped", func(t *testing.T) {
		for _, f := range files {
			e := explain(t, m.name, f.path)
			want := f.stopped
			if want == "" {
				want = f.running
			}
			e.Kind = ""
			if got := e.brief(); got != want || e.State != "exited" {
				t.Errorf("%s: %s, want %s", f.path, got, want)
			}
		}
		m.checkDetails(t)
	})
}

// checkDetails asks for what is the same whether or not the container runs.
func (m *mountedBox) checkDetails(t *testing.T) {
	t.Helper()
	for path, want := range map[string]string{
		"/img/chmod":    "layer, copied_up, 10002: kept kept lost lost included restored",
		"/img/unlink":   "layer, absent, whiteout: kept kept lost lost included restored",
		"/img/open":     "layer, image, 10001: kept kept kept kept included kept",
		"/etc/app.conf": "bind at /etc/app.conf, 321: kept kept kept kept left_out kept",
		"/new/file":     "layer, absent: kept kept lost lost included lost",
		"/bin/sh":       "layer, image, ",
	} {
		e := explain(t, m.name, path)
		if got := e.brief(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
		if path == "/etc/app.conf" && !e.ReadOnly {
			t.Errorf("%s is a read-only bind: %+v", path, e)
		}
		if path == "/bin/sh" && e.Resolved != "/bin/busybox" {
			t.Errorf("%s leads to %s", path, e.Resolved)
		}
	}
	if e := explain(t, m.name, "/data"); e.Storage.Name != m.volume || e.Mount.Anonymous {
		t.Errorf("the named volume: %+v", e)
	}
	if e := explain(t, m.name, "/anonymous"); e.Storage.Name != m.anonymous || !e.Mount.Anonymous {
		t.Errorf("the anonymous volume: %+v", e)
	}
	if hasParts() {
		if e := explain(t, m.name, "/part"); e.Storage.Class != record.ClassVolume || e.Storage.Name != m.second ||
			!strings.HasSuffix(e.Storage.Source, "/"+m.second+"/_data/sub") || e.Mount.Anonymous {
			t.Errorf("the part of a volume: %+v", e)
		}
	}
	if hasImageMounts() {
		// Whether it can be seen while the container does not run is Docker's affair.
		e := explain(t, m.name, "/image/img/open")
		want := []string{"image_mount at /image, 10001: kept kept kept kept left_out kept"}
		if e.State != "running" {
			want = append(want, "image_mount at /image, unknown: kept kept kept kept left_out kept")
		}
		if !slices.Contains(want, e.brief()) || e.Storage.Name != imageName || !e.ReadOnly {
			t.Errorf("the image mount: %s, %+v", e.brief(), e)
		}
	}
	// The layer as a whole is what Docker and du say.
	settle(t, m.upper)
	e := explain(t, m.name, "/")
	if size := m.size(t); e.Tree == nil || e.Tree.Size != size || e.Tree.Allocated != du(t, m.upper) || e.Tree.Whiteouts != 1 {
		t.Errorf("the whole layer: %+v; its files have %d, du says %d", e.Tree, size, du(t, m.upper))
	}
}

// TestFate: what explain foretells comes true.
func TestFate(t *testing.T) {
	const committed = "layertrace-e2e-committed:1"
	b := newBoxWith(t, boxOptions{adjust: func(config, _ map[string]any) {
		config["Volumes"] = map[string]any{"/anonymous": struct{}{}}
	}})
	anonymous := anonymousName(t, b.id, "/anonymous")
	t.Cleanup(func() { _ = env.docker.do("DELETE", "/volumes/"+anonymous, nil, nil) })
	paths := []string{"/w/added", "/data/f", "/anonymous/f", "/run/f", "/dev/shm/f"}
	for _, p := range paths {
		b.run(t, "writer", "write", "path="+p, "size=100")
	}
	b.run(t, "changer", fields("chmod path=/img/chmod then unlink path=/img/unlink")...)
	before := map[string]explanation{}
	for _, p := range append(paths, "/img/chmod", "/img/unlink", "/img/open") {
		before[p] = explain(t, b.name, p)
	}
	there := func(container string, event string, yes ...string) {
		t.Helper()
		for p, e := range before {
			now := explain(t, container, p)
			if now.Exists == nil {
				t.Errorf("after %s nobody knows of %s", event, p)
				continue
			}
			outcome := e.Fate[event].Outcome
			if slices.Contains(yes, outcome) != (*now.Exists && p != "/img/unlink" || !*now.Exists && p == "/img/unlink") {
				t.Errorf("%s was said to be %s after %s, now it is %s", p, outcome, event, now.brief())
			}
		}
	}
	env.docker.must(t, "POST", "/containers/"+b.id+"/restart?t=1", nil, nil)
	there(b.name, "restart", "kept")

	env.docker.must(t, "POST", "/commit?container="+b.id+"&repo=layertrace-e2e-committed&tag=1", map[string]any{}, nil)
	t.Cleanup(func() {
		if err := removeImage(committed); err != nil {
			t.Error(err)
		}
	})
	var created struct {
		ID string `json:"Id"`
	}
	env.docker.must(t, "POST", "/containers/create?name="+b.name+"-committed", map[string]any{"Image": committed}, &created)
	there(b.name+"-committed", "commit", "included")
	env.docker.must(t, "DELETE", "/containers/"+created.ID+"?v=1", nil, nil)

	env.docker.must(t, "DELETE", "/containers/"+b.id+"?force=1&v=1", nil, nil)
	for volume, path := range map[string]string{b.volume: "/data/f", anonymous: "/anonymous/f"} {
		err := env.docker.do("GET", "/volumes/"+volume, nil, nil)
		if outcome := before[path].Fate["rm_volumes"].Outcome; (err == nil) != (outcome == "kept") {
			t.Errorf("%s was said to be %s after docker rm -v: %v", path, outcome, err)
		}
	}
	eventually(t, seenLimit, "the layer, which was said to be lost, is gone", func() error {
		if _, err := os.Stat(b.upper); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
}

// TestExplainReadOnly: a read-only root, and a container that is removed when it
// stops.
func TestExplainReadOnly(t *testing.T) {
	b := newBoxWith(t, boxOptions{adjust: func(_, host map[string]any) {
		host["ReadonlyRootfs"], host["AutoRemove"] = true, true
	}})
	e := explain(t, b.name, "/etc/new")
	if !e.ReadOnly || *e.Exists || e.Storage.Class != record.ClassLayer || e.Fate["stop"].Outcome != "lost" || e.Fate["restart"].Outcome != "kept" {
		t.Errorf("%+v", e)
	}
	if e := explain(t, b.name, "/data/new"); e.ReadOnly || e.Fate["stop"].Outcome != "kept" {
		t.Errorf("%+v", e)
	}
	message, hint := refused(t, 3, nil, "explain", b.name+"x", "/")
	mentions(t, message, b.name+"x")
	mentions(t, hint, "did you mean "+b.name+"?")
	refused(t, 1, nil, "explain", b.name, "/etc/passwd/x")
	refused(t, 2, nil, "explain", b.name)
}
