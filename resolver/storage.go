package resolver

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// StorageConfig says where the containers of podman and CRI-O lie.
type StorageConfig struct {
	Log zerolog.Logger
	// Stores are the directories in use; default: FindStores.
	Stores []Store
	// ProcRoot is as in Config.
	ProcRoot string
}

// Store is a pair of directories of the containers/storage library, which podman,
// CRI-O and Buildah share.
type Store struct {
	Graph string // what stays: layers, and the containers' names
	Run   string // what lasts until the machine stops: pid files
	// Owner is the user whose containers they are. Another one than root tells of his
	// own only: of layers in Graph, and of processes in user namespaces of his.
	Owner uint32
}

// storage is the Engine of podman and CRI-O. It reads what they keep on the disk:
// neither has a daemon that would be certain to run (podman's API service ends when
// nobody uses it, and most installations never start it), all versions keep these
// files, and containers of all users are found.
type storage struct {
	cfg  StorageConfig
	proc startTimes

	mu     sync.Mutex
	graphs []cached[[]string]    // what is in the stores' Graph
	dirs   map[string]*storeDir  // by path
	kept   map[string]*keptFiles // by container
}

// storeDir is what is known of a directory that has the containers of a storage driver.
type storeDir struct {
	names cached[[]string]
	lists [3]cached[[]storedContainer]
	fuse  cached[bool]
}

// keptFiles is what is known of a container by its files.
type keptFiles struct {
	// registered tells that it was in a containers.json: without its entry it is
	// being removed, though its directory may still be there.
	registered bool

	of       string // the directory that it is in
	pidfiles [2]userdata[int]
	configs  [2]userdata[runtimeSpec]
	owned    run // is one of the store's owner
	named    run // for its time the name, which does not change, is the next one
	name     string
}

// userdata is one of the container's own files where it may be.
type userdata[T any] struct {
	name string
	cached[T]
}

// run is a process.
type run struct {
	pid     int
	started time.Time
}

// NewStorage returns the Engine of the containers that podman and CRI-O keep on
// this machine. It fails with fs.ErrNotExist if there is no store.
func NewStorage(cfg StorageConfig) (Engine, error) {
	cfg.ProcRoot = cmp.Or(cfg.ProcRoot, defaultProcRoot)
	if cfg.Stores == nil {
		cfg.Stores = FindStores("/")
	}
	if len(cfg.Stores) == 0 {
		return nil, fmt.Errorf("looking for containers of podman and CRI-O: %w", fs.ErrNotExist)
	}
	clock, err := NewBootClock()
	if err != nil {
		return nil, fmt.Errorf("looking for containers of podman and CRI-O: %w", err)
	}
	return &storage{
		cfg: cfg, proc: startTimes{clock: clock, root: cfg.ProcRoot},
		graphs: make([]cached[[]string], len(cfg.Stores)), dirs: make(map[string]*storeDir), kept: make(map[string]*keptFiles),
	}, nil
}

// FindStores returns the stores of the machine whose files are below root: that of
// the system, wherever storage.conf puts it, and those of the users.
func FindStores(root string) []Store {
	system := Store{Graph: "/var/lib/containers/storage", Run: "/run/containers/storage"}
	for _, name := range []string{"usr/share/containers/storage.conf", "etc/containers/storage.conf"} {
		// Root's own: distributions make it a symlink.
		if data, err := readRegular(filepath.Join(root, name), 0); err == nil {
			system.Graph = cmp.Or(tomlString(data, "graphroot"), system.Graph)
			system.Run = cmp.Or(tomlString(data, "runroot"), system.Run)
		}
	}
	all := []Store{system}
	passwd, _ := readRegular(filepath.Join(root, "etc/passwd"), 0)
	for line := range bytes.Lines(passwd) {
		f := strings.Split(string(line), ":")
		if len(f) <= 5 || !filepath.IsAbs(f[5]) {
			continue
		}
		if uid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			all = append(all, Store{
				Graph: filepath.Join(f[5], ".local/share/containers/storage"),
				Run:   filepath.Join("/run/user", f[2], "containers"),
				Owner: uint32(uid),
			})
		}
	}
	var found []Store
	for _, s := range all {
		s.Graph, s.Run = filepath.Join(root, s.Graph), filepath.Join(root, s.Run)
		known := slices.ContainsFunc(found, func(f Store) bool { return f.Graph == s.Graph })
		if len(s.dirs()) > 0 && !known {
			found = append(found, s)
		}
	}
	return found
}

// dirs returns the directories that have a file with the containers of a storage
// driver. Those of a user are his own, wherever he has symlinks lead to.
func (s *Store) dirs() []string {
	dirs, _ := filepath.Glob(filepath.Join(s.Graph, "*-containers"))
	return slices.DeleteFunc(dirs, func(dir string) bool {
		var st unix.Stat_t
		return unix.Stat(dir, &st) != nil || !s.has(st.Uid)
	})
}

