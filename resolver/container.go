package resolver

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// Container is what is known of a container at one moment. It is plain data;
// nothing that it refers to is changed once it was handed out, nor may who
// receives it do so.
type Container struct {
	ID      string // 64 hex digits
	Name    string // without leading slash
	Image   string // as the user named it
	Runtime string // a Runtime… word
	State   State

	InitPID   uint32    // in the initial pid namespace; 0 if it does not run
	CreatedAt time.Time // as in Details
	StartedAt time.Time // of the last start; zero if it never ran
	// CgroupID is the inode number of the cgroup directory that was made for the
	// container, in the hierarchy of Resolver.CgroupController; 0 if it does not run.
	CgroupID uint64

	Driver string // storage driver: overlay2, overlayfs (containerd), vfs …

	// Plain: no overlay of the kernel's is above UpperDir. It is the container's root as
	// it is, with the image's files in it (see HoldsImage), or a process makes an
	// overlay of it (see WritesBy).
	Plain bool
	// UpperDir is the layer's path on the host; empty if it is not known, then
	// LayerErr says why.
	UpperDir string
	// UpperDevice is the kernel's number (major<<20|minor) of the device that
	// UpperDir lies on, from the mount table. Of a plain one on btrfs it is the
	// subvolume's, which stat gives: inode numbers repeat between subvolumes.
	UpperDevice uint64
	// UpperFileSystem is the type of what is mounted there: ext4, xfs, …
	UpperFileSystem string
	UpperInode      uint64
	// OverlayDevice is the number of the device that the root overlay itself is;
	// 0 if it is not mounted, or no overlay. The kernel gives the number to
	// another overlay as soon as this one is unmounted.
	OverlayDevice uint64
	// LayerErr is why UpperDir, UpperDevice and UpperInode are not all known;
	// nil if they are. It matches ErrNoUpperDir if they never will be.
	LayerErr error
	// LowerDirs are the directories of the image's layers on the host, topmost
	// first; empty if they are not known.
	LowerDirs []string

	Mounts []Mount // without the root
	Labels map[string]string

	LogDriver string // json-file, local, journald …
	LogPath   string // of the container's output, on the host; empty unless it is a file

	AutoRemove   bool // the runtime removes it when it stops
	ReadOnlyRoot bool // its root file system is mounted read-only

	within     string  // as in Details
	upperPath  string  // see UpperPath; empty if that is UpperDir
	logFile    string  // see LogFile; empty if that is LogPath
	rootDevice uint64  // of what is mounted at /; 0 if it does not run
	rootMount  Mount   // what is mounted at /; zero if it does not run
	declared   []Mount // what the runtime says of the mounts
}

// State is a container's state, in the runtime's words.
type State string

// States.
const (
	StateCreated    State = "created"
	StateRunning    State = "running"
	StatePaused     State = "paused"
	StateRestarting State = "restarting"
	StateRemoving   State = "removing"
	StateExited     State = "exited"
	StateDead       State = "dead"
)

// Mount is a mount in a container.
type Mount struct {
	Class       string // a record.Class… word
	Destination string // in the container; if that runs, without symlinks
	Source      string // on the host; empty if nothing there is mounted
	Name        string // of a volume, or of the image of an image mount
	ReadOnly    bool
	Device      uint64 // major<<20|minor; 0 if the container does not run
	FSType      string // empty if the container does not run

	// Declared tells of a mount that the runtime made for the container. Others
	// were made since, by a process in it or by the host through propagation, or
	// are some that the runtime does not tell of (an init program, secrets).
	Declared bool
	// Anonymous tells of a volume that nobody named: it may be removed together
	// with the container.
	Anonymous bool
	ID        int    // in the container's mount table; 0 if it does not run
	Root      string // the mounted directory's path in its file system; empty if it does not run
}

// Running reports whether the container has an init process, paused or not.
func (c *Container) Running() bool { return c.InitPID != 0 }

// UpperPath is where this process reaches UpperDir: the same, unless it runs in a
// container itself.
func (c *Container) UpperPath() string { return cmp.Or(c.upperPath, c.UpperDir) }

// LogFile is where this process reaches LogPath: the same, unless it runs in a
// container itself.
func (c *Container) LogFile() string { return cmp.Or(c.logFile, c.LogPath) }

