package resolver

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// place is where the content of a declared mount lies.
type place struct {
	device uint64
	root   string // in its file system; empty if that is not known
	unseen bool   // the container's table has no mount at its destination
}

// sourceOn returns what the source of a declared mount lies on.
func sourceOn(m *Mount, host mountTable) (on mountEntry, source string, ok bool) {
	if m.Source == "" {
		return mountEntry{}, "", false
	}
	source = path.Clean("/" + m.Source)
	on, ok = host.at(source)
	return on, source, ok
}

// declaredAt reports whether entry i of the container's table, which is at the
// destination of a declared mount, is that mount. Others may have been mounted
// over it, or in its place.
func declaredAt(m *Mount, table mountTable, i int, host func() mountTable) bool {
	e := table[i]
	for _, earlier := range table[:i] {
		if earlier.point == e.point {
			return false
		}
	}
	if e.fsType != "tmpfs" && e.fsType != "overlay" {
		return true
	}
	switch m.Class {
	case record.ClassTmpfs:
		return e.fsType == "tmpfs"
	case record.ClassVolume, record.ClassBind, record.ClassDockerFile:
		on, _, ok := sourceOn(m, host())
		return !ok || on.fsType == e.fsType
	}
	return true
}

// placesOf returns the places of the declared mounts: by the mount that the
// container has at the destination, or else by the source on the host.
func placesOf(declared []Mount, table mountTable, host func() mountTable) []place {
	places := make([]place, len(declared))
	for i := range declared {
		m := &declared[i]
		at := slices.IndexFunc(table, func(e mountEntry) bool { return e.point == m.Destination })
		if at >= 0 && declaredAt(m, table, at, host) {
			places[i] = place{device: table[at].device, root: table[at].root}
			continue
		}
		places[i].unseen = at < 0
		if on, source, ok := sourceOn(m, host()); ok {
			places[i].device = on.device
			places[i].root = path.Join(on.root, strings.TrimPrefix(source, on.point))
		}
	}
	return places
}

// placeOf returns the declared mount of which an undeclared one shows a part, and
// that part's path in it; -1 if there is none.
func placeOf(places []place, e mountEntry) (known int, inner string) {
	known = -1
	for i, p := range places {
		if p.root != "" && p.device == e.device && under(p.root, e.root) &&
			(known < 0 || len(p.root) > len(places[known].root)) {
			known = i
		}
	}
	if known >= 0 {
		inner = strings.TrimPrefix(e.root, places[known].root)
	}
	return known, inner
}

