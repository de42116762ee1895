// Package resolver gives names to the numbers that the kernel side reports: it
// knows containers, their mounts and control groups, and which container a
// process belongs to. It knows nothing of eBPF.
//
// Its facts come from three places: the container runtime (names, images, states,
// declared mounts), the kernel's mount tables under /proc (what is really
// mounted, and on which device), and a cgroup hierarchy.
package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

const (
	defaultProcRoot       = "/proc"
	defaultReconcileEvery = 30 * time.Second
	// maxRemoved bounds how many containers are remembered after their end.
	maxRemoved = 1024
)

// Config configures a Resolver. The zero value of a field means its default.
type Config struct {
	Log zerolog.Logger
	// Engine is the container runtime. Required. Whoever made it closes it.
	Engine Engine
	// ProcRoot is where a proc file system of the initial pid namespace is
	// mounted; default /proc.
	ProcRoot string
	// HostRoot is where the host's root directory is, as HostRoot says; default: it
	// is ours.
	HostRoot string
	// Owner is the user whose runtime it is, if that is not root. His containers'
	// processes and layers must be his, whatever he says.
	Owner uint32
	// ReconcileEvery is how often Watch compares what it knows with the runtime's
	// list although no event asked for that; default 30s.
	ReconcileEvery time.Duration
}

// Resolver knows containers and mounts. Its methods may be called concurrently,
// except Close.
type Resolver struct {
	log            zerolog.Logger
	engine         Engine
	procRoot       string
	hostRoot       string
	owner          uint32
	cgroups        hierarchy
	reconcileEvery time.Duration
	actors         *actors
	groups         newGroups
	host           hostMounts
	handles        int // descriptor for cgroup handles; -1 if there is none
	odd            oddities
	warnHandles    sync.Once

	mu         sync.Mutex
	containers map[string]Container // last known facts by id
	removed    []string             // those of containers that are gone, oldest first
	rootDir    string               // of the runtime; empty until it was needed
}

// New returns a Resolver. It does not talk to the runtime. It fails only if cfg
// can not be used; without a cgroup hierarchy it knows fewer actors.
func New(cfg Config) (*Resolver, error) {
	if cfg.Engine == nil {
		return nil, errors.New("setting up resolver: no container runtime given")
	}
	r := &Resolver{
		log:            cfg.Log,
		engine:         cfg.Engine,
		procRoot:       cmp.Or(cfg.ProcRoot, defaultProcRoot),
		hostRoot:       cfg.HostRoot,
		owner:          cfg.Owner,
		reconcileEvery: cmp.Or(cfg.ReconcileEvery, defaultReconcileEvery),
		handles:        -1,
		containers:     make(map[string]Container),
	}
	r.actors = newActors(r.openCgroup)
	r.odd.log = cfg.Log
	r.host.path, r.host.changed, r.host.odd = r.hostMounts(), mountsChanged, &r.odd
	table, err := r.host.read()
	if err != nil {
		return nil, fmt.Errorf("setting up resolver: %w", err)
	}
	if r.cgroups = findHierarchy(table); r.cgroups.root == "" {
		r.log.Warn().Msg("no cgroup hierarchy is mounted: processes can not be told apart by container")
		return r, nil
	}
	root := r.hostRoot + r.cgroups.root
	r.groups.root, r.groups.actors = root, r.actors
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("setting up resolver: opening cgroup root %s: %w", root, err)
	}
	r.handles = fd
	return r, nil
}

// Close releases what the Resolver holds. It is safe to call twice. No other
// method may be running or be called later.
func (r *Resolver) Close() error {
	r.host.close()
	if r.handles < 0 {
		return nil
	}
	err := unix.Close(r.handles)
	r.handles = -1
	if err != nil {
		return fmt.Errorf("closing cgroup root: %w", err)
	}
	return nil
}

// Find returns the container that the user means by ref: the one with exactly
// this name, else with exactly this id, else the only one whose id begins with
// ref. It does not matter whether it runs.
//
// Errors match *NotFoundError, *AmbiguousError or ErrUnreachable.
func (r *Resolver) Find(ctx context.Context, ref string) (Container, error) {
	listed, err := r.engine.List(ctx)
	if err != nil {
		return Container{}, fmt.Errorf("finding container %s: %w", ref, err)
	}
	id, err := match(listed, ref)
	if err != nil {
		return Container{}, err
	}
	c, err := r.inspect(ctx, id, r.readHost())
	var gone *NotFoundError
	if errors.As(err, &gone) {
		return Container{}, &NotFoundError{Name: ref}
	}
	if err != nil {
		return Container{}, fmt.Errorf("finding container %s: %w", ref, err)
	}
	return c, nil
}

// match picks the id that ref means.
func match(listed []Listed, ref string) (string, error) {
	name := strings.TrimPrefix(ref, "/")
	var names, prefixed []string
	for _, l := range listed {
		if l.Name == name && name != "" {
			return l.ID, nil
		}
		names = append(names, l.Name)
		if ref != "" && strings.HasPrefix(l.ID, ref) {
			prefixed = append(prefixed, l.ID)
		}
	}
	switch len(prefixed) {
	case 0:
		slices.Sort(names)
		return "", &NotFoundError{Name: ref, Nearest: nearest(name, names)}
	case 1:
		return prefixed[0], nil
	}
	slices.Sort(prefixed)
	return "", &AmbiguousError{Prefix: ref, Matches: prefixed}
}

