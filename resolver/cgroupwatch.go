package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// newGroups notes the cgroups of containers when they are made: those of a container
// that lives for a moment are gone before anybody asks whose they were. They are
// made some 100 ms before the container's first instruction. Safe for concurrent
// use.
type newGroups struct {
	root   string // of the v2 hierarchy; empty if there is none
	actors *actors

	mu   sync.Mutex
	fd   int              // of an inotify instance; 0 if nobody follows
	dirs map[int32]string // watched ones, from the root of the hierarchy
}

// usualParents are the cgroups in which runtimes make those of containers, unless
// they were told otherwise: then the first container that runs tells.
var usualParents = []string{"/docker", "/system.slice"}

// follow notes new cgroups until ctx ends.
func (g *newGroups) follow(ctx context.Context) error {
	if g.root == "" {
		return nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watching control groups: %w", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	g.mu.Lock()
	g.fd, g.dirs = fd, make(map[int32]string)
	g.mu.Unlock()
	end := sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.fd = 0
		file.Close()
	})
	defer end()
	defer context.AfterFunc(ctx, end)()
	for _, dir := range append([]string{"/"}, usualParents...) {
		if err := g.watch(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	buffer := make([]byte, 64<<10)
	for {
		n, err := file.Read(buffer)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("watching control groups: %w", err)
		}
		g.take(buffer[:n])
	}
}

// watch notes the cgroups in a directory, those that are there and those to come.
func (g *newGroups) watch(dir string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fd == 0 {
		return nil
	}
	full := filepath.Join(g.root, dir)
	number, err := unix.InotifyAddWatch(g.fd, full, unix.IN_CREATE|unix.IN_ONLYDIR)
	if err != nil {
		return &fs.PathError{Op: "watch", Path: full, Err: err}
	}
	if _, known := g.dirs[int32(number)]; known {
		return nil
	}
	g.dirs[int32(number)] = dir
	entries, err := os.ReadDir(full)
	if err != nil {
		return err
	}
	for _, e := range entries {
		g.note(dir, e.Name())
	}
	return nil
}

// note keeps whose a cgroup is, if that can be seen from its name.
func (g *newGroups) note(dir, name string) {
	id, ok := componentID(name)
	if !ok {
		return
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(g.root, dir, name), &st) == nil {
		g.actors.note(st.Ino, pathIDs{ids: append(containerIDs(dir), id)})
	}
}

// take handles what the kernel tells.
func (g *newGroups) take(raw []byte) {
	for len(raw) >= unix.SizeofInotifyEvent {
		number := int32(binary.NativeEndian.Uint32(raw))
		mask := binary.NativeEndian.Uint32(raw[4:])
		length := int(binary.NativeEndian.Uint32(raw[12:]))
		raw = raw[unix.SizeofInotifyEvent:]
		if length > len(raw) {
			return
		}
		name := string(bytes.TrimRight(raw[:length], "\x00"))
		raw = raw[length:]

		g.mu.Lock()
		dir, known := g.dirs[number]
		if mask&unix.IN_IGNORED != 0 { // the directory is gone
			delete(g.dirs, number)
		}
		g.mu.Unlock()
		if !known || name == "" {
			continue
		}
		g.note(dir, name)
		for _, usual := range usualParents {
			if path.Join(dir, name) == usual {
				_ = g.watch(usual) // it may be gone again
			}
		}
	}
}
