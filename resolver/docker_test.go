package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// daemon answers like dockerd on a socket.
func daemon(t *testing.T, handler http.HandlerFunc) (Engine, *httptest.Server) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			return
		}
		if !strings.HasPrefix(r.URL.Path, "/v1.41/") {
			t.Errorf("%s: the version was not negotiated", r.URL.Path)
		}
		handler(w, r)
	}))
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	e, err := NewDocker(DockerConfig{Host: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e, server
}

func TestDocker(t *testing.T) {
	e, _ := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		switch strings.TrimPrefix(r.URL.Path, "/v1.41") {
		case "/info":
			fmt.Fprint(w, `{"ServerVersion":"20.10.24","Driver":"overlay2","DockerRootDir":"/var/lib/docker",
				"CgroupVersion":"2","CgroupDriver":"systemd","Containers":3,"SecurityOptions":["name=seccomp","name=rootless"]}`)
		case "/containers/json":
			if r.URL.Query().Get("all") != "1" {
				t.Error("stopped containers were not asked for")
			}
			fmt.Fprint(w, `[{"Id":"1","Names":["/other/alias","/web"],"State":"running"},{"Id":"2","Names":null,"State":"dead"}]`)
		case "/containers/full/json":
			fmt.Fprint(w, `{"Id":"full","Name":"/web","Image":"sha256:0","Driver":"overlay2","LogPath":"/l",
				"State":{"Status":"running","Pid":42,"StartedAt":"2026-01-02T03:04:05.000000006Z"},
				"GraphDriver":{"Name":"overlay2","Data":{"UpperDir":"/u"}},
				"HostConfig":{"Tmpfs":{"/t2":"","/t1":"size=1m"},"Binds":["v:/d:ro"],"AutoRemove":true,"ReadonlyRootfs":true,
					"LogConfig":{"Type":"json-file"},"IpcMode":"host"},
				"Created":"2026-01-02T03:04:04Z",
				"Config":{"Image":"web:1","Labels":{"a":"b"}},
				"HostsPath":"/h","HostnamePath":"/n","ResolvConfPath":"/r",
				"Mounts":[{"Type":"volume","Name":"v","Source":"/s","Destination":"/d","RW":false}]}`)
		case "/containers/bare/json":
			fmt.Fprint(w, `{"Id":"bare","GraphDriver":{"Name":"overlayfs","Data":null},
				"State":{"Status":"created","StartedAt":"0001-01-01T00:00:00Z"}}`)
		case "/containers/empty/json":
			fmt.Fprint(w, `{}`)
		case "/containers/broken/json":
			fmt.Fprint(w, `{"Id":`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such container"}`)
		}
	})
	ctx := t.Context()
	listed, err := e.List(ctx)
	if want := []Listed{{"1", "web", StateRunning}, {"2", "", StateDead}}; err != nil || !reflect.DeepEqual(listed, want) {
		t.Errorf("%+v, %v", listed, err)
	}
	info, err := e.Info(ctx)
	if err != nil || info.Version != "20.10.24" || info.APIVersion != "1.41" || info.RootDir != "/var/lib/docker" || !info.Rootless ||
		!strings.HasPrefix(info.Host, "unix://") || info.Containers != 3 || info.CgroupVersion != "2" {
		t.Errorf("%+v, %v", info, err)
	}
	full, err := e.Inspect(ctx, "full")
	if want := (Details{
		ID: "full", Name: "web", Image: "web:1", Runtime: RuntimeDocker, State: StateRunning, PID: 42,
		StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Driver: "overlay2",
		DriverData: map[string]string{"UpperDir": "/u"}, Labels: map[string]string{"a": "b"},
		Mounts: []DeclaredMount{{Type: "volume", Name: "v", Source: "/s", Destination: "/d", ReadOnly: true},
			{Type: "bind", Source: "/dev/shm", Destination: "/dev/shm"}}, Tmpfs: []string{"/t1", "/t2"},
		HostsPath: "/h", HostnamePath: "/n", ResolvConfPath: "/r", LogPath: "/l",
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC), LogDriver: "json-file", AutoRemove: true, ReadOnlyRoot: true,
	}); err != nil || !reflect.DeepEqual(full, want) {
		t.Errorf("got  %+v, %v\nwant %+v", full, err, want)
	}
	bare, err := e.Inspect(ctx, "bare")
	if err != nil || bare.Driver != "overlayfs" || bare.DriverData != nil || !bare.StartedAt.IsZero() {
		t.Errorf("%+v, %v", bare, err)
	}
	if empty, err := e.Inspect(ctx, "empty"); err == nil && empty.ID != "" {
		t.Errorf("%+v", empty)
	}
	if _, err := e.Inspect(ctx, "broken"); err == nil {
		t.Error("broken answer: no error")
	}
	var gone *NotFoundError
	if _, err := e.Inspect(ctx, "none"); !errors.As(err, &gone) || gone.Name != "none" || errors.Is(err, ErrUnreachable) {
		t.Errorf("none: %v", err)
	}
}

