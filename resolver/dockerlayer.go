package resolver

import (
	"path/filepath"
	"strings"
)

// dockerUpperDir finds a container's upper directory in Docker's own books, without
// asking the daemon; "" if they do not tell. They have been the same since Docker
// 1.10; the containerd image store has none. They are below hostRoot, see HostRoot.
func dockerUpperDir(info *EngineInfo, hostRoot, containerID string) string {
	if info.Driver != "overlay2" || info.RootDir == "" || !isHex(containerID) {
		return ""
	}
	book, err := Reach(hostRoot, filepath.Join(info.RootDir, "image", info.Driver, "layerdb", "mounts", containerID, "mount-id"))
	if err != nil {
		return ""
	}
	name, err := readFile(book)
	id := strings.TrimSpace(string(name))
	if err != nil || !filepath.IsLocal(id) {
		return ""
	}
	return filepath.Join(info.RootDir, info.Driver, id, "diff")
}
