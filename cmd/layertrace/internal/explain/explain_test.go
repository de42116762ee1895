package explain

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/inside"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// short is an answer in few words: where, how large, what becomes of it at stop,
// rm, rm -v, commit and recreate.
func short(a *Answer) string {
	var b strings.Builder
	b.WriteString(a.Storage.Class)
	if a.Storage.Name != "" {
		b.WriteString(" " + a.Storage.Name[:min(len(a.Storage.Name), 8)])
	}
	if a.Storage.Destination != "" {
		b.WriteString(" at " + a.Storage.Destination)
	}
	fmt.Fprintf(&b, ", %s", a.Resolved)
	switch {
	case a.Exists == nil:
		b.WriteString(" unknown in " + a.Parent)
	case !*a.Exists:
		b.WriteString(" to be made in " + a.Parent)
	}
	if a.Origin != "" {
		b.WriteString(", " + a.Origin)
	}
	if a.Size != nil && a.Kind != "directory" {
		fmt.Fprintf(&b, ", %d", *a.Size)
	}
	f := a.Fate
	fmt.Fprintf(&b, ": %s %s %s %s %s", f.Stop.Outcome, f.Remove.Outcome, f.RemoveVolumes.Outcome, f.Commit.Outcome, f.Recreate.Outcome)
	return b.String()
}

func TestExplain(t *testing.T) {
	r := withMounts(t)
	const (
		layer    = ": kept lost lost included lost"
		reverts  = ": kept lost lost included restored"
		image    = ": kept kept kept included kept"
		named    = ": kept kept kept left_out kept"
		nameless = ": kept kept lost left_out lost"
		memory   = ": lost lost lost left_out lost"
	)
	for _, tc := range []struct {
		path    string
		running string
		stopped string // if another answer
	}{
		{"/var/log/app.log", "layer, /var/log/app.log, added, 10000" + layer, ""},
		{"var/log/app.log", "layer, /var/log/app.log, added, 10000" + layer, ""},
		{"/etc/passwd", "layer, /etc/passwd, copied_up, 100" + reverts, ""},
		{"/etc/motd", "layer, /etc/motd, added, 7" + reverts, ""},
		{"/etc/group", "layer, /etc/group, image, 300" + image, ""},
		{"/etc/shadow", "layer, /etc/shadow to be made in /etc, whiteout" + reverts, ""},
		{"/host-passwd", "layer, /etc/shadow to be made in /etc, whiteout" + reverts, ""}, // never the host's
		{"/etc", "layer, /etc, directory" + reverts, ""},
		{"/usr/lib", "layer, /usr/lib, image" + image, ""},
		{"/", "layer, /, directory" + reverts, ""},
		{"/new/dir/file", "layer, /new/dir/file to be made in /" + layer, ""},
		{"/data", "volume named at /data, /data" + named, ""},
		{"/data/file", "volume named at /data, /data/file, 1234" + named, ""},
		{"/to-data", "volume named at /data, /data/file, 1234" + named, ""},
		{"/data/new", "volume named at /data, /data/new to be made in /data" + named, ""},
		{"/data/anonymous/f", "volume dddddddd at /data/anonymous, /data/anonymous/f, 22" + nameless, ""},
		{"/var/run/b/f", "bind at /run/b, /run/b/f, 33" + named, ""},
		{"/run/b/../b/f", "bind at /run/b, /run/b/f, 33" + named, ""},
		{"/etc/app.conf", "bind at /etc/app.conf, /etc/app.conf, 44" + named, ""},
		{"/etc/hosts", "docker_file at /etc/hosts, /etc/hosts, 55: kept lost lost left_out renewed", ""},
		{"/scratch/f", "tmpfs at /scratch, /scratch/f, 4096" + memory, "tmpfs at /scratch, /scratch/f to be made in /scratch" + memory},
		{"/image/bin/tool", "image_mount tools:2 at /image, /image/bin/tool, 66" + named, "image_mount tools:2 at /image, /image/bin/tool unknown in /image" + named},
		{"/other/merged/etc/group", "nested_overlay at /other/merged, /other/merged/etc/group, 300: unknown unknown unknown left_out unknown",
			"bind at /other, /other/merged/etc/group, 300" + named},
		{"/run/secrets/token", "tmpfs at /run/secrets/token, /run/secrets/token, 77: lost lost lost left_out renewed",
			"layer, /run/secrets/token, added, 0" + layer},
		{"/late/of/it", "volume named at /late, /late/of/it, 11" + named, "layer, /late/of/it to be made in /late" + layer},
		{"/layer-again/app.log", "layer, /layer-again/app.log, added, 10000" + layer, "layer, /layer-again/app.log to be made in /layer-again" + layer},
		{"/layer-again/old", "layer, /layer-again/old to be made in /layer-again, whiteout" + reverts, "layer, /layer-again/old to be made in /layer-again" + layer},
		{"/own-layer/var/log/app.log", "bind at /own-layer, /own-layer/var/log/app.log, 10000" + layer, ""},
		{"/docker/" + r.details.ID + "/other", "bind at /docker, /docker/" + r.details.ID + "/other, 5: kept lost lost left_out renewed", ""},
		{"/docker/" + r.details.ID + "/" + r.details.ID + "-json.log.1", "bind at /docker, /docker/" + r.details.ID + "/" + r.details.ID + "-json.log.1, 1000: kept lost lost left_out lost", ""},
		{"/docker/elsewhere", "bind at /docker, /docker/elsewhere to be made in /docker" + named, ""},
		{"/proc/self/fd/1", "log, /dev/stdout, 6000: kept lost lost left_out lost", ""},
		{"/proc/self/fd/2", "layer, /var/log/app.log, added, 10000" + layer, "log, /dev/stderr, 6000: kept lost lost left_out lost"},
	} {
		for _, running := range []bool{true, false} {
			want := tc.running
			if !running && tc.stopped != "" {
				want = tc.stopped
			}
			a, err := r.ask(running, tc.path)
			if err != nil {
				t.Errorf("%s, running %v: %v", tc.path, running, err)
				continue
			}
			if got := short(a); got != want {
				t.Errorf("%s, running %v:\ngot  %s\nwant %s", tc.path, running, got, want)
			}
		}
	}
}