// placed returns the declared mounts of a container that runs with destinations as
// the kernel knows them: those that are no mount points are looked up in the
// container's own root, whose symlinks may lead elsewhere.
func (r *Resolver) placed(c *Container, table mountTable) []Mount {
	missing := func(m Mount) bool {
		return !slices.ContainsFunc(table, func(e mountEntry) bool { return e.point == m.Destination })
	}
	if table == nil || !slices.ContainsFunc(c.declared, missing) {
		return c.declared
	}
	root, err := unix.Open(r.procFile(c.InitPID, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return c.declared
	}
	defer unix.Close(root)
	placed := slices.Clone(c.declared)
	for i := range placed {
		if !missing(placed[i]) {
			continue
		}
		at, ok := resolveIn(root, placed[i].Destination)
		// A symlink that a process of the container made since may lead to
		// another mount.
		taken := slices.ContainsFunc(placed, func(m Mount) bool { return m.Destination == at })
		if mounted := slices.ContainsFunc(table, func(e mountEntry) bool { return e.point == at }); ok && mounted && !taken {
			placed[i].Destination = at
		}
	}
	return placed
}

// resolveIn returns where a path leads to inside a root directory, which it can not
// leave, whatever symlinks there are. ok is false if it leads nowhere.
func resolveIn(root int, name string) (at string, ok bool) {
	fd, err := unix.Openat2(root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	var names [2]string
	for i, fd := range []int{root, fd} {
		// The kernel names both as their own mount namespace has them.
		buf := make([]byte, 4096)
		n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf)
		if err != nil || n == len(buf) {
			return "", false
		}
		names[i] = string(buf[:n])
	}
	if !under(names[0], names[1]) {
		return "", false
	}
	return path.Join("/", strings.TrimPrefix(names[1], names[0])), true
}

// lowerDirs returns the directories of the image's layers, topmost first, as far
// as the runtime or a mount tells them.
func (r *Resolver) lowerDirs(ctx context.Context, d Details, root mountEntry, host func() mountTable, before *Container) []string {
	names := lowerNames("lowerdir=" + d.DriverData["LowerDir"])
	if len(names) == 0 && root.fsType == "overlay" {
		names = lowerNames(root.options)
	}
	if len(names) == 0 {
		if m, ok := overlayOf(host(), d.ID, ""); ok {
			names = lowerNames(m.options)
		}
	}
	if len(names) == 0 && before != nil {
		return before.LowerDirs
	}
	for i, name := range names {
		if path.IsAbs(name) {
			continue
		}
		home := r.driverHome(ctx, d.Driver)
		if home == "" {
			return nil
		}
		names[i] = path.Join(home, name)
	}
	return names
}

// lowerNames returns the lower directories that an overlay's options name, topmost
// first. They are separated by colons, or given one by one (lowerdir+=). A colon
// or backslash in a name has a backslash before it. What follows two colons holds
// file contents only, which no path names.
func lowerNames(options string) []string {
	var names []string
	for option := range strings.SplitSeq(options, ",") {
		if value, ok := strings.CutPrefix(option, "lowerdir+="); ok {
			if value != "" {
				names = append(names, decodeOctal(value))
			}
			continue
		}
		value, ok := strings.CutPrefix(option, "lowerdir=")
		if !ok {
			continue
		}
		text := decodeOctal(value)
		var name []byte
		add := func() {
			if len(name) > 0 {
				names = append(names, string(name))
			}
			name = nil
		}
		for i := 0; i < len(text); i++ {
			switch {
			case text[i] == '\\' && i+1 < len(text):
				i++
				name = append(name, text[i])
			case strings.HasPrefix(text[i:], "::"):
				add()
				return names
			case text[i] == ':':
				add()
			default:
				name = append(name, text[i])
			}
		}
		add()
	}
	return names
}

// HostPath returns where on the host the content of a mount can be seen; empty if
// it can not be, as with a tmpfs of the container's own.
func (r *Resolver) HostPath(m Mount) string {
	if m.Root == "" {
		return m.Source
	}
	name, _ := r.readHost()().locate(m.Device, m.Root)
	return name
}

// MountByID returns the mount with that id in the container's mount table, the
// root included.
func (c *Container) MountByID(id int) (Mount, bool) {
	if id == c.rootMount.ID && id != 0 {
		return c.rootMount, true
	}
	i := slices.IndexFunc(c.Mounts, func(m Mount) bool { return m.ID == id && id != 0 })
	if i < 0 {
		return Mount{}, false
	}
	return c.Mounts[i], true
}

// DeclaredMounts returns the mounts that the runtime makes for the container at
// its start, with the destinations that it was told: they may lead through
// symlinks of the image.
func (c *Container) DeclaredMounts() []Mount { return c.declared }

// MountAt returns the mount that a path without symlinks of a container that runs
// lies on, the root included.
func (c *Container) MountAt(name string) Mount {
	best := c.rootMount
	if best.Destination == "" {
		best = Mount{Class: record.ClassLayer, Destination: "/", ReadOnly: c.ReadOnlyRoot, Declared: true}
	}
	for _, m := range c.Mounts {
		// Of mounts on the same point the later one hides the others.
		if under(m.Destination, name) && len(m.Destination) >= len(best.Destination) {
			best = m
		}
	}
	return best
}
