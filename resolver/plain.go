package resolver

import (
	"context"
	"path"
	"strings"
)

// Docker's storage drivers that make a directory with all that is in the image for
// each container: as a copy, or as a snapshot.
const (
	vfs   = "vfs"
	btrfs = "btrfs"
)

// plainDir is where such a driver keeps these directories, in one of its own.
var plainDir = map[string]string{vfs: "dir", btrfs: "subvolumes"}

// fuseOverlayfs is the storage driver of overlays that a process mounts, which then
// makes all changes of the upper directory itself.
const fuseOverlayfs = "fuse-overlayfs"

// plain tells whether a container's layer is a directory without an overlay of the
// kernel's above it. root is its root mount, empty if it does not run. The containerd
// store makes one, too, if the image has no layers.
func plain(driver string, root mountEntry) bool {
	return plainDir[driver] != "" || driver == fuseOverlayfs || driver == "overlayfs" && root.point != "" && root.fsType != "overlay"
}

// HoldsImage tells whether the image's files are in the layer's directory, as copies or
// as shared extents, and count for the layer.
func (c *Container) HoldsImage() bool { return c.Plain && c.Driver != fuseOverlayfs }

// WritesBy returns the name of the one process that makes all changes of the layer on
// behalf of others, which the kernel side cannot see; empty if there is none.
func (c *Container) WritesBy() string {
	if c.Driver == fuseOverlayfs {
		return fuseOverlayfs
	}
	return ""
}

// plainDirs returns where that directory may be.
func (r *Resolver) plainDirs(ctx context.Context, d Details, root mountEntry, host func() mountTable) []string {
	var names []string
	if name := d.DriverData["SourceDir"]; name != "" {
		names = append(names, name)
	}
	if root.point != "" {
		if name, ok := host().locate(root.device, root.root); ok {
			names = append(names, name)
		}
	}
	if len(names) > 0 || plainDir[d.Driver] == "" {
		return names
	}
	// Before a start only Docker's own books tell.
	home := r.driverHome(ctx, "")
	if home == "" {
		return nil
	}
	book, err := r.canonical(path.Join(home, "image", d.Driver, "layerdb/mounts", d.ID, "mount-id"))
	if err != nil {
		return nil
	}
	mountID, err := readFile(r.hostRoot + book)
	if err != nil {
		return nil
	}
	return []string{path.Join(home, d.Driver, plainDir[d.Driver], strings.TrimSpace(string(mountID)))}
}
