package resolver

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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

	"golang.org/x/sys/unix"
)

// StorageConfig says where the containers of podman and CRI-O lie.
type StorageConfig struct {
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

	mu sync.Mutex
	// registered are containers that were in a containers.json: without their
	// entry they are being removed, though their directory may still be there.
	registered map[string]bool
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
	return &storage{cfg: cfg, proc: startTimes{clock: clock, root: cfg.ProcRoot}, registered: make(map[string]bool)}, nil
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
		return s.Owner != 0 && (unix.Stat(dir, &st) != nil || st.Uid != s.Owner)
	})
}

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
	store   Store
	driver  string
	fuse    bool // its overlay is made by a process
}

// storedMetadata is what podman and CRI-O put there.
type storedMetadata struct {
	ImageName string `json:"image-name"`
	Name      string `json:"name"`
	Pod       string `json:"pod-name"` // CRI-O only
}

// stored returns all containers. Files that are not there, or hold something else,
// have none.
func (s *storage) stored() []storedContainer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []storedContainer
	present := make(map[string]bool) // in a file, or as a directory
	for _, store := range s.cfg.Stores {
		for _, dir := range store.dirs() {
			driver := strings.TrimSuffix(filepath.Base(dir), "-containers")
			// The library's own mark of a store that a program mounts.
			mark, _ := readFile(filepath.Join(store.Graph, driver, ".has-mount-program"))
			fuse := string(mark) == "true"
			var here []storedContainer
			// Containers with --rm are in a file of their own, which under a
			// transient store lies with what does not stay.
			for _, name := range []string{
				filepath.Join(dir, "containers.json"), filepath.Join(dir, "volatile-containers.json"),
				filepath.Join(store.Run, driver+"-containers", "volatile-containers.json"),
			} {
				here = append(here, readStored(name)...)
			}
			for _, c := range here {
				s.registered[c.ID], present[c.ID] = true, true
			}
			// One with --rootfs may be in none, but has its directory.
			configs, _ := filepath.Glob(filepath.Join(dir, "*", "userdata", "config.json"))
			for _, config := range configs {
				id := filepath.Base(filepath.Dir(filepath.Dir(config)))
				present[id] = true
				listed := slices.ContainsFunc(here, func(c storedContainer) bool { return c.ID == id })
				if !listed && !s.registered[id] && len(id) == idDigits && isHex(id) {
					here = append(here, storedContainer{ID: id})
				}
			}
			for _, c := range here {
				c.store, c.driver, c.fuse = store, driver, fuse
				all = append(all, c)
			}
		}
	}
	maps.DeleteFunc(s.registered, func(id string, _ bool) bool { return !present[id] })
	return all
}

func readStored(file string) []storedContainer {
	data, err := readFile(file)
	if err != nil {
		return nil
	}
	var listed []storedContainer
	if json.Unmarshal(data, &listed) != nil {
		return nil
	}
	// Ids become parts of paths.
	return slices.DeleteFunc(listed, func(c storedContainer) bool {
		return len(c.ID) != idDigits || !isHex(c.ID) || c.Layer != "" && (len(c.Layer) != idDigits || !isHex(c.Layer))
	})
}

// userdata returns where one of the container's own files may be.
func (c *storedContainer) userdata(file string) []string {
	var names []string
	for _, root := range []string{c.store.Run, c.store.Graph} {
		names = append(names, filepath.Join(root, c.driver+"-containers", c.ID, "userdata", file))
	}
	return names
}

func (c *storedContainer) metadata() storedMetadata {
	var m storedMetadata
	_ = json.Unmarshal([]byte(c.Metadata), &m)
	return m
}

// started tells whether the container has its config.json.
func (c *storedContainer) started() bool {
	return slices.ContainsFunc(c.userdata("config.json"), func(name string) bool {
		_, err := os.Stat(name)
		return err == nil
	})
}

// spec reads the container's config.json, which it has from its first start on.
func (c *storedContainer) spec() runtimeSpec {
	var spec runtimeSpec
	for _, name := range c.userdata("config.json") {
		if data, err := readFile(name); err == nil && json.Unmarshal(data, &spec) == nil {
			return spec
		}
	}
	return runtimeSpec{}
}

// DriverRootfs stands for the storage driver of a container whose root is a
// directory of the host as it is (podman run --rootfs DIR).
const DriverRootfs = "rootfs"

