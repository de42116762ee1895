package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// write makes a file with its directories.
func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFindStores(t *testing.T) {
	root := t.TempDir()
	if got := FindStores(root); got != nil {
		t.Errorf("stores of an empty machine: %v", got)
	}
	if _, err := NewStorage(StorageConfig{Stores: []Store{}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no store: %v", err)
	}
	ann := uint32(os.Getuid())
	write(t, filepath.Join(root, "etc/passwd"), fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nbroken\nx:y:z:::/home/ann:\n"+
		"eve:x:666:666::/home/eve:/bin/sh\nann:x:%d:1000::/home/ann:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n", ann))
	write(t, filepath.Join(root, "usr/share/containers/storage.conf"), "[storage]\ngraphroot = \"/vendor\"\nrunroot = '/run/vendor' # why not\n")
	write(t, filepath.Join(root, "etc/containers/storage.conf"), "[storage]\n# graphroot = \"/no\"\ngraphroot = \"/srv/containers\"\n")
	write(t, filepath.Join(root, "srv/containers/overlay-containers/containers.json"), "[]")
	write(t, filepath.Join(root, "home/ann/.local/share/containers/storage/overlay-containers/containers.json"), "[]")
	// Somebody shows another one's as his own.
	write(t, filepath.Join(root, "home/eve/.local/share/containers/x"), "")
	if err := os.Symlink(root+"/srv/containers", filepath.Join(root, "home/eve/.local/share/containers/storage")); err != nil {
		t.Fatal(err)
	}
	want := []Store{
		{Graph: root + "/srv/containers", Run: root + "/run/vendor"},
		{root + "/home/ann/.local/share/containers/storage", fmt.Sprintf("%s/run/user/%d/containers", root, ann), ann},
	}
	if got := FindStores(root); !reflect.DeepEqual(got, want) {
		t.Errorf("stores %v, want %v", got, want)
	}
}

