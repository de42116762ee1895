package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/layertrace/layertrace/internal/record"
)

// fakeContainerd is a containerd in memory.
type fakeContainerd struct {
	containers map[string][]*containersapi.Container // by namespace
	tasks      map[string][]*task.Process
	mounts     map[string][]*types.Mount // by namespace/snapshotter/key
	noStat     error                     // what asking for a snapshot fails with
	events     chan *types.Envelope

	mu    sync.Mutex
	calls []string
}

// snapshotMade is when all its snapshots were made.
var snapshotMade = time.Unix(1_700_000_000, 5).UTC()

func namespaceOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("containerd-namespace"), "")
}

// The methods of several services have the same names.
type (
	fakeContainers struct {
		containersapi.UnimplementedContainersServer
		*fakeContainerd
	}
	fakeTasks struct {
		tasksapi.UnimplementedTasksServer
		*fakeContainerd
	}
	fakeNamespaces struct {
		namespacesapi.UnimplementedNamespacesServer
		*fakeContainerd
	}
	fakeSnapshots struct {
		snapshotsapi.UnimplementedSnapshotsServer
		*fakeContainerd
	}
	fakeEvents struct {
		eventsapi.UnimplementedEventsServer
		*fakeContainerd
	}
	fakeVersion struct {
		versionapi.UnimplementedVersionServer
		*fakeContainerd
	}
)

func (fakeVersion) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: "v1.7.24"}, nil
}

func (f fakeNamespaces) List(context.Context, *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	answer := &namespacesapi.ListNamespacesResponse{}
	for name := range f.containers {
		answer.Namespaces = append(answer.Namespaces, &namespacesapi.Namespace{Name: name})
	}
	slices.SortFunc(answer.Namespaces, func(a, b *namespacesapi.Namespace) int { return strings.Compare(a.Name, b.Name) })
	return answer, nil
}

func (f fakeContainers) List(ctx context.Context, _ *containersapi.ListContainersRequest) (*containersapi.ListContainersResponse, error) {
	return &containersapi.ListContainersResponse{Containers: f.containers[namespaceOf(ctx)]}, nil
}

func (f fakeContainers) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	f.mu.Lock()
	f.calls = append(f.calls, "get "+r.ID)
	f.mu.Unlock()
	for _, c := range f.containers[namespaceOf(ctx)] {
		if c.ID == r.ID {
			return &containersapi.GetContainerResponse{Container: c}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "not found")
}

func (f fakeTasks) List(ctx context.Context, _ *tasksapi.ListTasksRequest) (*tasksapi.ListTasksResponse, error) {
	return &tasksapi.ListTasksResponse{Tasks: f.tasks[namespaceOf(ctx)]}, nil
}

