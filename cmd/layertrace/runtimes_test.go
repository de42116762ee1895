package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/resolver"
)

// machine is a root directory in which runtimes are looked for.
type machine struct {
	*testing.T
	root string
	vars map[string]string
	log  *buffer
}

func newMachine(t *testing.T) *machine {
	// Paths of sockets are short.
	root, err := os.MkdirTemp("", "lt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	return &machine{T: t, root: root, vars: map[string]string{}, log: &buffer{}}
}

func (m *machine) file(name, text string) {
	m.Helper()
	name = filepath.Join(m.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o755)); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) listen(name string) net.Listener {
	m.Helper()
	name = filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.Fatal(err)
	}
	listener, err := net.Listen("unix", name)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { listener.Close() })
	return listener
}

// dead leaves the socket of a daemon that was killed.
func (m *machine) dead(name string) {
	m.Helper()
	listener := m.listen(name)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
}

// docker runs a daemon that has one container, called web.
func (m *machine) docker(name string) {
	m.Helper()
	id := sessiontest.ID("d0")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			fmt.Fprintf(w, `[{"Id":%q,"Names":["/web"],"State":"created"}]`, id)
		case strings.HasSuffix(r.URL.Path, id+"/json"):
			fmt.Fprintf(w, `{"Id":%q,"Name":"/web","State":{"Status":"created"}}`, id)
		case strings.HasSuffix(r.URL.Path, "/events"):
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			fmt.Fprint(w, "{}")
		}
	})}
	listener := m.listen(name)
	go func() { _ = server.Serve(listener) }()
	m.Cleanup(func() { server.Close() })
}

// noNamespaces is a containerd that has nothing yet.
type noNamespaces struct {
	eventsapi.UnimplementedEventsServer
	namespacesapi.UnimplementedNamespacesServer
	versionapi.UnimplementedVersionServer
}

func (noNamespaces) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: "1.7"}, nil
}

func (noNamespaces) List(context.Context, *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	return &namespacesapi.ListNamespacesResponse{}, nil
}

func (noNamespaces) Subscribe(_ *eventsapi.SubscribeRequest, stream eventsapi.Events_SubscribeServer) error {
	<-stream.Context().Done()
	return nil
}

func (m *machine) containerd(name string) {
	m.Helper()
	server := grpc.NewServer()
	eventsapi.RegisterEventsServer(server, noNamespaces{})
	namespacesapi.RegisterNamespacesServer(server, noNamespaces{})
	versionapi.RegisterVersionServer(server, noNamespaces{})
	listener := m.listen(name)
	go func() { _ = server.Serve(listener) }()
	m.Cleanup(server.Stop)
}

// podman makes a store that has one container.
func (m *machine) podman(graph, container string) {
	m.Helper()
	m.file(graph+"/overlay-containers/containers.json", fmt.Sprintf(`[{"id":%q,"names":[%q],"layer":%[1]q,"image":"i"}]`, sessiontest.ID(fmt.Sprintf("%x", container)), container))
}

const (
	systemStore = "var/lib/containers/storage"
	dockerPath  = "run/docker.sock"
)

// runtimes starts what is to be had there, with --runtime auto.
func (m *machine) runtimes() *runtimes {
	m.Helper()
	r := &runtimes{
		choice: runtimeChoice{runtimeFlags: runtimeFlags{name: runtimeAuto}, getenv: func(name string) string { return m.vars[name] }},
		places: places{
			root: m.root, docker: filepath.Join(m.root, dockerPath), path: "/usr/sbin:/usr/bin",
			stores: func() []resolver.Store { return resolver.FindStores(m.root) },
		},
		log: zerolog.New(m.log).Level(zerolog.InfoLevel),
	}
	if err := r.start(m.Context()); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() {
		if err := r.Close(); err != nil {
			m.Error(err)
		}
	})
	return r
}