// List returns every container of the runtime, ordered by name. Those that
// vanish meanwhile are left out. Errors match ErrUnreachable.
func (r *Resolver) List(ctx context.Context) ([]Container, error) {
	listed, err := r.engine.List(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := r.inspectAll(ctx, listed)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(containers, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return containers, nil
}

// Refresh asks the runtime and the kernel about one container again. Errors match
// *NotFoundError if it is gone, then the last known facts are returned with it,
// or ErrUnreachable.
func (r *Resolver) Refresh(ctx context.Context, id string) (Container, error) {
	c, err := r.inspect(ctx, id, r.readHost())
	if err != nil {
		c, _ = r.Known(id)
	}
	return c, err
}

// RefreshMounts reads the container's mount table again, without asking the
// runtime, and returns the container with it. Use it when a device turned up
// that Classify does not know. If the container has ended meanwhile, the mounts
// stay as they are.
func (r *Resolver) RefreshMounts(c Container) Container {
	fresh := c
	table, root := r.containerMounts(&fresh)
	if table == nil {
		return c
	}
	fresh.Mounts = classifyMounts(r.placed(&fresh, table), table, root, r.readHost())
	return fresh
}

// LayerMounted tells whether an overlay uses the container's upper directory at
// this moment, by the host's mount table or that of the container's init process:
// rootless runtimes mount in a namespace of their own. Of a plain one it tells
// whether the container runs.
func (r *Resolver) LayerMounted(c *Container) bool {
	if c.Plain {
		return c.Running()
	}
	if _, ok := overlayOf(r.readHost()(), c.ID, c.UpperDir); ok {
		return true
	}
	fresh := Container{ID: c.ID, InitPID: c.InitPID}
	_, root := r.containerMounts(&fresh)
	return root.fsType == "overlay" && slices.Contains(upperDirs(root.options), c.UpperDir)
}

// Known returns the last known facts of a container, for a while also of one that
// is gone. It asks nobody.
func (r *Resolver) Known(id string) (Container, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	return c, ok
}

// Actor returns the id of the container whose processes run in a cgroup, or in
// one below it. cgroupID is the inode number of its directory in the hierarchy of
// CgroupController. The cgroup may be gone, if it was asked for
// before, or is a container's own. ok is false for processes of the host and
// for those of which nothing can be known.
func (r *Resolver) Actor(cgroupID uint64) (containerID string, ok bool) {
	return r.actors.find(cgroupID, func(id string) bool {
		_, ok := r.Known(id)
		return ok
	})
}

// openCgroup returns a cgroup's path.
func (r *Resolver) openCgroup(id uint64) (string, error) {
	if r.handles < 0 {
		return "", errors.ErrUnsupported
	}
	name, err := cgroupHandles{r.handles}.open(id)
	if errors.Is(err, unix.EPERM) {
		r.warnHandles.Do(func() {
			r.log.Warn().Err(err).Msg("processes in nested cgroups can not be told apart by container")
		})
	}
	return name, err
}

// inspect asks the runtime about a container and remembers the answer.
func (r *Resolver) inspect(ctx context.Context, id string, host func() mountTable) (Container, error) {
	details, err := r.engine.Inspect(ctx, id)
	if err != nil {
		return Container{}, err
	}
	var before *Container
	if known, ok := r.Known(details.ID); ok {
		before = &known
	}
	c := r.describe(ctx, details, host, before)
	r.remember(c)
	return c, nil
}

// inspectAll asks the runtime about several containers at a time. Those that are
// gone are left out. With the first other error it gives up.
func (r *Resolver) inspectAll(ctx context.Context, listed []Listed) ([]Container, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		group      sync.WaitGroup
		mu         sync.Mutex
		containers = make([]Container, 0, len(listed))
		next       int
		failed     error
	)
	host := r.readHost()
	take := func() (id string, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(listed) || failed != nil {
			return "", false
		}
		next++
		return listed[next-1].ID, true
	}
	for range min(looksAtOnce, len(listed)) {
		group.Go(func() {
			for id, ok := take(); ok; id, ok = take() {
				c, err := r.inspect(ctx, id, host)
				var gone *NotFoundError
				mu.Lock()
				switch {
				case err == nil:
					containers = append(containers, c)
				case !errors.As(err, &gone) && failed == nil:
					failed = err
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return containers, failed
}

func (r *Resolver) remember(c Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[c.ID] = c
	if c.CgroupID != 0 {
		r.actors.add(c.CgroupID, c.ID)
	}
}

// retire notes that a container is gone, if it was known, and forgets the one that was
// gone for longest if there are too many.
func (r *Resolver) retire(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.containers[id]; !known {
		return
	}
	r.removed = append(r.removed, id)
	if len(r.removed) <= maxRemoved {
		return
	}
	delete(r.containers, r.removed[0])
	r.actors.forget(r.removed[0])
	r.removed = slices.Delete(r.removed, 0, 1)
}

// driverHome returns the directory in which a storage driver works, or "".
func (r *Resolver) driverHome(ctx context.Context, driver string) string {
	r.mu.Lock()
	root := r.rootDir
	r.mu.Unlock()
	if root == "" {
		info, err := r.engine.Info(ctx)
		if err != nil || info.RootDir == "" {
			return ""
		}
		root = info.RootDir
		r.mu.Lock()
		r.rootDir = root
		r.mu.Unlock()
	}
	return path.Join(root, driver)
}