// Record returns the container as the stream names it.
func (c *Container) Record() record.Container {
	r := record.Container{ID: c.ID, Image: c.Image, Runtime: c.Runtime, Kubernetes: kubernetesOf(c.Labels)}
	r.Name, r.NameB64 = record.Text(c.Name)
	return r
}

// RecordMounts returns the mounts as the stream shows them: without those of the
// kernel's own file systems, which concern nobody. It is nil if they are not known.
func (c *Container) RecordMounts() []record.Mount {
	if c.Mounts == nil {
		return nil
	}
	mounts := []record.Mount{}
	for _, m := range c.Mounts {
		if m.Class == record.ClassOther || m.Destination == "/dev" || under("/proc", m.Destination) || under("/sys", m.Destination) {
			continue
		}
		r := record.Mount{Class: m.Class, Name: m.Name, ReadOnly: m.ReadOnly}
		r.Destination, r.DestinationB64 = record.Text(m.Destination)
		r.Source, r.SourceB64 = record.Text(m.Source)
		mounts = append(mounts, r)
	}
	return mounts
}

// Classify says what a file lies on. device is the number (major<<20|minor) of
// its superblock as the kernel has it, or 0 if only the path is known; name is
// its absolute path in the container, without symlinks, or empty if only the
// device is known.
//
// The device decides first: a bind of the layer's own directories onto others is
// still the layer. Then, among the mounts of the same device, the one does whose
// mount point is nearest above name. record.ClassOther is what remains.
func (c *Container) Classify(device uint64, name string) record.Storage {
	layer := record.Storage{Class: record.ClassLayer}
	if device != 0 && device == c.OverlayDevice {
		return layer
	}
	fits := func(m *Mount) bool { return device == 0 || m.Device == device }
	if name != "" {
		name = path.Clean("/" + name)
		best := -1
		for i := range c.Mounts {
			m := &c.Mounts[i]
			// Of mounts on the same point the later one hides the others.
			if fits(m) && under(m.Destination, name) &&
				(best < 0 || len(m.Destination) >= len(c.Mounts[best].Destination)) {
				best = i
			}
		}
		if best >= 0 {
			return c.Mounts[best].storage()
		}
		// A root that is no overlay shares its device with other mounts.
		if device == 0 || c.OverlayDevice == 0 && device == c.rootDevice {
			return layer
		}
	}
	if device == 0 {
		return record.Storage{Class: record.ClassOther}
	}
	// The path is not known, or is one of another mount namespace.
	var all []*Mount
	for i := range c.Mounts {
		if fits(&c.Mounts[i]) {
			all = append(all, &c.Mounts[i])
		}
	}
	switch {
	case len(all) == 0 && device == c.rootDevice:
		return layer
	case len(all) == 1 && device != c.rootDevice:
		return all[0].storage()
	case len(all) > 1 && device != c.rootDevice &&
		!slices.ContainsFunc(all, func(m *Mount) bool { return m.Class != all[0].Class }):
		return record.Storage{Class: all[0].Class}
	}
	return record.Storage{Class: record.ClassOther}
}

// storage returns what lies on the mount.
func (m *Mount) storage() record.Storage {
	if m.Class == record.ClassLayer {
		return record.Storage{Class: m.Class}
	}
	return record.NewStorage(m.Class, m.Destination, m.Source, m.Name)
}

// describe joins what the runtime says with what the kernel says. host reads the
// host's mount table, at most once. before holds earlier facts, if there are
// any: a layer's directory stays, but can not always be found.
func (r *Resolver) describe(ctx context.Context, d Details, host func() mountTable, before *Container) Container {
	c := Container{
		ID: d.ID, Name: d.Name, Image: d.Image, Runtime: d.Runtime, State: d.State,
		CreatedAt: d.CreatedAt, StartedAt: d.StartedAt, Driver: d.Driver, Labels: d.Labels,
		LogDriver: d.LogDriver, LogPath: d.LogPath, AutoRemove: d.AutoRemove, ReadOnlyRoot: d.ReadOnlyRoot,
		within: d.Within, declared: declaredMounts(d),
	}
	if c.LogPath == "" && c.LogDriver == "local" {
		if home := r.driverHome(ctx, "containers"); home != "" {
			c.LogPath = path.Join(home, c.ID, localLog)
		}
	}
	if c.LogPath != "" && r.hostRoot != "" {
		// The log itself may be yet to come.
		if dir, err := r.canonical(path.Dir(c.LogPath)); err == nil {
			c.logFile = path.Join(r.hostRoot+dir, path.Base(c.LogPath))
		}
	}
	if r.owner != 0 && d.PID > 0 {
		if user, err := madeBy(r.procRoot, d.PID); err != nil || user != r.owner {
			r.odd.note("process of a container that is not its daemon's user's", strconv.Itoa(d.PID), err)
			d.PID = 0
		}
	}
	if d.PID > 0 {
		c.InitPID = uint32(d.PID)
		c.CgroupID = r.cgroupID(d.PID, d.ID)
	}
	table, root := r.containerMounts(&c)
	c.Mounts = classifyMounts(r.placed(&c, table), table, root, host)
	c.LowerDirs = r.lowerDirs(ctx, d, root, host, before)
	r.findLayer(ctx, &c, d, root, host, before)
	return c
}