// has tells whether what a user owns may be part of the store.
func (s *Store) has(uid uint32) bool { return s.Owner == 0 || s.Owner == uid }

// tomlString returns the value of a string in a TOML file that has the key once.
func tomlString(data []byte, key string) string {
	for line := range bytes.Lines(data) {
		name, value, ok := strings.Cut(string(line), "=")
		if !ok || strings.TrimSpace(name) != key {
			continue
		}
		value = strings.TrimSpace(value)
		if len(value) < 2 || value[0] != '"' && value[0] != '\'' {
			continue
		}
		if end := strings.IndexByte(value[1:], value[0]); end > 0 {
			return value[1 : 1+end]
		}
	}
	return ""
}

func (s *storage) Close() error { return nil }

func (s *storage) Info(ctx context.Context) (EngineInfo, error) {
	listed, err := s.List(ctx)
	return EngineInfo{
		Host: s.cfg.Stores[0].Graph, RootDir: s.cfg.Stores[0].Graph, Driver: "overlay", Containers: len(listed),
	}, err
}

// storedContainer is an entry of containers.json, and where it was found.
type storedContainer struct {
	ID       string   `json:"id"`
	Names    []string `json:"names"`
	Layer    string   `json:"layer"`
	Image    string   `json:"image"`
	Metadata string   `json:"metadata"` // JSON too
	// Created is a text here lest one that is no time hides the containers beside it.
	Created string `json:"created"`
	meta    storedMetadata
	store   *Store
	driver  string
	fuse    bool // its overlay is made by a process
	// volatile tells that it is in a file for those that need not outlive a crash,
	// though not because the whole store is transient.
	volatile bool
	*keptFiles
}

// storedMetadata is what podman and CRI-O put there.
type storedMetadata struct {
	ImageName string `json:"image-name"`
	Name      string `json:"name"`
	Pod       string `json:"pod-name"` // CRI-O only
}

// stored returns all containers. Files that are not there have none. One that can not
// be read, or holds something else, has those that it had: nothing was removed by that.
// The caller holds s.mu as long as it uses them.
func (s *storage) stored() []*storedContainer {
	var all []*storedContainer
	present := make(map[string]bool, len(s.kept)) // containers in a file, or with a directory
	dirs := make(map[string]*storeDir, len(s.dirs))
	for i := range s.cfg.Stores {
		store := &s.cfg.Stores[i]
		names, err := namesIn(&s.graphs[i], store.Graph)
		s.tell(&s.graphs[i].told, store.Graph, err)
		for _, name := range names {
			driver, ok := strings.CutSuffix(name, "-containers")
			if !ok {
				continue
			}
			dir := filepath.Join(store.Graph, name)
			d := s.dirs[dir]
			if d == nil {
				d = &storeDir{}
			}
			dirs[dir] = d
			all = append(all, s.storedIn(d, store, dir, driver, present)...)
		}
	}
	s.dirs = dirs
	maps.DeleteFunc(s.kept, func(id string, _ *keptFiles) bool { return !present[id] })
	return all
}

// storedIn returns those of one directory that are not present yet, and adds them.
func (s *storage) storedIn(d *storeDir, store *Store, dir, driver string, present map[string]bool) []*storedContainer {
	names, err := namesIn(&d.names, dir)
	s.tell(&d.names.told, dir, err)
	if !store.has(d.names.stamp.owner) {
		return nil
	}
	// The library's own mark of a store that a program mounts.
	fuse, _ := d.fuse.parsed(filepath.Join(store.Graph, driver, ".has-mount-program"), func(data []byte) (bool, error) {
		return string(data) == "true", nil
	})
	var here []*storedContainer
	add := func(c *storedContainer) {
		c.store, c.driver, c.fuse = store, driver, fuse
		c.keptFiles = s.files(c.ID, store, dir, driver)
		here = append(here, c)
	}
	// Containers with --rm are in a file of their own, which under a
	// transient store lies with what does not stay.
	for i, name := range []string{
		filepath.Join(dir, "containers.json"), filepath.Join(dir, "volatile-containers.json"),
		filepath.Join(store.Run, driver+"-containers", "volatile-containers.json"),
	} {
		list, err := d.lists[i].parsed(name, parseStored)
		s.tell(&d.lists[i].told, name, err)
		for j := range list {
			if c := &list[j]; !present[c.ID] {
				present[c.ID] = true
				add(c)
				c.registered, c.volatile = true, i == 1
			}
		}
	}
	// One with --rootfs may be in none, but has its directory. So has, for good, one
	// whose removal broke off; if its root was a layer of the store, it was in one.
	for _, id := range names {
		if present[id] || len(id) != idDigits || !isHex(id) {
			continue
		}
		present[id] = true
		k := s.files(id, store, dir, driver)
		if !k.registered && k.started() && !under(filepath.Join(store.Graph, driver), k.spec().Root.Path) {
			add(&storedContainer{ID: id})
		}
	}
	return here
}