// members names the runtimes that are asked.
func (r *runtimes) members() string {
	var names []string
	for _, e := range r.all() {
		names = append(names, e.member.Runtime)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestRuntimesExpected: a runtime that belongs to the machine is asked although it is
// down, and nobody is bothered with others.
func TestRuntimesExpected(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(m *machine)
		want string // members
		down string // which of them can not be reached
	}{
		{"nothing", func(*machine) {}, "docker", "docker"},
		{"docker", func(m *machine) { m.docker(dockerPath) }, "docker", ""},
		{"docker, killed", func(m *machine) { m.dead(dockerPath); m.podman(systemStore, "db") }, "docker podman", "docker"},
		{"docker, stopped", func(m *machine) {
			m.file("usr/bin/dockerd", "")
			m.file("var/lib/docker/engine-id", "")
			m.podman(systemStore, "db")
			m.containerd("run/containerd/containerd.sock")
		}, "containerd docker podman", "docker"},
		{"docker, stopped, its data elsewhere", func(m *machine) {
			m.file("usr/sbin/dockerd", "")
			m.file("etc/docker/daemon.json", `{"data-root": "/srv/docker"}`)
			m.file("srv/docker/engine-id", "")
			m.podman(systemStore, "db")
		}, "docker podman", "docker"},
		{"docker, never run", func(m *machine) { m.file("usr/bin/dockerd", ""); m.podman(systemStore, "db") }, "podman", ""},
		{"docker's client only", func(m *machine) {
			m.file("usr/bin/docker", "")
			m.file("var/lib/docker/engine-id", "")
			m.podman(systemStore, "db")
		}, "podman", ""},
		{"DOCKER_HOST", func(m *machine) {
			m.vars["DOCKER_HOST"] = "unix://" + m.root + "/other.sock"
			m.docker(dockerPath)
			m.podman(systemStore, "db")
		}, "docker podman", "docker"},
		{"a user's docker", func(m *machine) {
			m.file("usr/bin/dockerd", "")
			m.file("var/lib/docker/engine-id", "")
			m.docker("run/user/1000/docker.sock")
			m.dead("run/user/1001/docker.sock")
		}, "docker", ""},
		{"containerd", func(m *machine) { m.containerd("run/containerd/containerd.sock") }, "containerd", ""},
		{"containerd, stopped", func(m *machine) {
			m.file("usr/bin/containerd", "")
			m.file("var/lib/containerd/io.containerd.runtime.v2.task/k8s.io/x", "")
			m.podman(systemStore, "db")
		}, "containerd podman", "containerd"},
		{"docker's containerd, stopped", func(m *machine) {
			m.file("usr/bin/containerd", "")
			m.dead("run/containerd/containerd.sock")
			m.file("var/lib/containerd/io.containerd.runtime.v2.task/moby/x", "")
			m.podman(systemStore, "db")
		}, "podman", ""},
		{"containerd that was removed", func(m *machine) {
			m.file("var/lib/containerd/io.containerd.runtime.v2.task/default/x", "")
			m.podman(systemStore, "db")
		}, "podman", ""},
		{"CONTAINERD_ADDRESS", func(m *machine) {
			m.vars["CONTAINERD_ADDRESS"] = "/run/c.sock"
			m.podman(systemStore, "db")
		}, "containerd podman", "containerd"},
		{"one containerd, two names", func(m *machine) {
			m.containerd("run/k3s/containerd/containerd.sock")
			if err := errors.Join(os.Mkdir(m.root+"/run/containerd", 0o755),
				os.Symlink("/run/k3s/containerd/containerd.sock", m.root+"/run/containerd/containerd.sock")); err != nil {
				m.Fatal(err)
			}
		}, "containerd", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			test.set(m)
			r := m.runtimes()
			if got := r.members(); got != test.want {
				t.Errorf("members %q, want %q", got, test.want)
			}
			names, err := r.Names(t.Context())
			var of *resolver.RuntimeError
			switch {
			case test.down == "" && err != nil:
				t.Error(err)
			case test.down != "" && (!errors.As(err, &of) || of.Runtime != test.down || !errors.Is(err, resolver.ErrUnreachable) || !mayCome(err)):
				t.Errorf("%v, want %s to be down", err, test.down)
			}
			if !strings.Contains(test.want, "podman") {
				return
			}
			// What is there is found although others are down.
			if len(names) == 0 || names[len(names)-1].Name != "db" {
				t.Errorf("containers %+v", names)
			}
			if c, err := r.Find(t.Context(), "db"); err != nil || c.Name != "db" {
				t.Error(err)
			}
			var missing *resolver.NotFoundError
			if _, err := r.Find(t.Context(), "none"); errors.Is(err, resolver.ErrUnreachable) != (test.down != "") || errors.As(err, &missing) != (test.down == "") {
				t.Errorf("a container that is nowhere: %v", err)
			}
		})
	}
}