// containerMounts reads the mount table of a container that runs, and sets what
// depends on its root mount, which it returns too.
func (r *Resolver) containerMounts(c *Container) (mountTable, mountEntry) {
	if c.InitPID == 0 {
		return nil, mountEntry{}
	}
	table, err := readMounts(r.procFile(c.InitPID, "mountinfo"), &r.odd)
	if err != nil { // it has just ended
		return nil, mountEntry{}
	}
	root, ok := table.at("/")
	if !ok {
		return nil, mountEntry{}
	}
	c.rootDevice = root.device
	c.rootMount = Mount{
		Class: record.ClassLayer, Destination: "/", ReadOnly: root.readOnly, Declared: true,
		Device: root.device, FSType: root.fsType, ID: root.id, Root: root.root,
	}
	if root.fsType == "overlay" {
		c.OverlayDevice = root.device
	}
	return table, root
}

func (r *Resolver) procFile(pid uint32, name string) string {
	return filepath.Join(r.procRoot, strconv.FormatUint(uint64(pid), 10), name)
}

// findLayer finds the upper directory and sets what depends on it.
func (r *Resolver) findLayer(ctx context.Context, c *Container, d Details, root mountEntry, host func() mountTable, before *Container) {
	candidates := r.upperCandidates(ctx, d, root, host)
	c.Plain = plain(d.Driver, root)
	if len(candidates) == 0 && before != nil && before.UpperDir != "" {
		candidates, c.Plain = []string{before.UpperDir}, before.Plain
	}
	if finder, ok := r.engine.(layerFinder); ok && len(candidates) == 0 {
		layer, err := finder.FindLayer(ctx, d)
		if err != nil {
			r.log.Debug().Err(err).Str("container", d.ID).Msg("the runtime was asked for the layer in vain")
		}
		if layer.upperDir != "" {
			candidates, c.Plain = []string{path.Clean(layer.upperDir)}, layer.plain
		}
		if len(c.LowerDirs) == 0 {
			c.LowerDirs = layer.lowerDirs
		}
	}
	if len(candidates) == 0 {
		switch d.Driver {
		case "overlay2", "overlay", "overlayfs", fuseOverlayfs, vfs, btrfs, "":
			c.LayerErr = errNotMounted
		default:
			c.LayerErr = fmt.Errorf("storage driver %s: %w", d.Driver, ErrNoUpperDir)
		}
		return
	}

	// Overlayfs gives its root the inode number of the upper directory where it
	// can, which tells the right one from a directory that another mount
	// namespace has under the same path.
	var rootInode uint64
	var st unix.Stat_t
	if c.InitPID != 0 && unix.Stat(r.procFile(c.InitPID, "root"), &st) == nil {
		rootInode = st.Ino
	}
	for _, candidate := range candidates {
		err := r.statHost(candidate, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
		}
		if err == nil && d.Within != "" {
			err = r.checkWithin(candidate, d.Within)
		}
		if err == nil && r.owner != 0 {
			err = r.checkOwner(candidate)
		}
		switch {
		case err != nil && c.LayerErr == nil && c.UpperDir == "":
			c.UpperDir, c.LayerErr = candidate, fmt.Errorf("looking at upper directory %s: %w", candidate, err)
		case err == nil && (c.UpperInode == 0 || st.Ino == rootInode):
			c.UpperDir, c.UpperInode, c.LayerErr = candidate, st.Ino, nil
		}
		if err == nil && st.Ino == rootInode {
			break
		}
	}
	if c.LayerErr != nil {
		return
	}
	// The mount table knows paths without symlinks only.
	canonical, err := r.canonical(c.UpperDir)
	if err != nil {
		c.LayerErr = fmt.Errorf("resolving upper directory: %w", err)
		return
	}
	if r.hostRoot != "" {
		c.upperPath = r.hostRoot + canonical
	}
	mount, ok := host().at(canonical)
	if !ok {
		c.LayerErr = fmt.Errorf("upper directory %s: the mount table does not tell its device", c.UpperDir)
		return
	}
	c.UpperDevice, c.UpperFileSystem = mount.device, mount.fsType
	if c.Plain && mount.fsType == btrfs {
		if err := unix.Stat(c.UpperPath(), &st); err != nil {
			c.LayerErr = fmt.Errorf("looking at %s: %w", c.UpperDir, err)
			return
		}
		c.UpperDevice = uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev))
	}
	if c.OverlayDevice == 0 {
		// Not running, but something (docker cp, docker diff) may have mounted it.
		if m, ok := overlayOf(host(), c.ID, c.UpperDir); ok {
			c.OverlayDevice = m.device
		}
	}
}