// tell says once what is wrong with a file in which containers may be.
func (s *storage) tell(told *string, name string, err error) {
	what := ""
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		what = err.Error()
	}
	if what != "" && what != *told {
		s.cfg.Log.Debug().Err(err).Str("file", name).Msg("containers not readable, those that were known stay")
	}
	*told = what
}

// files returns what is kept of a container.
func (s *storage) files(id string, store *Store, dir, driver string) *keptFiles {
	k := s.kept[id]
	if k == nil {
		k = &keptFiles{}
		s.kept[id] = k
	}
	if k.of != dir {
		*k = keptFiles{of: dir}
		for i, root := range []string{store.Run, store.Graph} {
			userdata := filepath.Join(root, driver+"-containers", id, "userdata")
			k.pidfiles[i].name, k.configs[i].name = filepath.Join(userdata, "pidfile"), filepath.Join(userdata, "config.json")
		}
	}
	return k
}

// parseStored parses a containers.json.
func parseStored(data []byte) ([]storedContainer, error) {
	var listed []storedContainer
	if err := json.Unmarshal(data, &listed); err != nil {
		return nil, err
	}
	// Ids become parts of paths.
	listed = slices.DeleteFunc(listed, func(c storedContainer) bool {
		return len(c.ID) != idDigits || !isHex(c.ID) || c.Layer != "" && (len(c.Layer) != idDigits || !isHex(c.Layer))
	})
	for i := range listed {
		_ = json.Unmarshal([]byte(listed[i].Metadata), &listed[i].meta)
	}
	return listed, nil
}

// started tells whether the container has its config.json.
func (k *keptFiles) started() bool {
	return slices.ContainsFunc(k.configs[:], func(u userdata[runtimeSpec]) bool { return exists(u.name) })
}

// spec returns the container's config.json, which it has from its first start on.
func (k *keptFiles) spec() runtimeSpec {
	for i := range k.configs {
		u := &k.configs[i]
		if spec, err := u.parsed(u.name, parseSpec); err == nil {
			return spec
		}
	}
	return runtimeSpec{}
}

func parseSpec(data []byte) (spec runtimeSpec, err error) {
	err = json.Unmarshal(data, &spec)
	return spec, err
}

// DriverRootfs stands for the storage driver of a container whose root is a
// directory of the host as it is (podman run --rootfs DIR).
const DriverRootfs = "rootfs"

// layer returns the storage driver, and the upper directory if there is one and it
// is known.
func (c *storedContainer) layer() (driver, upper string) {
	driver = c.driver
	if driver != "overlay" {
		return driver, ""
	}
	if c.fuse {
		driver = fuseOverlayfs
	}
	// With --rootfs podman makes a layer that nothing uses, or none.
	if c.Image != "" || c.meta.Pod != "" || c.Layer != "" && c.meta.Name == "" {
		return driver, filepath.Join(c.store.Graph, c.driver, c.Layer, "diff")
	}
	// With --rootfs DIR:O an overlay of its own is above DIR, from the first start on.
	upper = filepath.Join(c.store.Graph, c.driver+"-containers", c.ID, "rootfs", "upper")
	if _, err := os.Stat(upper); err == nil {
		return driver, upper
	}
	if c.started() {
		return DriverRootfs, ""
	}
	return driver, ""
}

// process returns the container's init process, and when it started; 0 if it does
// not run.
func (s *storage) process(c *storedContainer) (int, time.Time) {
	for i := range c.pidfiles {
		u := &c.pidfiles[i]
		pid, err := u.parsed(u.name, parsePID)
		if err != nil {
			continue
		}
		// The file stays when the process has ended, and its number may be
		// another's by now: one that was not there when the file was written.
		r := run{pid, s.proc.of(pid)}
		written := time.Unix(u.stamp.modified.Unix())
		if r.started.IsZero() || !r.started.Before(written.Add(time.Second)) || r != c.owned && !s.owns(c.store, pid) {
			continue
		}
		c.owned = r
		return r.pid, r.started
	}
	return 0, time.Time{}
}

func parsePID(data []byte) (int, error) {
	pid, err := strconv.Atoi(string(bytes.TrimSpace(data)))
	if err == nil && pid <= 0 {
		err = strconv.ErrRange
	}
	return pid, err
}

