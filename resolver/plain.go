package resolver

import (
	"context"
	"os"
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

// plain tells whether a container's root is a directory as it is. root is its root
// mount, empty if it does not run. The containerd store does so too if the image has
// no layers.
func plain(driver string, root mountEntry) bool {
	return plainDir[driver] != "" || driver == "overlayfs" && root.point != "" && root.fsType != "overlay"
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
	mountID, err := os.ReadFile(r.hostRoot + book)
	if err != nil {
		return nil
	}
	return []string{path.Join(home, d.Driver, plainDir[d.Driver], strings.TrimSpace(string(mountID)))}
}