// checkWithin fails if a path of the host leads out of a directory.
func (r *Resolver) checkWithin(name, dir string) error {
	name, err := r.canonical(name)
	if err != nil {
		return err
	}
	if dir, err = r.canonical(dir); err != nil {
		return err
	}
	if !under(dir, name) {
		return fmt.Errorf("it is %s, not in %s, where the user's containers are", name, dir)
	}
	return nil
}

// checkOwner fails if a path of the host is not in a directory of the user whose daemon
// told of it: he may say anything.
func (r *Resolver) checkOwner(name string) error {
	name, err := r.canonical(name)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(r.hostRoot+path.Dir(name), &st); err != nil {
		return err
	}
	if st.Uid != r.owner {
		return fmt.Errorf("it is in a directory of user %d, and the daemon is user %d's", st.Uid, r.owner)
	}
	return nil
}

// upperCandidates returns where the upper directory may be, likeliest first.
func (r *Resolver) upperCandidates(ctx context.Context, d Details, root mountEntry, host func() mountTable) []string {
	var candidates []string
	add := func(names ...string) {
		for _, name := range names {
			if !path.IsAbs(name) {
				// The overlay2 driver mounts relative to its own directory when
				// the options would get too long.
				home := r.driverHome(ctx, d.Driver)
				if home == "" {
					continue
				}
				name = path.Join(home, name)
			}
			if name = path.Clean(name); !slices.Contains(candidates, name) {
				candidates = append(candidates, name)
			}
		}
	}
	if name := d.DriverData["UpperDir"]; name != "" {
		add(name)
	}
	if root.fsType == "overlay" {
		add(upperDirs(root.options)...)
	}
	if m, ok := overlayOf(host(), d.ID, ""); ok {
		add(upperDirs(m.options)...)
	}
	if len(candidates) == 0 && plain(d.Driver, root) {
		add(r.plainDirs(ctx, d, root, host)...)
	}
	return candidates
}

// overlayOf returns the overlay that the host has mounted for a container: at a
// path that ends with the container's id, or with the given upper directory.
func overlayOf(host mountTable, containerID, upper string) (mountEntry, bool) {
	for _, m := range host {
		if m.fsType != "overlay" {
			continue
		}
		uppers := m.uppers
		// Docker mounts images of many layers by paths relative to its directory.
		same := func(u string) bool { return u == upper || !path.IsAbs(u) && strings.HasSuffix(upper, "/"+u) }
		if path.Base(m.point) == containerID && uppers != nil || slices.ContainsFunc(uppers, same) {
			return m, true
		}
	}
	return mountEntry{}, false
}