// layer returns the storage driver, and the upper directory if there is one and it
// is known.
func (c *storedContainer) layer(m storedMetadata) (driver, upper string) {
	driver = c.driver
	if driver != "overlay" {
		return driver, ""
	}
	if c.fuse {
		driver = fuseOverlayfs
	}
	// With --rootfs podman makes a layer that nothing uses, or none.
	if c.Image != "" || m.Pod != "" || c.Layer != "" && m.Name == "" {
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
	for _, name := range c.userdata("pidfile") {
		data, err := readFile(name)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(string(bytes.TrimSpace(data)))
		if err != nil || pid <= 0 {
			continue
		}
		// The file stays when the process has ended, and its number may be
		// another's by now: one that was not there when the file was written.
		started := s.proc.of(pid)
		written, err := os.Stat(name)
		if err == nil && !started.IsZero() && started.Before(written.ModTime().Add(time.Second)) && s.owns(&c.store, pid) {
			return pid, started
		}
	}
	return 0, time.Time{}
}

// owns tells whether a process may be of a container in the store: each one of another
// user than root is in a user namespace that he has made.
func (s *storage) owns(store *Store, pid int) bool {
	if store.Owner == 0 {
		return true
	}
	ns, err := os.Open(filepath.Join(s.cfg.ProcRoot, strconv.Itoa(pid), "ns/user"))
	if err != nil {
		return false
	}
	defer ns.Close()
	owner, err := unix.IoctlGetUint32(int(ns.Fd()), unix.NS_GET_OWNER_UID)
	return err == nil && owner == store.Owner
}

// name is what a person calls the container.
func (s *storage) name(c *storedContainer, pid int) string {
	metadata := c.metadata()
	if metadata.Pod != "" {
		if k := kubernetesOf(c.spec().Annotations); k != nil {
			return k.String()
		}
	}
	if len(c.Names) > 0 {
		return c.Names[0]
	}
	if name := metadata.Name; name != "" {
		return name
	}
	// With --rootfs only the monitor's command line tells: conmon … -n NAME.
	if pid != 0 {
		data, _ := os.ReadFile(filepath.Join(s.cfg.ProcRoot, strconv.Itoa(parentOf(s.cfg.ProcRoot, pid)), "cmdline"))
		words := strings.Split(string(data), "\x00")
		for i := 1; i < len(words); i++ {
			if words[i-1] == "-n" && strings.HasSuffix(words[0], "conmon") {
				return words[i]
			}
		}
	}
	return c.ID[:12]
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
	var listed []Listed
	for _, c := range s.stored() {
		pid, _ := s.process(&c)
		listed = append(listed, Listed{ID: c.ID, Name: s.name(&c, pid), State: s.state(&c, pid)})
	}
	return listed, nil
}

// state tells what shows of it: a pause does not.
func (s *storage) state(c *storedContainer, pid int) State {
	if pid != 0 {
		return StateRunning
	}
	if c.started() {
		return StateExited
	}
	return StateCreated
}

func (s *storage) Inspect(_ context.Context, id string) (Details, error) {
	all := s.stored()
	i := slices.IndexFunc(all, func(c storedContainer) bool { return c.ID == id })
	if i < 0 {
		return Details{}, &NotFoundError{Name: id}
	}
	c := &all[i]
	metadata := c.metadata()
	d := Details{
		ID: id, Image: cmp.Or(metadata.ImageName, c.Image), Runtime: RuntimePodman,
	}
	if c.store.Owner != 0 {
		d.Within = c.store.Graph
	}
	if metadata.Pod != "" {
		d.Runtime = RuntimeCRIO
	}
	d.CreatedAt, _ = time.Parse(time.RFC3339Nano, c.Created)
	d.PID, d.StartedAt = s.process(c)
	d.Name, d.State = s.name(c, d.PID), s.state(c, d.PID)
	var upper string
	if d.Driver, upper = c.layer(metadata); upper != "" {
		d.DriverData = map[string]string{"UpperDir": upper}
	}
	spec := c.spec()
	spec.apply(&d)
	// What podman and CRI-O call labels is not in there; annotations are, and
	// CRI-O has those of Kubernetes among them.
	d.Labels = spec.Annotations
	return d, nil
}

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
	return pollEvents(ctx, wake, func() (map[string]seen, error) {
		now := make(map[string]seen)
		for _, c := range s.stored() {
			pid, started := s.process(&c)
			now[c.ID] = seen{name: s.name(&c, pid), pid: pid, started: started}
		}
		return now, nil
	})
}
