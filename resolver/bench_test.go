package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// crowd is a host with many running containers of the overlay2 driver, whose
// runtime takes a millisecond for an answer.
type crowd struct {
	*host
	engine *patientEngine
	r      *Resolver
}

// patientEngine takes its time.
type patientEngine struct{ *fakeEngine }

func (e patientEngine) Inspect(ctx context.Context, id string) (Details, error) {
	time.Sleep(time.Millisecond)
	return e.fakeEngine.Inspect(ctx, id)
}

func newCrowd(t testing.TB, count int) *crowd {
	h := newHost(t)
	container := h.fixture("overlay2.mountinfo")
	var table strings.Builder
	table.WriteString(h.fixture("host.mountinfo"))
	lower := strings.Repeat("/var/lib/docker/overlay2/l/ABCDEFGHIJKLMNOPQRSTUVWXYZ:", 12)
	e := newFakeEngine()
	for i := range count {
		d := Details{
			ID: fmt.Sprintf("%064x", i+1), Name: fmt.Sprintf("c%04d", i), State: StateRunning, PID: 10_000 + i,
			StartedAt: time.Unix(1_700_000_000, 0), Driver: "overlay2",
		}
		upper := h.dir(fmt.Sprintf("docker/overlay2/%04d/diff", i))
		d.DriverData = map[string]string{"UpperDir": upper}
		fmt.Fprintf(&table, "%d 25 0:%d / %s/docker/overlay2/%04d/merged rw,relatime shared:%d - overlay overlay rw,lowerdir=%s,upperdir=%s,workdir=%s\n",
			10_000+i, 1000+i, h.root, i, 500+i, lower, upper, upper)
		fmt.Fprintf(&table, "%d 25 0:4 net:[402653%d] /run/docker/netns/%012x rw shared:%d - nsfs nsfs rw\n", 50_000+i, i, i, 5000+i)
		proc := fmt.Sprintf("proc/%d", d.PID)
		h.file(proc+"/mountinfo", container)
		h.file(proc+"/cgroup", "0::/docker/"+d.ID+"\n")
		h.must(os.Symlink(upper, filepath.Join(h.root, proc, "root")))
		h.dir("cgroup/docker/" + d.ID)
		e.containers[d.ID] = d
	}
	h.file("proc/self/mountinfo", table.String())
	c := &crowd{host: h, engine: &patientEngine{e}}
	r, err := New(Config{Log: zerolog.Nop(), Engine: c.engine, ProcRoot: h.root + "/proc"})
	h.must(err)
	t.Cleanup(func() { h.must(r.Close()) })
	// As the kernel's own file would say.
	r.host.changed = func(*os.File) bool { return false }
	c.r = r
	return c
}

// BenchmarkFind is the resolving of one container among a thousand.
func BenchmarkFind(b *testing.B) {
	c := newCrowd(b, 1000)
	for b.Loop() {
		if _, err := c.r.Refresh(b.Context(), fmt.Sprintf("%064x", 500)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(c.engine.inspected)/float64(b.N), "calls/op")
}

// BenchmarkWatchAll is the start of a Watch of a thousand containers.
func BenchmarkWatchAll(b *testing.B) {
	const count = 1000
	c := newCrowd(b, count)
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		found := 0
		sel := Selection{All: true, Synced: cancel}
		err := c.r.Watch(ctx, sel, func(change Change) {
			if change.Container.LayerErr != nil {
				b.Errorf("%+v", change)
			}
			found++
		})
		if err != nil || found != count {
			b.Fatalf("found %d, %v", found, err)
		}
	}
	b.ReportMetric(float64(c.engine.inspected)/float64(b.N*count), "calls/container")
}

// BenchmarkStorageLook is what podman and CRI-O with a thousand containers cost five
// times a second: half of them are CRI-O's, one in five does not run.
func BenchmarkStorageLook(b *testing.B) {
	const count = 1000
	dir := b.TempDir()
	store := Store{Graph: filepath.Join(dir, "graph"), Run: filepath.Join(dir, "run")}
	syscalls := strings.Repeat(`{"names":["read","write","openat","close"],"action":"SCMP_ACT_ALLOW"},`, 300)
	config := []byte(`{"linux":{"seccomp":{"syscalls":[` + strings.TrimSuffix(syscalls, ",") + `]}},
		"annotations":{"io.kubernetes.pod.name":"db-0","io.kubernetes.pod.namespace":"shop","io.kubernetes.container.name":"db"}}`)
	file := func(name string, data []byte) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
			b.Fatal(err)
		}
	}
	var list []storedContainer
	for i := range count {
		c := storedContainer{
			ID: fmt.Sprintf("%064x", i), Names: []string{fmt.Sprintf("c%04d", i)}, Image: "1", Layer: fmt.Sprintf("%064x", i),
			Metadata: `{"image-name":"docker.io/library/nginx:1","name":"c"}`,
		}
		if i%2 == 0 {
			c.Metadata = `{"image-name":"pg:1","pod-name":"db-0"}`
		}
		list = append(list, c)
		file(filepath.Join(store.Graph, "overlay-containers", c.ID, "userdata/config.json"), config)
		if i%5 != 0 {
			file(filepath.Join(store.Run, "overlay-containers", c.ID, "userdata/pidfile"), []byte(strconv.Itoa(os.Getpid())))
		}
	}
	data, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	file(filepath.Join(store.Graph, "overlay-containers/containers.json"), data)
	e, err := NewStorage(StorageConfig{Stores: []Store{store}})
	if err != nil {
		b.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the files are not new
	if _, err := e.(*storage).look(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if now, err := e.(*storage).look(); err != nil || len(now) != count {
			b.Fatal(len(now), err)
		}
	}
}
