package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/resolver"
)

const pid = 4242

// rig is a host with one container, whose mounts are real: an overlay and others
// over it. Only its process is made up.
type rig struct {
	*testing.T
	dir     string
	details resolver.Details
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name string, size int) {
	r.Helper()
	r.must(os.MkdirAll(filepath.Dir(r.path(name)), 0o755))
	r.must(os.WriteFile(r.path(name), make([]byte, size), 0o644))
}

func (r *rig) link(name, target string) {
	r.Helper()
	r.must(os.MkdirAll(filepath.Dir(r.path(name)), 0o755))
	r.must(os.Symlink(target, r.path(name)))
}

// mount mounts something at a path in the container.
func (r *rig) mount(source, at, fsType string, flags uintptr, options string) {
	r.Helper()
	target := r.path("root" + at)
	err := unix.Mount(source, target, fsType, flags, options)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		r.Skip("nothing can be mounted here:", err)
	}
	r.must(err)
	r.Cleanup(func() { r.must(unix.Unmount(target, unix.MNT_DETACH)) })
}

// bind makes the mount point and mounts a file or directory of the host there.
func (r *rig) bind(source, at string, declared resolver.DeclaredMount) {
	r.Helper()
	info, err := os.Stat(r.path(source))
	r.must(err)
	if info.IsDir() {
		r.must(os.MkdirAll(r.path("root"+at), 0o755))
	} else if _, err := os.Stat(r.path("root" + at)); err != nil {
		r.write("root"+at, 0)
	}
	r.mount(r.path(source), at, "", unix.MS_BIND, "")
	if declared.ReadOnly {
		r.must(unix.Mount("", r.path("root"+at), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	}
	if declared.Type != "" {
		declared.Source = r.path(source)
		r.details.Mounts = append(r.details.Mounts, declared)
	}
}

// newRig mounts the overlay and makes what the container did to it.
func newRig(t *testing.T) *rig {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, dir: dir}
	id := strings.Repeat("c", 64)
	for _, d := range []string{"upper", "work", "root", "proc/self", "docker/containers/" + id} {
		r.must(os.MkdirAll(r.path(d), 0o755))
	}
	r.write("image/etc/passwd", 100)
	r.write("image/etc/shadow", 200)
	r.write("image/etc/group", 300)
	r.write("image/etc/motd", 400)
	r.write("image/usr/lib/big", 3<<20)
	r.write("image/empty/f", 1)
	r.write("image/etc/hosts", 0)
	r.write("image/var/log/old", 1)
	r.link("image/var/run", "/run")
	r.link("image/var/log/access.log", "/dev/stdout")
	r.link("image/host-passwd", "../../../../../../../../etc/shadow")
	r.link("image/to-data", "/data/sub/../file")

	r.mount("overlay", "", "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/image,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
	r.must(os.Chmod(r.path("root/etc/passwd"), 0o600)) // copied up
	r.must(os.Remove(r.path("root/etc/shadow")))
	r.must(os.Remove(r.path("root/etc/motd")))
	r.write("root/etc/motd", 7)            // in place of the image's
	r.write("root/var/log/app.log", 10000) // added
	r.must(os.Remove(r.path("root/var/log/old")))

	log := "docker/containers/" + id + "/" + id + "-json.log"
	r.write(log, 5000)
	r.write(log+".1", 1000)
	r.details = resolver.Details{
		ID: id, Name: "api", Image: "api:1", State: resolver.StateRunning, PID: pid, Driver: "overlay2",
		CreatedAt: time.Unix(1000, 0), StartedAt: time.Unix(1001, 0),
		DriverData: map[string]string{"UpperDir": r.path("upper"), "LowerDir": r.path("image")},
		LogDriver:  "json-file", LogPath: r.path(log),
	}
	return r
}

// withMounts adds a mount of each kind.
func withMounts(t *testing.T) *rig {
	r := newRig(t)
	r.write("volumes/named/file", 1234)
	r.write("volumes/named/sub/f", 10)
	r.write("volumes/named/part/of/it", 11)
	r.write("volumes/"+strings.Repeat("d", 64)+"/f", 22)
	r.write("srv/bind/f", 33)
	r.write("srv/config", 44)
	r.write("docker/containers/x/hosts", 55)
	r.write("tools/bin/tool", 66)

	r.bind("volumes/named", "/data", resolver.DeclaredMount{Type: "volume", Name: "named", Destination: "/data"})
	r.bind("volumes/"+strings.Repeat("d", 64), "/data/anonymous", resolver.DeclaredMount{
		Type: "volume", Name: strings.Repeat("d", 64), Destination: "/data/anonymous", Anonymous: true,
	})
	r.bind("srv/bind", "/run/b", resolver.DeclaredMount{Type: "bind", Destination: "/var/run/b"})
	r.bind("srv/config", "/etc/app.conf", resolver.DeclaredMount{Type: "bind", Destination: "/etc/app.conf", ReadOnly: true})
	r.bind("docker/containers/x/hosts", "/etc/hosts", resolver.DeclaredMount{})
	r.details.HostsPath = r.path("docker/containers/x/hosts")
	r.write("docker/containers/"+r.details.ID+"/other", 5)
	r.bind("docker/containers", "/docker", resolver.DeclaredMount{Type: "bind", Destination: "/docker"})
	r.bind("upper", "/own-layer", resolver.DeclaredMount{Type: "bind", Destination: "/own-layer"})
	r.must(os.MkdirAll(r.path("root/scratch"), 0o755))
	r.mount("tmpfs", "/scratch", "tmpfs", 0, "size=1m")
	r.details.Tmpfs = []string{"/scratch"}
	r.write("root/scratch/f", 4096)
	r.must(os.MkdirAll(r.path("root/image"), 0o755))
	r.mount("overlay", "/image", "overlay", unix.MS_RDONLY, fmt.Sprintf("lowerdir=%s:%s", r.path("tools"), r.path("srv")))
	r.details.Mounts = append(r.details.Mounts, resolver.DeclaredMount{Type: "image", Name: "tools:2", Destination: "/image", ReadOnly: true})

	// As Docker mounts secrets: files of a tmpfs that it has mounted for itself.
	own := "docker/containers/" + r.details.ID + "/mounts/secrets"
	r.must(os.MkdirAll(r.path(own), 0o755))
	r.must(unix.Mount("tmpfs", r.path(own), "tmpfs", 0, ""))
	r.Cleanup(func() { r.must(unix.Unmount(r.path(own), unix.MNT_DETACH)) })
	r.write(own+"/xyz", 77)
	r.bind(own+"/xyz", "/run/secrets/token", resolver.DeclaredMount{})

	// A bind of what holds another container's root.
	for _, d := range []string{"other/merged", "other/upper", "other/work", "root/other"} {
		r.must(os.MkdirAll(r.path(d), 0o755))
	}
	r.must(unix.Mount("overlay", r.path("other/merged"), "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/image,upperdir=%[1]s/other/upper,workdir=%[1]s/other/work", r.dir)))
	r.Cleanup(func() { r.must(unix.Unmount(r.path("other/merged"), unix.MNT_DETACH)) })
	r.mount(r.path("other"), "/other", "", unix.MS_BIND|unix.MS_REC, "")
	r.details.Mounts = append(r.details.Mounts, resolver.DeclaredMount{Type: "bind", Source: r.path("other"), Destination: "/other"})

	// Made by a process of the container since, one over a file of 99 bytes.
	r.write("root/late/hidden", 99)
	r.must(os.MkdirAll(r.path("root/late"), 0o755))
	r.must(os.MkdirAll(r.path("root/layer-again"), 0o755))
	r.mount(r.path("root/data/part"), "/late", "", unix.MS_BIND, "")
	r.mount(r.path("root/var/log"), "/layer-again", "", unix.MS_BIND, "")
	return r
}

// engine knows the rig's container.
type engine struct{ details resolver.Details }

func (engine) Info(context.Context) (resolver.EngineInfo, error) { return resolver.EngineInfo{}, nil }
func (e engine) List(context.Context) ([]resolver.Listed, error) {
	return []resolver.Listed{{ID: e.details.ID, Name: e.details.Name}}, nil
}
func (e engine) Inspect(context.Context, string) (resolver.Details, error) { return e.details, nil }
func (engine) Close() error                                                { return nil }
func (engine) Events(context.Context) (<-chan resolver.Event, <-chan error) {
	failed := make(chan error, 1)
	failed <- io.EOF
	return nil, failed
}

// proc writes the files of the container's process and of the host, as they are now.
func (r *rig) proc() {
	r.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	r.must(err)
	// The host sees the container's root, but not what is mounted in it.
	var own, host strings.Builder
	root := r.path("root")
	for line := range strings.Lines(string(table)) {
		fields := strings.SplitN(line, " ", 6)
		point, inside := strings.CutPrefix(fields[4], root)
		if inside = inside && (point == "" || point[0] == '/'); inside {
			fields[4] = point
			if point == "" {
				fields[4], fields[1] = "/", "1"
			}
			own.WriteString(strings.Join(fields, " "))
		}
		if !inside || point == "" {
			host.WriteString(line)
		}
	}
	r.must(os.WriteFile(r.path("proc/self/mountinfo"), []byte(host.String()), 0o644))
	process := fmt.Sprintf("proc/%d", pid)
	r.must(os.MkdirAll(r.path(process+"/fd"), 0o755))
	r.must(os.WriteFile(r.path(process+"/mountinfo"), []byte(own.String()), 0o644))
	for name, target := range map[string]string{"/root": root, "/fd/1": "pipe:[1]", "/fd/2": "/var/log/app.log"} {
		_ = os.Remove(r.path(process + name))
		r.link(process+name, target)
	}
}

// ask explains a path of the container, running or not, and holds the answer
// against the schema.
func (r *rig) ask(running bool, path string) (*Answer, error) {
	r.Helper()
	r.proc()
	d := r.details
	if !running {
		d.PID, d.State = 0, resolver.StateExited
	}
	res, err := resolver.New(resolver.Config{Log: zerolog.Nop(), Engine: engine{d}, ProcRoot: r.path("proc")})
	r.must(err)
	defer res.Close()
	c, err := res.Find(r.Context(), "api")
	r.must(err)
	a, err := Explain(r.Context(), Config{
		Container: c, Path: path, Now: time.Unix(2000, 5), ProcRoot: r.path("proc"), HostPath: res.HostPath,
	})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(a)
	r.must(err)
	if err := outputtest.ValidateExplanation(text); err != nil {
		r.Errorf("%s: %v", path, err)
	}
	if words := a.Text(false); strings.Contains(words, "%!") || strings.Contains(words, "\x1b") || !strings.HasSuffix(words, "\n") {
		r.Errorf("%s:\n%s", path, words)
	}
	return a, nil
}