// wantLines holds what was logged against the lines that must be there.
func (m *machine) wantLines(what string, texts ...string) {
	m.Helper()
	log := m.log.String()
	if strings.Count(log, "\n") != len(texts) {
		m.Errorf("%s: logged, want %d lines:\n%s", what, len(texts), log)
	}
	for _, text := range texts {
		if !strings.Contains(log, text) {
			m.Errorf("%s: %q is not logged:\n%s", what, text, log)
		}
	}
}

// TestRuntimesTurnUp: what comes up while layertrace waits, or while it watches, is
// taken in, and said so once.
func TestRuntimesTurnUp(t *testing.T) {
	m := newMachine(t)
	r := m.runtimes()
	if _, err := r.Names(t.Context()); !mayCome(err) {
		t.Fatalf("nothing is there: %v", err)
	}
	m.containerd("run/containerd/containerd.sock")
	if _, err := r.Names(t.Context()); err == nil {
		t.Error("it was looked for at once again")
	}
	r.looked = time.Time{}
	if _, err := r.Names(t.Context()); err != nil || r.members() != "containerd" {
		t.Errorf("members %q, %v: nobody has to wait for what was but guessed", r.members(), err)
	}
	m.wantLines("containerd", `"runtime":"containerd"`)

	ctx, cancel := context.WithCancel(t.Context())
	found, done := make(chan string, 8), make(chan error)
	go func() {
		done <- r.Watch(ctx, resolver.Selection{All: true}, func(c resolver.Change) { found <- c.Container.Name })
	}()
	m.docker(dockerPath)
	m.podman(systemStore, "db")
	m.podman("home/ann/.local/share/containers/storage", "job")
	m.file("etc/passwd", fmt.Sprintf("ann:x:%d:1000::/home/ann:/bin/sh\n", os.Getuid())) // whose files these are
	for range 2 {
		r.lookAgain(ctx, 0, zerolog.WarnLevel)
	}
	if r.members() != "containerd docker podman" {
		t.Errorf("members %q", r.members())
	}
	m.wantLines("docker and podman", `"runtime":"containerd"`, `"runtime":"docker"`, `"runtime":"podman"`)
	var names []string
	for range 3 {
		select {
		case name := <-found:
			names = append(names, name)
		case <-time.After(10 * time.Second):
			t.Fatalf("found %v only", names)
		}
	}
	slices.Sort(names)
	if fmt.Sprint(names) != "[db job web]" {
		t.Errorf("found %v", names)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRuntimeComesBack: one that is expected is a member from the beginning, under one
// name for good.
func TestRuntimeComesBack(t *testing.T) {
	m := newMachine(t)
	m.file("usr/bin/dockerd", "")
	m.file("var/lib/docker/engine-id", "")
	m.podman(systemStore, "db")
	r := m.runtimes()
	m.docker(dockerPath)
	r.looked = time.Time{}
	if names, err := r.Names(t.Context()); err != nil || len(names) != 2 || r.members() != "docker podman" {
		t.Errorf("members %q, containers %+v, %v", r.members(), names, err)
	}
	m.wantLines("nothing new")
}

func TestUserOf(t *testing.T) {
	for _, root := range []string{"", "/proc/1/root"} {
		p := places{root: root}
		for socket, want := range map[string]uint32{
			"/var/run/docker.sock":             0,
			"/run/docker.sock":                 0,
			"/run/user/0/docker.sock":          0,
			"/run/user/1000/docker.sock":       1000,
			"/run/user/x/docker.sock":          0,
			"/run/user/1000/of/docker.sock":    0,
			"/home/run/user/7/docker.sock":     0,
			"/run/user/4294967296/docker.sock": 0,
		} {
			if got := p.userOf(root + socket); got != want {
				t.Errorf("%s is taken for user %d's, want %d", root+socket, got, want)
			}
		}
	}
}