// storeFixture is a store with containers in every state.
func storeFixture(t *testing.T) (Engine, Store) {
	t.Helper()
	dir := t.TempDir()
	store := Store{Graph: filepath.Join(dir, "graph"), Run: filepath.Join(dir, "run")}
	write(t, filepath.Join(store.Graph, "overlay-containers/containers.json"), fmt.Sprintf(`[
		{"id":%q,"names":["web"],"image":"1","layer":%q,"metadata":"{\"image-name\":\"docker.io/library/nginx:1\",\"name\":\"web\"}"},
		{"id":%q,"names":["k8s_db_db-0_shop_u_0"],"layer":%q,"metadata":"{\"pod-name\":\"db-0\",\"image-name\":\"pg:1\"}"},
		{"id":"../../etc","layer":"x"},{"id":%q,"layer":"../../../etc"}]`, id("a"), id("1"), id("b"), id("2"), id("3")))
	write(t, filepath.Join(store.Graph, "overlay-containers/volatile-containers.json"), fmt.Sprintf(`[{"id":%q,"names":["once"],"layer":%q,"created":"2026-01-02T03:04:05.000000006Z"}]`, id("c"), id("4")))
	write(t, filepath.Join(store.Run, "overlay-containers/volatile-containers.json"), `{"garbage":`)
	write(t, filepath.Join(store.Graph, "vfs-containers/containers.json"), fmt.Sprintf(`[{"id":%q,"names":["copies"],"layer":%q,"created":"yesterday"}]`, id("d"), id("5")))
	write(t, filepath.Join(store.Graph, "overlay-containers", id("b"), "userdata/config.json"),
		`{"annotations":{"io.kubernetes.pod.name":"db-0","io.kubernetes.pod.namespace":"shop","io.kubernetes.container.name":"db"}}`)
	// With --rootfs there is nothing but this.
	write(t, filepath.Join(store.Graph, "overlay-containers", id("e"), "userdata/config.json"),
		fmt.Sprintf(`{"root":{"path":"%s/overlay-containers/%s/rootfs/merge"},"mounts":[
			{"destination":"/data","type":"bind","source":"/var/lib/containers/storage/volumes/v/_data","options":["rbind","ro"]}]}`, store.Graph, id("e")))
	// Nor is there of one that was not removed altogether.
	write(t, filepath.Join(store.Graph, "overlay-containers", id("0"), "userdata/config.json"),
		fmt.Sprintf(`{"root":{"path":"%s/overlay/%s/merged"}}`, store.Graph, id("9")))
	pidfile := filepath.Join(store.Run, "overlay-containers", id("a"), "userdata/pidfile")
	write(t, pidfile, strconv.Itoa(os.Getpid())+"\n")
	// This pid is of a process that was there before the file, and that one is not.
	stale := filepath.Join(store.Run, "overlay-containers", id("b"), "userdata/pidfile")
	write(t, stale, strconv.Itoa(os.Getpid()))
	if err := os.Chtimes(stale, time.Time{}, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	e, err := NewStorage(StorageConfig{Stores: []Store{store}})
	if err != nil {
		t.Fatal(err)
	}
	return e, store
}

func TestStorage(t *testing.T) {
	e, store := storeFixture(t)
	listed, err := e.List(t.Context())
	want := []Listed{
		{id("a"), "web", StateRunning}, {id("b"), "shop/db-0/db", StateExited}, {id("c"), "once", StateCreated},
		{id("e"), "eeeeeeeeeeee", StateExited}, {id("d"), "copies", StateCreated},
	}
	if err != nil || !reflect.DeepEqual(listed, want) {
		t.Errorf("listed %v, %v\nwant   %v", listed, err, want)
	}
	web, err := e.Inspect(t.Context(), id("a"))
	if err != nil || web.Name != "web" || web.Image != "docker.io/library/nginx:1" || web.Runtime != RuntimePodman || web.PID != os.Getpid() ||
		web.StartedAt.IsZero() || web.Driver != "overlay" || web.DriverData["UpperDir"] != filepath.Join(store.Graph, "overlay", id("1"), "diff") {
		t.Errorf("%+v, %v", web, err)
	}
	db, err := e.Inspect(t.Context(), id("b"))
	if err != nil || db.Runtime != RuntimeCRIO || db.PID != 0 || db.Name != "shop/db-0/db" || kubernetesOf(db.Labels).Container != "db" {
		t.Errorf("%+v, %v", db, err)
	}
	rootfs, err := e.Inspect(t.Context(), id("e"))
	if wantMounts := []DeclaredMount{{"volume", "v", "/var/lib/containers/storage/volumes/v/_data", "/data", true, false, ""}}; err != nil ||
		rootfs.DriverData != nil || !reflect.DeepEqual(rootfs.Mounts, wantMounts) {
		t.Errorf("%+v, %v", rootfs, err)
	}
	once, err := e.Inspect(t.Context(), id("c"))
	if made := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC); err != nil || !once.CreatedAt.Equal(made) {
		t.Errorf("%+v, %v", once, err)
	}
	if copies, err := e.Inspect(t.Context(), id("d")); err != nil || copies.Driver != "vfs" || copies.DriverData != nil || !copies.CreatedAt.IsZero() {
		t.Errorf("%+v, %v", copies, err)
	}
	// The mark of a store that fuse-overlayfs mounts.
	write(t, filepath.Join(store.Graph, "overlay/.has-mount-program"), "true")
	if web, err := e.Inspect(t.Context(), id("a")); err != nil || web.Driver != fuseOverlayfs ||
		web.DriverData["UpperDir"] != filepath.Join(store.Graph, "overlay", id("1"), "diff") {
		t.Errorf("%+v, %v", web, err)
	}
	var gone *NotFoundError
	if _, err := e.Inspect(t.Context(), id("3")); !errors.As(err, &gone) {
		t.Errorf("a layer outside of the store: %v", err)
	}
}