// classifyMounts joins the mounts that the user declared with those that there
// are; if the container does not run, the declared ones have to do.
func classifyMounts(declared []Mount, table mountTable, root mountEntry, host func() mountTable) []Mount {
	if table == nil {
		return declared
	}
	var places []place
	mounts := make([]Mount, 0, len(table))
	for i, e := range table {
		if e.point == "/" {
			continue
		}
		m := Mount{
			Destination: e.point, ReadOnly: e.readOnly, Device: e.device, FSType: e.fsType,
			ID: e.id, Root: e.root,
		}
		known := slices.IndexFunc(declared, func(d Mount) bool { return d.Destination == e.point })
		if known >= 0 && !declaredAt(&declared[known], table, i, host) {
			known = -1 // what somebody mounted over it
		}
		m.Declared = known >= 0
		inner := "" // below what was declared
		if known < 0 && !kernelOwn(e.fsType) {
			// The destination may lead through a symlink of the image: the kernel
			// has the place, the runtime what the user wrote. Or somebody mounts a
			// part of what was declared once more.
			if places == nil {
				places = placesOf(declared, table, host)
			}
			if known, inner = placeOf(places, e); known >= 0 && inner == "" && places[known].unseen {
				m.Declared, places[known].unseen = true, false
			}
		}
		switch {
		case root.fsType == "overlay" && e.device == root.device:
			m.Class = record.ClassLayer
		case known >= 0:
			d := &declared[known]
			m.Class, m.Source, m.Name, m.Anonymous = d.Class, d.Source, d.Name, d.Anonymous
			if m.Source != "" {
				m.Source = path.Join(m.Source, inner)
			}
		case e.fsType == "tmpfs", e.fsType == "ramfs":
			m.Class = record.ClassTmpfs
			m.Source, _ = host().locate(e.device, e.root)
		case e.fsType == "overlay":
			m.Class = record.ClassNestedOverlay
			m.Source, _ = host().locate(e.device, e.root)
		case kernelOwn(e.fsType):
			m.Class = record.ClassOther
		default:
			m.Class = record.ClassBind
			m.Source, _ = host().locate(e.device, e.root)
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// declaredMounts returns the mounts that a container will have when it runs, as
// far as the runtime tells.
func declaredMounts(d Details) []Mount {
	mounts := []Mount{}
	add := func(m Mount) {
		m.Declared = true
		if !slices.ContainsFunc(mounts, func(o Mount) bool { return o.Destination == m.Destination }) {
			mounts = append(mounts, m)
		}
	}
	for _, m := range d.Mounts {
		mount := Mount{
			Class: record.ClassOther, Destination: path.Clean("/" + m.Destination),
			Source: m.Source, Name: m.Name, ReadOnly: m.ReadOnly, Anonymous: m.Anonymous,
		}
		if m.Subpath != "" && mount.Source != "" {
			mount.Source = path.Join(mount.Source, m.Subpath)
		}
		switch m.Type {
		case "bind":
			mount.Class = record.ClassBind
		case "volume", "cluster":
			mount.Class = record.ClassVolume
		case "tmpfs":
			mount.Class, mount.Source = record.ClassTmpfs, ""
		case "image":
			mount.Class = record.ClassImageMount
			if mount.Name == "" {
				mount.Name, mount.Source = mount.Source, ""
			}
		}
		add(mount)
	}
	for _, destination := range d.Tmpfs {
		add(Mount{Class: record.ClassTmpfs, Destination: path.Clean("/" + destination)})
	}
	for _, file := range []struct{ destination, source string }{
		{"/etc/hostname", d.HostnamePath}, {"/etc/hosts", d.HostsPath}, {"/etc/resolv.conf", d.ResolvConfPath},
	} {
		if file.source != "" {
			add(Mount{Class: record.ClassDockerFile, Destination: file.destination, Source: file.source})
		}
	}
	// What every container gets.
	add(Mount{Class: record.ClassTmpfs, Destination: "/dev"})
	add(Mount{Class: record.ClassTmpfs, Destination: "/dev/shm"})
	add(Mount{Class: record.ClassOther, Destination: "/proc"})
	add(Mount{Class: record.ClassOther, Destination: "/sys"})
	return mounts
}

// kernelOwn reports whether a file system holds no files of anybody.
func kernelOwn(fsType string) bool {
	switch fsType {
	case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "securityfs",
		"debugfs", "tracefs", "bpf", "pstore", "configfs", "nsfs", "binfmt_misc", "hugetlbfs",
		"fusectl", "efivarfs", "autofs", "rpc_pipefs", "selinuxfs", "binder":
		return true
	}
	return false
}

// readHost returns the host's mount table as it is when it is first asked for.
func (r *Resolver) readHost() func() mountTable {
	return sync.OnceValue(func() mountTable {
		table, err := r.host.read()
		if err != nil {
			r.log.Warn().Err(err).Msg("host mount table not readable")
		}
		return table
	})
}