func TestDockerEvents(t *testing.T) {
	hold := make(chan struct{})
	root := t.TempDir()
	books := filepath.Join(root, "image/overlay2/layerdb/mounts/1")
	if err := os.MkdirAll(books, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(books, "mount-id"), []byte("4711\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e, server := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/info") {
			fmt.Fprintf(w, `{"Driver":"overlay2","DockerRootDir":%q}`, root)
			return
		}
		q := r.URL.Query()
		if q.Get("since") == "" || !strings.Contains(q.Get("filters"), `"destroy":true`) || !strings.Contains(q.Get("filters"), `"container":true`) {
			t.Errorf("query %v", q)
		}
		fmt.Fprint(w, `{"Type":"container","Action":"create","Actor":{"ID":"1","Attributes":{"name":"n","image":"i:1"}},"time":1,"timeNano":1000000005}`+"\n")
		fmt.Fprint(w, `{"Type":"container","Action":"die","Actor":{"ID":"1"},"time":2}`+"\n")
		w.(http.Flusher).Flush()
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	events, failed := e.Events(ctx)
	for _, want := range []Event{
		{
			ID: "1", Action: "create", Time: time.Unix(1, 5), Runtime: "docker", Name: "n", Image: "i:1",
			Driver: "overlay2", UpperDir: root + "/overlay2/4711/diff",
		},
		{ID: "1", Action: "die", Time: time.Unix(2, 0), Runtime: "docker"},
	} {
		if got := <-events; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) {
		t.Errorf("cancelled: %v", err)
	}
	_, failed = e.Events(t.Context())
	close(hold)
	server.CloseClientConnections()
	if err := <-failed; !errors.Is(err, ErrUnreachable) {
		t.Errorf("hung up: %v", err)
	}
}

func TestDockerUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, tc := range []struct{ host, says string }{
		{"unix://" + filepath.Join(dir, "none"), "no such file or directory"},
		{"unix://" + dead, "connection refused"},
		{"tcp://127.0.0.1:1", "127.0.0.1:1"},
	} {
		e, err := NewDocker(DockerConfig{Host: tc.host})
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.List(t.Context())
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", tc.host, err)
		}
		_, failed := e.Events(t.Context())
		if err := <-failed; !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: events: %v", tc.host, err)
		}
		e.Close()
	}
	for _, host := range []string{"nonsense", "unix//x"} {
		if _, err := NewDocker(DockerConfig{Host: host}); err == nil {
			t.Errorf("%s: no error", host)
		}
	}
}

func TestDockerHost(t *testing.T) {
	for _, tc := range []struct{ flag, env, want string }{
		{"", "", "unix:///var/run/docker.sock"},
		{"", "unix:///env.sock", "unix:///env.sock"},
		{"unix:///flag.sock", "unix:///env.sock", "unix:///flag.sock"},
	} {
		t.Setenv("DOCKER_HOST", tc.env)
		e, err := NewDocker(DockerConfig{Host: tc.flag})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.(*docker).api.DaemonHost(); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
		e.Close()
	}
}

func TestDockerErrors(t *testing.T) {
	e, err := NewDocker(DockerConfig{Host: "unix:///none.sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for err, unreachable := range map[error]bool{
		io.EOF: true, io.ErrUnexpectedEOF: true, context.DeadlineExceeded: true,
		context.Canceled: false, os.ErrInvalid: false,
	} {
		got := e.(*docker).wrap("doing", fmt.Errorf("x: %w", err))
		if errors.Is(got, ErrUnreachable) != unreachable || !errors.Is(got, err) || !strings.HasPrefix(got.Error(), "doing: ") {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestDockerUpperDir(t *testing.T) {
	root := filepath.Join(t.TempDir(), "docker")
	put := func(id, text string) {
		t.Helper()
		dir := filepath.Join(root, "image/overlay2/layerdb/mounts", id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "mount-id"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("aa", "0123")
	put("bb", "../../etc")
	put("cc", "")
	info := EngineInfo{Driver: "overlay2", RootDir: root}
	for id, want := range map[string]string{"aa": root + "/overlay2/0123/diff", "bb": "", "cc": "", "dd": "", "../mounts/aa": ""} {
		if got := dockerUpperDir(&info, "", id); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	// From a container: below the host's root directory, symlinks as they lead there.
	host := filepath.Dir(root)
	if err := os.Symlink("/"+filepath.Base(root), filepath.Join(host, "moved")); err != nil {
		t.Fatal(err)
	}
	info.RootDir = "/moved"
	if got := dockerUpperDir(&info, host, "aa"); got != "/moved/overlay2/0123/diff" {
		t.Errorf("from a container: %q", got)
	}
	info.Driver = "overlayfs"
	if got := dockerUpperDir(&info, host, "aa"); got != "" {
		t.Errorf("another driver: %q", got)
	}
}

// TestDockerGarbage: what listens is no Docker daemon, or one that breaks off in the
// middle of an answer. Every call says so and returns.
func TestDockerGarbage(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\n"
	for name, answer := range map[string]string{
		"silence": "", "garbage": "\x16\x03\x01\x02garbage\r\n\r\n",
		"no json":      head + "Content-Length: 9\r\n\r\n<html>oh!",
		"wrong json":   head + "Content-Length: 7\r\n\r\n[[[1]]]",
		"broken off":   head + "Content-Length: 400\r\n\r\n[{\"Id\":\"1\",",
		"broken chunk": head + "Transfer-Encoding: chunked\r\n\r\n40\r\n{\"Id\":\"1\",\"status\":",
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
					request := make([]byte, 4096)
					_, _ = conn.Read(request)
					_, _ = io.WriteString(conn, answer)
					conn.Close()
				}
			}()
			e, err := NewDocker(DockerConfig{Host: "unix://" + socket})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if listed, err := e.List(t.Context()); err == nil {
				t.Errorf("listed %+v", listed)
			}
			if d, err := e.Inspect(t.Context(), "1"); err == nil {
				t.Errorf("inspected %+v", d)
			}
			if info, err := e.Info(t.Context()); err == nil {
				t.Errorf("info %+v", info)
			}
			events, failed := e.Events(t.Context())
			select {
			case <-failed:
			case <-time.After(10 * time.Second):
				t.Errorf("the stream of events does not end; %d events", len(events))
			}
		})
	}
}