// TestStorageAutoRemove: podman says of each container whether it was made with --rm,
// but only once it was started.
func TestStorageAutoRemove(t *testing.T) {
	const podman, crio, started, always = `{"name":"x"}`, `{"pod-name":"x"}`, `{"annotations":{"io.podman.annotations.autoremove":"FALSE"}}`,
		`{"annotations":{"io.podman.annotations.autoremove":"TRUE"}}`
	for _, tc := range []struct {
		file, metadata, config string
		want                   bool
	}{
		{"graph/overlay-containers/containers.json", podman, "", false},
		{"graph/overlay-containers/containers.json", podman, always, true},
		{"graph/overlay-containers/volatile-containers.json", podman, "", true},
		{"graph/overlay-containers/volatile-containers.json", podman, always, true},
		{"graph/overlay-containers/volatile-containers.json", podman, started, false},
		{"graph/overlay-containers/volatile-containers.json", crio, "", false},
		{"run/overlay-containers/volatile-containers.json", podman, "", false}, // a transient store
		{"run/overlay-containers/volatile-containers.json", podman, started, false},
		{"run/overlay-containers/volatile-containers.json", podman, always, true},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "graph/overlay-containers/containers.lock"), "")
		write(t, filepath.Join(dir, tc.file), fmt.Sprintf(`[{"id":%q,"layer":%q,"metadata":%q}]`, id("a"), id("1"), tc.metadata))
		if tc.config != "" {
			write(t, filepath.Join(dir, "graph/overlay-containers", id("a"), "userdata/config.json"), tc.config)
		}
		e, err := NewStorage(StorageConfig{Stores: []Store{{Graph: filepath.Join(dir, "graph"), Run: filepath.Join(dir, "run")}}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.Inspect(t.Context(), id("a")); err != nil || got.AutoRemove != tc.want {
			t.Errorf("%+v: %v, %v", tc, got.AutoRemove, err)
		}
	}
}

// TestStorageRootfs: a container of a directory has a layer only if an overlay is
// above that, and never the one that its entry names.
func TestStorageRootfs(t *testing.T) {
	store := Store{Graph: t.TempDir(), Run: t.TempDir()}
	dir := filepath.Join(store.Graph, "overlay-containers")
	write(t, filepath.Join(dir, "containers.json"), fmt.Sprintf(
		`[{"id":%q,"names":["dir"],"image":"","layer":%q,"metadata":"{\"image-name\":\"\",\"name\":\"dir\"}"}]`, id("a"), id("1")))
	e, err := NewStorage(StorageConfig{Stores: []Store{store}})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when, driver, upper string) {
		t.Helper()
		if got, err := e.Inspect(t.Context(), id("a")); err != nil || got.Driver != driver || got.DriverData["UpperDir"] != upper {
			t.Errorf("%s: %+v, %v", when, got, err)
		}
	}
	expect("before its start", "overlay", "")
	write(t, filepath.Join(dir, id("a"), "userdata/config.json"), "{}")
	expect("of a directory as it is", DriverRootfs, "")
	write(t, filepath.Join(dir, id("a"), "rootfs/upper/file"), "")
	expect("with an overlay", "overlay", filepath.Join(dir, id("a"), "rootfs/upper"))
}

// usersProcess starts a process in a user namespace of the user's.
func usersProcess(t *testing.T, uid uint32) int {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can start a process of somebody else")
	}
	cmd := exec.Command("unshare", "--user", "sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := cmd.Start(); err != nil {
		t.Skip("it can not be started:", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	ours, err := os.Readlink("/proc/self/ns/user")
	for err == nil {
		if ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid)); ns != ours && ns != "" {
			return cmd.Process.Pid
		}
		select {
		case err = <-ended:
			t.Skip("users may make no namespaces here:", err)
		case <-time.After(time.Millisecond):
		}
	}
	t.Fatal(err)
	return 0
}

// TestUsersStore: what a user's files say is believed about his own processes and
// layers only.
func TestUsersStore(t *testing.T) {
	const ann, bob = 1000, 1001
	hers, his := usersProcess(t, ann), usersProcess(t, bob)
	dir := t.TempDir()
	store := Store{Graph: filepath.Join(dir, "graph"), Run: filepath.Join(dir, "run"), Owner: ann}
	containers := filepath.Join(store.Graph, "overlay-containers")
	write(t, filepath.Join(containers, "containers.json"), fmt.Sprintf(`[{"id":%q,"names":["web"],"image":"1","layer":%q}]`, id("a"), id("1")))
	e, err := NewStorage(StorageConfig{Stores: []Store{store}})
	if err != nil {
		t.Fatal(err)
	}
	if listed, err := e.List(t.Context()); len(listed) != 0 || err != nil {
		t.Errorf("of a directory that is another one's: %v, %v", listed, err)
	}
	if err := os.Chown(containers, ann, ann); err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]State{hers: StateRunning, his: StateCreated, os.Getpid(): StateCreated, 1: StateCreated} {
		write(t, filepath.Join(store.Run, "overlay-containers", id("a"), "userdata/pidfile"), strconv.Itoa(pid))
		got, err := e.Inspect(t.Context(), id("a"))
		if err != nil || got.State != want || (got.PID == pid) != (want == StateRunning) || got.Within != store.Graph {
			t.Errorf("process %d: %+v, %v, want %s", pid, got, err, want)
		}
	}
}