// owns tells whether a process may be of a container in the store: each one of another
// user than root is in a user namespace that he has made.
func (s *storage) owns(store *Store, pid int) bool {
	if store.Owner == 0 {
		return true
	}
	user, err := madeBy(s.cfg.ProcRoot, pid)
	return err == nil && user == store.Owner
}

// name is what a person calls the container, whose init process is given.
func (s *storage) name(c *storedContainer, pid int, started time.Time) string {
	r := run{pid, started}
	if pid != 0 && r == c.named {
		return c.name
	}
	c.named = run{}
	if c.meta.Pod != "" {
		if k := kubernetesOf(c.spec().Annotations); k != nil {
			c.named, c.name = r, k.String()
			return c.name
		}
	}
	if len(c.Names) > 0 {
		return c.Names[0]
	}
	if c.meta.Name != "" {
		return c.meta.Name
	}
	c.named, c.name = r, cmp.Or(s.monitored(pid), c.ID[:12])
	return c.name
}

// monitored returns the name of a container as its monitor's command line has it, which
// alone tells it with --rootfs: conmon … -n NAME.
func (s *storage) monitored(pid int) string {
	if pid == 0 {
		return ""
	}
	data, _ := os.ReadFile(filepath.Join(s.cfg.ProcRoot, strconv.Itoa(parentOf(s.cfg.ProcRoot, pid)), "cmdline"))
	words := strings.Split(string(data), "\x00")
	for i := 1; i < len(words); i++ {
		if words[i-1] == "-n" && strings.HasSuffix(words[0], "conmon") {
			return words[i]
		}
	}
	return ""
}

// parentOf returns the parent of a process, 0 if it is gone.
func parentOf(procRoot string, pid int) int {
	f, err := os.Open(filepath.Join(procRoot, strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "PPid:"); ok {
			parent, _ := strconv.Atoi(strings.TrimSpace(value))
			return parent
		}
	}
	return 0
}

func (s *storage) List(context.Context) ([]Listed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var listed []Listed
	for _, c := range s.stored() {
		pid, started := s.process(c)
		listed = append(listed, Listed{ID: c.ID, Name: s.name(c, pid, started), State: c.state(pid)})
	}
	return listed, nil
}

// state tells what shows of it: a pause does not.
func (c *storedContainer) state(pid int) State {
	if pid != 0 {
		return StateRunning
	}
	if c.started() {
		return StateExited
	}
	return StateCreated
}

func (s *storage) Inspect(_ context.Context, id string) (Details, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.stored()
	i := slices.IndexFunc(all, func(c *storedContainer) bool { return c.ID == id })
	if i < 0 {
		return Details{}, &NotFoundError{Name: id}
	}
	c := all[i]
	d := Details{
		ID: id, Image: cmp.Or(c.meta.ImageName, c.Image), Runtime: RuntimePodman,
	}
	if c.store.Owner != 0 {
		d.Within = c.store.Graph
	}
	if c.meta.Pod != "" {
		d.Runtime = RuntimeCRIO
	}
	d.CreatedAt, _ = time.Parse(time.RFC3339Nano, c.Created)
	d.PID, d.StartedAt = s.process(c)
	d.Name, d.State = s.name(c, d.PID, d.StartedAt), c.state(d.PID)
	var upper string
	if d.Driver, upper = c.layer(); upper != "" {
		d.DriverData = map[string]string{"UpperDir": upper}
	}
	spec := c.spec()
	spec.apply(&d)
	// Before its first start only the file that it is in tells. That is for an option of
	// the storage, which comes with --rm, but which CRI-O and Buildah may use too.
	d.AutoRemove = spec.Annotations[autoRemove] == "TRUE" || c.volatile && c.meta.Name != "" && !c.started()
	// What podman and CRI-O call labels is not in there; annotations are, and
	// CRI-O has those of Kubernetes among them.
	d.Labels = spec.Annotations
	return d, nil
}

// autoRemove is podman's annotation of containers with --rm.
const autoRemove = "io.podman.annotations.autoremove"

func (s *storage) Events(ctx context.Context) (<-chan Event, <-chan error) {
	wake := make(chan struct{}, 1)
	var dirs []string
	for _, store := range s.cfg.Stores {
		for _, root := range []string{store.Graph, store.Run} {
			found, _ := filepath.Glob(filepath.Join(root, "*-containers"))
			dirs = append(dirs, found...)
		}
	}
	watchDirs(ctx, dirs, wake)
	return pollEvents(ctx, wake, s.look)
}

// look is what is compared five times a second.
func (s *storage) look() (map[string]seen, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := make(map[string]seen, len(s.kept))
	for _, c := range s.stored() {
		pid, started := s.process(c)
		now[c.ID] = seen{name: s.name(c, pid, started), pid: pid, started: started}
	}
	return now, nil
}