func (f fakeTasks) Get(ctx context.Context, r *tasksapi.GetRequest) (*tasksapi.GetResponse, error) {
	for _, p := range f.tasks[namespaceOf(ctx)] {
		if p.ID == r.ContainerID {
			return &tasksapi.GetResponse{Process: p}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "not found")
}

func (f fakeSnapshots) Mounts(ctx context.Context, r *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	mounts := f.mounts[namespaceOf(ctx)+"/"+r.Snapshotter+"/"+r.Key]
	if mounts == nil {
		return nil, status.Error(codes.NotFound, "not found")
	}
	return &snapshotsapi.MountsResponse{Mounts: mounts}, nil
}

func (f fakeSnapshots) Stat(ctx context.Context, r *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	if f.noStat != nil {
		return nil, f.noStat
	}
	if f.mounts[namespaceOf(ctx)+"/"+r.Snapshotter+"/"+r.Key] == nil {
		return nil, status.Error(codes.NotFound, "not found")
	}
	return &snapshotsapi.StatSnapshotResponse{Info: &snapshotsapi.Info{CreatedAt: timestamppb.New(snapshotMade)}}, nil
}

func (f fakeEvents) Subscribe(_ *eventsapi.SubscribeRequest, stream eventsapi.Events_SubscribeServer) error {
	for {
		select {
		case e := <-f.events:
			if e == nil {
				return status.Error(codes.Unavailable, "shutting down")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// serve lets it listen.
func (f *fakeContainerd) serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	containersapi.RegisterContainersServer(server, fakeContainers{fakeContainerd: f})
	tasksapi.RegisterTasksServer(server, fakeTasks{fakeContainerd: f})
	namespacesapi.RegisterNamespacesServer(server, fakeNamespaces{fakeContainerd: f})
	snapshotsapi.RegisterSnapshotsServer(server, fakeSnapshots{fakeContainerd: f})
	eventsapi.RegisterEventsServer(server, fakeEvents{fakeContainerd: f})
	versionapi.RegisterVersionServer(server, fakeVersion{fakeContainerd: f})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return socket
}

func newFakeContainerd() *fakeContainerd {
	spec := `{"mounts":[
		{"destination":"/etc/hosts","type":"bind","source":"/var/lib/kubelet/pods/u/etc-hosts","options":["rbind"]},
		{"destination":"/cache","type":"bind","source":"/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache","options":["rbind","ro"]},
		{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]}`
	return &fakeContainerd{
		containers: map[string][]*containersapi.Container{
			"k8s.io": {{
				ID: id("c"), Image: "docker.io/library/nginx:1", Snapshotter: "overlayfs", SnapshotKey: id("c"),
				Labels: map[string]string{
					"io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.name": "web-0",
					"io.kubernetes.pod.uid": "u", "io.kubernetes.container.name": "nginx",
				},
				Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(spec)},
			}},
			"default": {
				{ID: "box", Snapshotter: "overlayfs", SnapshotKey: "box-rw"},
				{ID: id("d"), Labels: map[string]string{"nerdctl/name": "db"}, Spec: &anypb.Any{Value: []byte("{broken")}},
			},
			"moby": {{ID: id("e")}},
		},
		tasks: map[string][]*task.Process{"k8s.io": {{ID: id("c"), Pid: uint32(os.Getpid()), Status: task.Status_RUNNING}}, "default": {{ID: "box", Pid: 7, Status: task.Status_STOPPED}}},
		mounts: map[string][]*types.Mount{
			"default/overlayfs/box-rw": {{Type: "overlay", Source: "overlay", Options: []string{"workdir=/s/1/work", "upperdir=/s/1/fs", "lowerdir=/s/0/fs"}}},
		},
		events: make(chan *types.Envelope, 8),
	}
}

func TestContainerd(t *testing.T) {
	f := newFakeContainerd()
	var log strings.Builder
	e, err := NewContainerd(ContainerdConfig{Socket: f.serve(t), Log: zerolog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx := t.Context()
	// Before anything was listed.
	first, err := e.Inspect(ctx, id("c"))
	if err != nil {
		t.Fatal(err)
	}
	if first.StartedAt.IsZero() {
		t.Error("a task that runs has no start")
	}
	first.StartedAt = time.Time{}
	want := Details{
		ID: id("c"), Name: "shop/web-0/nginx", Image: "docker.io/library/nginx:1", Runtime: RuntimeContainerd,
		State: StateRunning, PID: os.Getpid(), Driver: "overlayfs", DriverData: map[string]string{snapshotKey: id("c")},
		Labels: f.containers["k8s.io"][0].Labels, HostsPath: "/var/lib/kubelet/pods/u/etc-hosts", Tmpfs: []string{"/tmp"},
		Mounts: []DeclaredMount{{"volume", "cache", "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache", "/cache", true, false, ""}},
	}
	if !reflect.DeepEqual(first, want) {
		t.Errorf("got  %+v\nwant %+v", first, want)
	}
	listed, err := e.List(ctx)
	if want := []Listed{{"default/box", "box", StateExited}, {id("d"), "db", StateCreated}, {id("c"), "shop/web-0/nginx", StateRunning}}; err != nil || !reflect.DeepEqual(listed, want) {
		t.Errorf("listed %+v, %v\nwant %+v", listed, err, want)
	}
	box, err := e.Inspect(ctx, "default/box")
	if err != nil || box.PID != 0 || box.State != StateExited || !box.CreatedAt.Equal(snapshotMade) {
		t.Errorf("%+v, %v", box, err)
	}
	if layer, err := e.(layerFinder).FindLayer(ctx, box); !reflect.DeepEqual(layer, foundLayer{"/s/1/fs", false, []string{"/s/0/fs"}}) || err != nil {
		t.Errorf("%+v, %v", layer, err)
	}
	if layer, err := e.(layerFinder).FindLayer(ctx, first); layer.upperDir != "" || err != nil {
		t.Errorf("of a snapshot that is gone: %+v, %v", layer, err)
	}
	for range 2 {
		if broken, err := e.Inspect(ctx, id("d")); err != nil || broken.Name != "db" {
			t.Errorf("with a broken specification: %+v, %v", broken, err)
		}
	}
	// The program that keeps the layers is away.
	f.noStat = status.Error(codes.Unavailable, "connection refused")
	for range 2 {
		if box, err := e.Inspect(ctx, "default/box"); err != nil || box.Name != "box" || !box.CreatedAt.IsZero() {
			t.Errorf("without a time: %+v, %v", box, err)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), id("d")) || !strings.Contains(log.String(), "default/box") {
		t.Errorf("logged:\n%s", log.String())
	}
	var gone *NotFoundError
	for _, none := range []string{"default/none", id("e"), "x"} {
		if _, err := e.Inspect(ctx, none); !errors.As(err, &gone) {
			t.Errorf("%s: %v", none, err)
		}
	}
	info, err := e.Info(ctx)
	if err != nil || info.Version != "1.7.24" || info.Containers != 3 {
		t.Errorf("%+v, %v", info, err)
	}
	f.calls = nil
	if _, err := e.Inspect(ctx, id("c")); err != nil || len(f.calls) != 1 {
		t.Errorf("one look at a container made the calls %v, %v", f.calls, err)
	}
}

// TestRuntimeSpec: what config.json tells of a container.
func TestRuntimeSpec(t *testing.T) {
	made := strings.Repeat("0123456789abcdef", 4)
	spec, err := parseSpec([]byte(`{"root":{"path":"rootfs","readonly":true},"mounts":[
		{"destination":"/made","type":"bind","source":"/var/lib/containers/storage/volumes/` + made + `/_data","options":["rbind"]},
		{"destination":"/named","type":"bind","source":"/home/ann/.local/share/containers/storage/volumes/db/_data","options":["rbind"]},
		{"destination":"/nerd","type":"bind","source":"/var/lib/nerdctl/1935db59/volumes/default/` + made + `/_data","options":["rbind"]},
		{"destination":"/pod","type":"bind","source":"/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/` + made + `","options":["rbind"]},
		{"destination":"/bind","type":"bind","source":"/srv/` + made + `","options":["rbind"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var d Details
	spec.apply(&d)
	got := make(map[string]string)
	for _, m := range d.Mounts {
		got[m.Destination] = fmt.Sprint(m.Type, " ", m.Name, " ", m.Anonymous)
	}
	want := map[string]string{
		"/made": "volume " + made + " true", "/named": "volume db false", "/nerd": "volume " + made + " true",
		"/pod": "volume " + made + " false", "/bind": "bind  false",
	}
	if !reflect.DeepEqual(got, want) || !d.ReadOnlyRoot {
		t.Errorf("read-only %v, %v\nwant %v", d.ReadOnlyRoot, got, want)
	}
}

func envelope(t *testing.T, namespace string, m proto.Message) *types.Envelope {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &types.Envelope{
		Timestamp: timestamppb.New(time.Unix(5, 0)), Namespace: namespace,
		Event: &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value},
	}
}

func TestContainerdEvents(t *testing.T) {
	f := newFakeContainerd()
	var log strings.Builder
	e, err := NewContainerd(ContainerdConfig{Socket: f.serve(t), Log: zerolog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	events, failed := e.Events(t.Context())
	for _, sent := range []*types.Envelope{
		envelope(t, "default", &eventtypes.ContainerCreate{ID: "box"}),
		envelope(t, "moby", &eventtypes.ContainerCreate{ID: id("e")}),
		{Namespace: "default", Event: &anypb.Any{TypeUrl: "containerd.events.TaskStart", Value: []byte("\xff\xff")}},
		{Namespace: "default", Event: &anypb.Any{TypeUrl: "nobody.knows.This"}},
		{Namespace: "default", Event: &anypb.Any{TypeUrl: "nobody.knows.This"}},
		envelope(t, "default", &eventtypes.TaskExit{ContainerID: "box", ID: "exec-1"}),
		envelope(t, "default", &eventtypes.TaskExit{ContainerID: "box", ID: "box"}),
		nil, // the daemon ends
	} {
		f.events <- sent
	}
	for _, want := range []Event{{ID: "default/box", Action: "create", Time: time.Unix(5, 0)}, {ID: "default/box", Action: "die", Time: time.Unix(5, 0)}} {
		select {
		case got := <-events:
			if got.ID != want.ID || got.Action != want.Action || !got.Time.Equal(want.Time) {
				t.Errorf("event %+v, want %+v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event %+v", want)
		}
	}
	select {
	case err := <-failed:
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("the end of the stream: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the stream is not told")
	}
	// Those that can not be read are told of, once.
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "nobody.knows.This") {
		t.Errorf("logged:\n%s", log.String())
	}
}

// TestContainerdGarbage: what listens on the socket is no containerd, or breaks off.
func TestContainerdGarbage(t *testing.T) {
	for name, answer := range map[string]string{
		"silence": "", "text": "HTTP/1.1 400 Bad Request\r\n\r\nwhat?", "frames": "\x00\x00\x12\x04\x00\x00\x00\x00\x00garbage that is longer",
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Write([]byte(answer))
					conn.Close()
				}
			}()
			e, err := NewContainerd(ContainerdConfig{Socket: socket})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if _, err := e.List(t.Context()); !errors.Is(err, ErrUnreachable) {
				t.Errorf("listing: %v", err)
			}
			_, failed := e.Events(t.Context())
			if err := <-failed; !errors.Is(err, ErrUnreachable) {
				t.Errorf("events: %v", err)
			}
		})
	}
	missing, err := NewContainerd(ContainerdConfig{Socket: "/nonexistent/s"})
	if err != nil {
		t.Fatal(err)
	}
	defer missing.Close()
	if _, err := missing.List(t.Context()); !errors.Is(err, ErrUnreachable) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// TestContainerdFromContainer: its socket is below the host's root directory, for
// Docker's own containerd as well, whose address dockerd tells.
func TestContainerdFromContainer(t *testing.T) {
	f := newFakeContainerd()
	socket := f.serve(t)
	root := filepath.Dir(socket)
	if err := os.Symlink("/", filepath.Join(root, "run")); err != nil {
		t.Fatal(err)
	}
	e, err := NewContainerd(ContainerdConfig{Socket: "/run/s", HostRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if info, err := e.Info(t.Context()); err != nil || info.Host != "unix:///run/s" {
		t.Errorf("%+v, %v", info, err)
	}
	f.mounts["default/overlayfs/"+id("a")] = f.mounts["default/overlayfs/box-rw"]
	dockerd, _ := daemon(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"Containerd":{"Address":"/run/s","Namespaces":{"Containers":"default"}}}`)
	})
	dockerd.(*docker).hostRoot = root
	if layer, err := dockerd.(layerFinder).FindLayer(t.Context(), Details{ID: id("a"), Driver: "overlayfs"}); err != nil || layer.upperDir != "/s/1/fs" {
		t.Errorf("%+v, %v", layer, err)
	}
}

// TestLayerOfStopped: neither the API nor a mount table tells where the layer of a
// container is that does not run; containerd does.
func TestLayerOfStopped(t *testing.T) {
	upper := filepath.Join(t.TempDir(), "fs")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFakeContainerd()
	f.mounts["default/overlayfs/box-rw"][0].Options = []string{"upperdir=" + upper, "lowerdir=/image/2:/image/1"}
	e, err := NewContainerd(ContainerdConfig{Socket: f.serve(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r, err := New(Config{Log: zerolog.Nop(), Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := r.Find(t.Context(), "box")
	if err != nil || c.LayerErr != nil || c.UpperDir != upper || !slices.Equal(c.LowerDirs, []string{"/image/2", "/image/1"}) {
		t.Errorf("%+v, %v", c, err)
	}
	if got, want := c.Record(), (record.Container{ID: "default/box", Name: "box", Runtime: "containerd"}); got != want {
		t.Errorf("record %+v, want %+v", got, want)
	}
	pod, err := r.Find(t.Context(), "shop/web-0/nginx")
	if k := pod.Record().Kubernetes; err != nil || k == nil || *k != (record.Kubernetes{Namespace: "shop", Pod: "web-0", PodUID: "u", Container: "nginx"}) {
		t.Errorf("%+v, %v", pod.Record(), err)
	}
}

// TestPlainSnapshots: a snapshot that is bound as it is, by the snapshotter native or
// because the image has no layers, is a plain directory, running or not.
func TestPlainSnapshots(t *testing.T) {
	for _, test := range []struct {
		name, driver string
		process      *task.Process
	}{
		{"native, created", "native", nil},
		{"native, running", "native", &task.Process{ID: "box", Pid: 4200, Status: task.Status_RUNNING}},
		{"an image without layers, created", "overlayfs", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			h.process(4200, "scratch.mountinfo", "/default/box")
			upper := h.dir("docker/snapshots/12/fs")
			f := newFakeContainerd()
			f.containers = map[string][]*containersapi.Container{"default": {{ID: "box", Snapshotter: test.driver, SnapshotKey: "box"}}}
			f.tasks = map[string][]*task.Process{}
			if test.process != nil {
				f.tasks["default"] = []*task.Process{test.process}
			}
			f.mounts["default/"+test.driver+"/box"] = []*types.Mount{{Type: "bind", Source: upper, Options: []string{"rbind", "rw"}}}
			e, err := NewContainerd(ContainerdConfig{Socket: f.serve(t)})
			h.must(err)
			defer e.Close()
			c, err := h.resolver(e).Find(t.Context(), "box")
			h.must(err)
			if c.LayerErr != nil || c.UpperDir != upper || !c.Plain || !c.HoldsImage() || c.Running() != (test.process != nil) {
				t.Errorf("plain: %v, running: %v, upper directory %s, %v", c.Plain, c.Running(), c.UpperDir, c.LayerErr)
			}
		})
	}
}

func FuzzRuntimeSpec(f *testing.F) {
	f.Add([]byte(`{"root":{"path":"/g/overlay/x/merged","readonly":true},"annotations":{"io.kubernetes.pod.name":"p"},"mounts":[
		{"destination":"/etc/../etc/hosts","type":"bind","source":"/h","options":["ro"]},{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]}`))
	f.Add([]byte(`{"mounts":[{"destination":"/a","source":"/k/pods/u/volumes/kubernetes.io~secret/s","options":["rbind"]},
		{"destination":"b","type":"bind","source":"/v/volumes/` + id("a") + `/_data"},{"type":"bind","source":"/volumes/../_data"},{"type":"bind"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := parseSpec(data)
		if err != nil {
			return
		}
		var d Details
		spec.apply(&d)
		binds := 0
		for _, m := range spec.Mounts {
			if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
				binds++
			}
		}
		files := 0
		for _, name := range []string{d.HostnamePath, d.HostsPath, d.ResolvConfPath} {
			if name != "" {
				files++
			}
		}
		if len(d.Mounts)+files > binds || d.ReadOnlyRoot != spec.Root.Readonly {
			t.Errorf("%+v of %s", d, data)
		}
		for _, m := range d.Mounts {
			if m.Type != "bind" && (m.Type != "volume" || m.Name == "" || !slices.Contains(strings.Split(path.Clean(m.Source), "/"), m.Name)) ||
				m.Type == "bind" && m.Name != "" || m.Anonymous && !isMadeUp(m.Name) {
				t.Errorf("%+v", m)
			}
		}
		for _, m := range declaredMounts(d) {
			if m.Class == "" || !path.IsAbs(m.Destination) {
				t.Errorf("%+v", m)
			}
		}
	})
}

func FuzzTaskEvent(f *testing.F) {
	for _, m := range []proto.Message{
		&eventtypes.ContainerCreate{ID: "box"}, &eventtypes.ContainerDelete{ID: id("a")}, &eventtypes.ContainerUpdate{ID: "box"},
		&eventtypes.TaskStart{ContainerID: "box", Pid: 7}, &eventtypes.TaskExit{ContainerID: "box", ID: "box"},
		&eventtypes.TaskExit{ContainerID: "box", ID: "exec"}, &eventtypes.TaskPaused{ContainerID: "box"}, &eventtypes.TaskResumed{ContainerID: "box"},
		&eventtypes.TaskOOM{ContainerID: "box"},
	} {
		value, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(m.ProtoReflect().Descriptor().FullName()), value)
	}
	f.Add("type.googleapis.com/containerd.events.TaskExit", []byte("\xff"))
	f.Add("nobody.knows.This", []byte{})
	f.Fuzz(func(t *testing.T, kind string, value []byte) {
		name, action, err := taskEvent(&anypb.Any{TypeUrl: kind, Value: value})
		if name != "" && (action == "" || err != nil) || !bytes.Contains(value, []byte(name)) {
			t.Errorf("%q %q of %s", action, name, kind)
		}
		c := containerd{namespaces: make(map[string]string)}
		event, ok := c.translate(&types.Envelope{Namespace: "default", Event: &anypb.Any{TypeUrl: kind, Value: value}})
		switch {
		case ok != (name != ""), ok && event.Action != action:
			t.Errorf("%+v, %v", event, ok)
		case ok && event.ID != name && event.ID != "default/"+name:
			t.Errorf("id %q of %q", event.ID, name)
		}
	})
}