// TestStorageTraps: a user's files may be anything.
func TestStorageTraps(t *testing.T) {
	traps := []func(name string) error{
		func(name string) error { return unix.Mkfifo(name, 0o666) },
		func(name string) error { return os.Symlink("/dev/zero", name) },
	}
	for _, trap := range traps {
		for _, name := range []string{
			"graph/overlay-containers/containers.json", "graph/overlay/.has-mount-program",
			"run/overlay-containers/" + id("a") + "/userdata/pidfile", "run/overlay-containers/" + id("a") + "/userdata/config.json",
			"graph/overlay-containers/volatile-containers.json", "run/overlay-containers/volatile-containers.json",
		} {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "graph/overlay-containers/volatile-containers.json"), fmt.Sprintf(`[{"id":%q,"metadata":"{\"pod-name\":\"p\"}"}]`, id("a")))
			name = filepath.Join(dir, name)
			_ = os.Remove(name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), trap(name)); err != nil {
				t.Fatal(err)
			}
			e, err := NewStorage(StorageConfig{Stores: []Store{{Graph: filepath.Join(dir, "graph"), Run: filepath.Join(dir, "run")}}})
			if err != nil {
				t.Fatal(err)
			}
			soon(t, func() {
				if _, err := e.List(t.Context()); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				_, _ = e.Inspect(t.Context(), id("a"))
			})
		}
	}
}

func TestStorageEvents(t *testing.T) {
	e, store := storeFixture(t)
	events, failed := e.Events(t.Context())
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-events:
				if got.Action+" "+got.ID[:1] != w {
					t.Errorf("event %s %s, want %s", got.Action, got.ID, w)
				}
			case err := <-failed:
				t.Fatal(err)
			case <-time.After(10 * time.Second):
				t.Fatalf("no event %s", w)
			}
		}
	}
	replace := func(content string) {
		t.Helper()
		file := filepath.Join(store.Graph, "overlay-containers/containers.json")
		write(t, file+".new", content)
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	replace(fmt.Sprintf(`[{"id":%q,"names":["web2"],"layer":%q},{"id":%q,"names":["new"],"layer":%q}]`, id("a"), id("1"), id("f"), id("6")))
	expect("destroy b", "rename a", "create f") // b has a directory still
	pidfile := filepath.Join(store.Run, "overlay-containers", id("f"), "userdata/pidfile")
	write(t, pidfile, strconv.Itoa(os.Getpid()))
	expect("start f")
	if err := os.Remove(pidfile); err != nil {
		t.Fatal(err)
	}
	expect("die f")
	replace("[]")
	expect("die a", "destroy a", "destroy f")
}

