//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// Files of the image, for copy-ups: so many of each size.
const (
	smallCopies, smallBytes = 20, 1 << 10
	largeCopies, largeBytes = 2, 10 << 20
)

// ground is where the work is done.
type ground struct {
	o          *options
	base       string // everything below goes at the end
	lower      string // the image
	outside    string // not in a layer, on the file system that holds the layers
	archive    string
	device     uint64
	fileSystem string
	mounts     int
}

func newGround(o *options) (g *ground, err error) {
	g = &ground{o: o}
	if g.base, err = os.MkdirTemp(o.dir, "layertrace-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	g.lower, g.outside, g.archive = g.base+"/lower", g.base+"/outside", g.base+"/archive.tar"
	for _, dir := range []string{g.lower, g.outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for i := range smallCopies {
		err = errors.Join(err, os.WriteFile(imageFile(g.lower, "small", i), bytes.Repeat([]byte("x"), smallBytes), 0o644))
	}
	for i := range largeCopies {
		err = errors.Join(err, os.WriteFile(imageFile(g.lower, "large", i), bytes.Repeat([]byte("x"), largeBytes), 0o644))
	}
	if err != nil {
		return nil, err
	}
	if g.device, g.fileSystem, err = mountOf(g.base); err != nil {
		return nil, err
	}
	if err := writeArchive(g.archive, o.files); err != nil {
		return nil, err
	}
	unix.Sync()
	return g, nil
}

func (g *ground) close() {
	if err := os.RemoveAll(g.base); err != nil {
		progress("%v", err)
	}
}

func imageFile(dir, kind string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d", kind, i))
}

// mountOf tells a directory's file system by the mount table.
func mountOf(dir string) (device uint64, fileSystem string, err error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0, "", err
	}
	best := -1
	for line := range bytes.Lines(table) {
		before, after, ok := bytes.Cut(line, []byte(" - "))
		fields, kind := bytes.Fields(before), bytes.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 1 {
			continue
		}
		point := string(fields[4])
		below, err := filepath.Rel(point, dir)
		if err != nil || below == ".." || len(below) > 2 && below[:3] == "../" || len(point) < best {
			continue
		}
		var major, minor uint64
		if _, err := fmt.Sscanf(string(fields[2]), "%d:%d", &major, &minor); err != nil {
			return 0, "", fmt.Errorf("reading the mount table: %w", err)
		}
		best, device, fileSystem = len(point), major<<20|minor, string(kind[0])
	}
	if best < 0 {
		return 0, "", fmt.Errorf("%s is not in the mount table", dir)
	}
	return device, fileSystem, nil
}

// overlay is a mounted overlay.
type overlay struct {
	g                  *ground
	dir, upper, merged string
}

func (g *ground) mount() (*overlay, error) {
	g.mounts++
	o := &overlay{g: g, dir: fmt.Sprintf("%s/%d", g.base, g.mounts)}
	o.upper, o.merged = o.dir+"/upper", o.dir+"/merged"
	for _, dir := range []string{o.dir, o.upper, o.dir + "/work", o.merged} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off", g.lower, o.upper, o.dir+"/work")
	if err := unix.Mount("overlay", o.merged, "overlay", 0, options); err != nil {
		return nil, fmt.Errorf("mounting an overlay: %w", err)
	}
	return o, nil
}

func (o *overlay) unmount() error {
	if err := unix.Unmount(o.merged, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", o.merged, err)
	}
	return os.RemoveAll(o.dir)
}

// watch makes the overlay's upper directory, which is empty yet, a layer of the tracer.
func (o *overlay) watch(t *tracer.Tracer, id event.LayerID) error {
	var root unix.Stat_t
	if err := unix.Lstat(o.upper, &root); err != nil {
		return err
	}
	upper := event.Upper{Device: o.g.device, Inode: root.Ino, FileSystem: o.g.fileSystem, Mounted: true}
	if err := t.AddLayer(id, upper); err != nil {
		return err
	}
	file, _, err := t.Track(id, o.g.device, root.Ino, root.Mode)
	if err != nil {
		return err
	}
	for {
		if err := unix.Lstat(o.upper, &root); err != nil {
			return err
		}
		is, err := t.Settle(o.g.device, file, root.Size, root.Blocks*512)
		if err != nil || !is.Again {
			return err
		}
	}
}