// TestVolumesOfPods: they go with the pod, or with a claim, not with a container.
func TestVolumesOfPods(t *testing.T) {
	for source, want := range map[string]string{
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache": "it is deleted with the pod, not with one of its containers",
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/token":    "it is deleted with the pod, not with one of its containers",
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc/mount":   "whether it outlives the pod is up to its claim; it outlives the container",
		"/var/lib/containers/storage/volumes/db/_data":                  "a named volume stays until docker volume rm",
	} {
		f := fate(&resolver.Container{}, &resolver.Mount{Source: source}, record.ClassVolume, "", false)
		if f.Remove != (Outcome{Kept, want}) {
			t.Errorf("%s: %+v, want %s", source, f.Remove, want)
		}
	}
}

// TestSharedMemory: a tmpfs that the host has mounted too does not end with the
// container.
func TestSharedMemory(t *testing.T) {
	r := newRig(t)
	r.must(os.MkdirAll(r.path("shm"), 0o755))
	r.must(unix.Mount("tmpfs", r.path("shm"), "tmpfs", 0, ""))
	t.Cleanup(func() { r.must(unix.Unmount(r.path("shm"), unix.MNT_DETACH)) })
	r.bind("shm", "/dev/shm", resolver.DeclaredMount{})
	a, err := r.ask(true, "/dev/shm/x")
	if err != nil || a.Storage.Class != "tmpfs" || a.Fate.Stop.Outcome != Kept || a.Storage.Source != r.path("shm") {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestExplainMore(t *testing.T) {
	r := withMounts(t)
	ask := func(path string) *Answer {
		t.Helper()
		a, err := r.ask(true, path)
		r.must(err)
		return a
	}
	notes := func(a *Answer) string { return strings.Join(a.Notes, "\n") }

	a := ask("/var/run/b/f")
	if len(a.Links) != 1 || a.Links[0].Path != "/var/run" || a.HostPath != r.path("srv/bind/f") || a.Storage.Source != r.path("srv/bind") {
		t.Errorf("through a symlink: %+v", a)
	}
	a = ask("/data")
	if a.Tree == nil || a.Tree.Size != 1234+10+11 || a.Tree.Files != 3 || *a.Size != 0 || a.Mount.Anonymous || !a.Mount.Declared {
		t.Errorf("a volume with another one in it: %+v, %+v", a, a.Tree)
	}
	a = ask("/")
	if a.Tree == nil || a.Tree.Size != 100+7+10000+99 || a.Tree.Whiteouts != 2 || a.HostPath != r.path("upper") {
		t.Errorf("the whole layer: %+v, %+v", a, a.Tree)
	}
	if a = ask("/usr"); a.Tree == nil || *a.Tree != (Tree{}) || a.HostPath != r.path("image/usr") {
		t.Errorf("a directory of the image: %+v, %+v", a, a.Tree)
	}
	if a = ask("/usr/lib/big"); !strings.Contains(notes(a), "copies all of it into the layer: 3.0 MiB") || a.HostPath != r.path("image/usr/lib/big") {
		t.Errorf("a large file of the image: %+v", a)
	}
	if a = ask("/etc/app.conf"); !a.ReadOnly || !strings.Contains(notes(a), "mounted read-only") {
		t.Errorf("a read-only bind of a file: %+v", a)
	}
	if a = ask("/own-layer/f"); !strings.Contains(notes(a), "past overlayfs") {
		t.Errorf("a bind of the layer's directory: %q", a.Notes)
	}
	if a = ask("/late/of/it"); a.Mount.Declared || !strings.Contains(notes(a), "ends with the container's processes") || a.HostPath != r.path("volumes/named/part/of/it") {
		t.Errorf("a mount made later: %+v", a)
	}
	if a = ask("/late"); !strings.Contains(notes(a), "hides what the layer holds of this name: 99 B") {
		t.Errorf("a mount over something: %q", a.Notes)
	}
	if !strings.Contains(notes(ask("/other/merged/etc")), "which the bind at /other shows as well") {
		t.Errorf("a mount that came with a bind: %q", ask("/other/merged/etc").Notes)
	}
	if a = ask("/other/merged/etc"); a.Storage.Source != r.path("other/merged") || !strings.Contains(a.Fate.Remove.Why, "another container") {
		t.Errorf("another container's root: %+v", a)
	}
	if a = ask("/run/secrets/token"); a.Mount.Declared || a.Fate.Restart.Outcome != Renewed || !strings.Contains(notes(a), "for a secret") {
		t.Errorf("a secret: %+v", a)
	}
	if a = ask("/layer-again/app.log"); a.HostPath != r.path("upper/var/log/app.log") || !strings.Contains(notes(a), "shows /var/log/app.log of the layer") {
		t.Errorf("a bind of the layer: %+v", a)
	}
	if a = ask("/scratch/f"); a.HostPath != "" && !strings.HasPrefix(a.HostPath, r.path("root")) {
		t.Errorf("tmpfs: %+v", a)
	}
	if a = ask("/var/log/x"); a.Output == nil || a.Output.Size != 6000 || a.Output.Files != 2 || !strings.Contains(notes(a), "is not below /var/log, but in "+r.details.LogPath) {
		t.Errorf("the log, taken for /var/log: %+v", a)
	}
	if a = ask(r.details.LogPath); !strings.Contains(notes(a), "on the host, "+r.details.LogPath+" is the container's log") {
		t.Errorf("the log's path on the host: %q", a.Notes)
	}

	// A container that is removed when it stops, and whose root is read-only.
	r.details.AutoRemove = true
	a = ask("/data/anonymous/f")
	if a.Fate.Stop.Outcome != Lost || a.Fate.Restart.Outcome != Kept || !strings.Contains(a.Fate.Stop.Why, "--rm") {
		t.Errorf("with --rm: %+v", a.Fate)
	}
	if a = ask("/data/file"); a.Fate.Stop.Outcome != Kept {
		t.Errorf("a named volume with --rm: %+v", a.Fate)
	}
	r.details.ReadOnlyRoot = true
	if a, err := r.ask(false, "/new"); err != nil || !a.ReadOnly || !strings.Contains(notes(a), "it can not be made: / is mounted read-only") {
		t.Errorf("a read-only root: %+v, %v", a, err)
	}
	r.details.LogPath = ""
	if a = ask("/proc/1/fd/1"); a.Fate.Remove.Outcome != Lost || a.Output != nil || !strings.Contains(notes(a), "there is none before") {
		t.Errorf("a log that is not written yet: %+v", a)
	}
	r.details.LogDriver = "journald"
	if a = ask("/proc/1/fd/1"); a.Fate.Stop.Outcome != Unknown || a.Output != nil || a.Storage.Class != "log" {
		t.Errorf("a log in no file: %+v", a)
	}
}

func TestExplainErrors(t *testing.T) {
	r := newRig(t)
	r.link("root/loop", "loop")
	for _, running := range []bool{true, false} {
		var notDir *inside.NotDirError
		if _, err := r.ask(running, "/etc/passwd/x"); !errors.As(err, &notDir) || notDir.Path != "/etc/passwd" {
			t.Errorf("below a file: %v", err)
		}
		var loop *inside.LoopError
		if _, err := r.ask(running, "/loop"); !errors.As(err, &loop) {
			t.Errorf("a loop: %v", err)
		}
	}
	// What another driver than overlay2 keeps is not known.
	r.details.Driver, r.details.DriverData = "overlayfs", nil
	if a, err := r.ask(true, "/var/log/app.log"); err != nil || a.Origin != "added" || a.HostPath != r.path("upper/var/log/app.log") {
		t.Errorf("containerd's driver, running: %+v, %v", a, err)
	}
}

// TestExplainWithoutLayer: a storage driver that makes no overlay, and a layer that
// is gone.
func TestExplainWithoutLayer(t *testing.T) {
	r := &rig{T: t, dir: t.TempDir()}
	r.write("proc/self/none", 0)
	r.write("vfs/dir/etc/passwd", 10)
	r.write("root/none", 0)
	r.mount(r.path("vfs/dir"), "", "", unix.MS_BIND, "")
	r.details = resolver.Details{ID: strings.Repeat("c", 64), Name: "api", State: resolver.StateRunning, PID: pid, Driver: "vfs"}
	a, err := r.ask(true, "/etc/passwd")
	if err != nil || a.Storage.Class != "layer" || a.Origin != "" || *a.Size != 10 || a.HostPath != r.path("vfs/dir/etc/passwd") || a.Fate.Remove.Outcome != Lost {
		t.Errorf("running: %+v, %v", a, err)
	}
	r.details.Mounts = []resolver.DeclaredMount{{Type: "volume", Name: "v", Source: r.path("vfs"), Destination: "/data"}}
	for path, want := range map[string]string{
		"/etc/passwd": "layer, /etc/passwd unknown in /: kept lost lost included unknown",
		"/data/dir":   "volume v at /data, /data/dir: kept kept kept left_out kept",
	} {
		if a, err := r.ask(false, path); err != nil || short(a) != want || path == "/etc/passwd" && !strings.Contains(strings.Join(a.Notes, "\n"), "no directory holds the layer alone") {
			t.Errorf("stopped: %+v, %v", a, err)
		}
	}
	r.details.Driver = "overlay2"
	r.details.DriverData = map[string]string{"UpperDir": r.path("gone"), "LowerDir": r.path("vfs/dir")}
	if a, err := r.ask(false, "/etc/passwd"); err != nil || a.Exists != nil || a.Origin != "" {
		t.Errorf("the layer is gone: %+v, %v", a, err)
	}
}

// TestNamesThatNeedCare: bytes that are no text, control characters, and names like
// those that runtimes make up.
func TestNamesThatNeedCare(t *testing.T) {
	r := newRig(t)
	hex := strings.Repeat("0a", 32)
	for _, name := range []string{"/\xff\xfe", "/line\nbreak", "/\x1b[31mred", "/sp ace", `/back\slash`, "/" + hex, "/1" + hex[1:] + "/" + hex + "-json.log", "/a:b,c"} {
		r.write("root"+name, 5)
		for _, running := range []bool{true, false} {
			a, err := r.ask(running, name)
			if err != nil || a.Origin != "added" || *a.Size != 5 {
				t.Errorf("%q: %+v, %v", name, a, err)
			}
			if words := a.Text(true); strings.Contains(words, "\x1b[31mred") || strings.Contains(words, "line\nbreak") {
				t.Errorf("%q: %q", name, words)
			}
		}
	}
	if a, err := r.ask(true, "/\xff\xfe"); err != nil || a.PathB64 == "" || a.ResolvedB64 == "" || a.HostPathB64 == "" {
		t.Errorf("%+v, %v", a, err)
	}
}