// TestStorageUnreadable: a file that can not be read has removed nothing.
func TestStorageUnreadable(t *testing.T) {
	dir := t.TempDir()
	store := Store{Graph: filepath.Join(dir, "graph"), Run: filepath.Join(dir, "run")}
	containers := filepath.Join(store.Graph, "overlay-containers")
	file := filepath.Join(containers, "containers.json")
	write(t, file, fmt.Sprintf(`[{"id":%q}]`, id("a")))
	write(t, filepath.Join(containers, "volatile-containers.json"), fmt.Sprintf(`[{"id":%q}]`, id("b")))
	var log strings.Builder
	e, err := NewStorage(StorageConfig{Stores: []Store{store}, Log: zerolog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, want int, told string) {
		t.Helper()
		log.Reset()
		for range 3 {
			if now, err := e.(*storage).look(); len(now) != want || err != nil {
				t.Errorf("%s: %v, %v", when, now, err)
			}
		}
		if got := log.String(); strings.Count(got, "\n") != min(1, len(told)) || !strings.Contains(got, told) {
			t.Errorf("%s: said %q, not %q once", when, got, told)
		}
	}
	expect("at first", 2, "")
	write(t, file, `[{"id":`)
	expect("torn", 2, "unexpected end")
	write(t, file, "{}")
	expect("another thing", 2, "cannot unmarshal")
	write(t, file, "[]")
	expect("mended", 1, "")
	if err := os.Symlink("/etc/passwd", file+".new"); err != nil {
		t.Fatal(err)
	}
	write(t, file, fmt.Sprintf(`[{"id":%q}]`, id("c")))
	expect("another container", 2, "")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	expect("a symlink", 2, "symbolic links")
	if err := os.RemoveAll(containers); err != nil {
		t.Fatal(err)
	}
	expect("removed", 0, "")
}

func TestDifferences(t *testing.T) {
	at, later := time.Unix(1, 0), time.Unix(2, 0)
	before := map[string]seen{"stays": {pid: 1, started: at}, "again": {pid: 2, started: at}, "same pid": {pid: 3, started: at}, "gone": {}}
	now := map[string]seen{"stays": {pid: 1, started: at}, "again": {pid: 4, started: later}, "same pid": {pid: 3, started: later}, "new": {pid: 5, started: at}}
	var got []string
	for _, e := range differences(before, now, at) {
		got = append(got, e.Action+" "+e.ID)
	}
	want := []string{"destroy gone", "die again", "start again", "create new", "start new", "die same pid", "start same pid"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzStored(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`[{"id":%q,"names":["web"],"image":"1","layer":%q,"metadata":"{\"name\":\"web\"}","created":"2026-01-02T03:04:05Z"}]`, id("a"), id("1"))))
	f.Add([]byte(fmt.Sprintf(`[{"id":"../../etc","layer":"x"},{"id":%q,"layer":"../../etc"},{"id":%q,"metadata":"{"}]`, id("a"), id("b"))))
	f.Add([]byte(fmt.Sprintf(`[{"ID":%q,"id":null},null,{}]`, id("a"))))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		listed, err := parseStored(data)
		if err != nil && listed != nil {
			t.Errorf("%v, and containers", err)
		}
		for i := range listed {
			c := &listed[i]
			// What paths are made of.
			for _, name := range []string{c.ID, c.Layer} {
				if name != "" && (len(name) != idDigits || !isHex(name)) || c.ID == "" {
					t.Errorf("%q, %q", c.ID, c.Layer)
				}
			}
			c.store, c.driver = &Store{Graph: "/none/g", Run: "/none/r"}, "overlay"
			s := storage{kept: make(map[string]*keptFiles), cfg: StorageConfig{ProcRoot: "/none"}}
			c.keptFiles = s.files(c.ID, c.store, "/none/g/overlay-containers", c.driver)
			if _, upper := c.layer(); upper != "" && !under("/none/g/overlay", upper) {
				t.Errorf("upper directory %q", upper)
			}
			if s.name(c, 0, time.Time{}) == "" && len(c.Names) == 0 {
				t.Errorf("no name: %+v", c)
			}
		}
	})
}

func FuzzTOMLString(f *testing.F) {
	f.Add([]byte("[storage]\n# graphroot = \"/no\"\ngraphroot = \"/srv/containers\"\n"), "/x")
	f.Add([]byte("graphroot = '/run/vendor' # why not\n"), "/a=b")
	f.Add([]byte("graphroot=\"\ngraphroot\n=\n\"\""), "")
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		got := tomlString(data, "graphroot")
		if strings.ContainsAny(got, "\n") || !bytes.Contains(data, []byte(got)) {
			t.Errorf("%q in %q", got, data)
		}
		// Whatever else is in the file, and whichever quotes there are.
		if got != "" || value == "" || strings.ContainsAny(value, "\n\"'") {
			return
		}
		for _, quote := range []string{"'", "\""} {
			text := fmt.Sprintf("%s\n graphroot =  %s%s%s # rest\n", data, quote, value, quote)
			if again := tomlString([]byte(text), "graphroot"); again != value {
				t.Errorf("%q instead of %q in %q", again, value, text)
			}
		}
	})
}
