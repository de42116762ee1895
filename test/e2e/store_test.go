//go:build linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// overlay2 is the storage driver whose API tells where a layer is, and whose
// sizes are the files'. The other one that the tests know is overlayfs, which is
// containerd's: its API tells neither, and its sizes are the disk's.
const overlay2 = "overlay2"

// hostOverlay returns where the host has mounted a container's root, and its
// upper directory: what the kernel says.
func hostOverlay(id string) (merged, upper string, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		mount, fs, _ := strings.Cut(lines.Text(), " - ")
		point := strings.Fields(mount)[4]
		if !strings.HasPrefix(fs, "overlay ") || filepath.Base(point) != id {
			continue
		}
		for option := range strings.SplitSeq(fs, ",") {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				return point, upper, nil
			}
		}
	}
	return "", "", lines.Err()
}

// snapshotUpper asks containerd, by its own program, for the upper directory of a
// container that need not run.
func snapshotUpper(id string) (string, error) {
	for _, socket := range []string{"/run/docker/containerd/containerd.sock", "/run/containerd/containerd.sock"} {
		if _, err := os.Stat(socket); err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ctr", "--address", socket, "--namespace", "moby", "snapshots", "mounts", "/nowhere", id).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("ctr snapshots mounts: %w: %s", err, out)
		}
		if upper := upperOption(string(out)); upper != "" {
			return upper, nil
		}
		return "", fmt.Errorf("ctr snapshots mounts: no upper directory in %q", out)
	}
	return "", errors.New("containerd has no socket")
}

// upperOption is the upper directory among the options of an overlay's mount, of which it
// is never the last; empty if there is none.
func upperOption(options string) string {
	_, rest, _ := strings.Cut(options, "upperdir=")
	upper, _, ok := strings.Cut(rest, ",")
	if !ok {
		return ""
	}
	return upper
}

// place returns where a container's layer is, and where its root is mounted if it
// runs. Nothing of that comes from layertrace.
func (i *inspection) place(t *testing.T) (upper, merged string) {
	t.Helper()
	if upper := i.GraphDriver.Data["UpperDir"]; upper != "" {
		return upper, i.GraphDriver.Data["MergedDir"]
	}
	merged, upper, err := hostOverlay(i.ID)
	if err == nil && upper == "" {
		upper, err = snapshotUpper(i.ID)
	}
	if err != nil {
		t.Fatalf("container %s, driver %s: its layer is not found: %v", i.Name, i.GraphDriver.Name, err)
	}
	return upper, merged
}

// size is the apparent size of the box's layer: what Docker says with overlay2,
// and a walk where Docker tells the other number.
func (b *box) size(t *testing.T) int64 {
	t.Helper()
	got := env.docker.inspect(t, b.id, true)
	if got.SizeRw == nil {
		t.Fatalf("%s: docker inspect -s says no SizeRw", b.name)
	}
	if got.GraphDriver.Name == overlay2 {
		return *got.SizeRw
	}
	return walkLayer(t, b.upper).size
}

// imageFile returns where the only layer of the image has a file.
func imageFile(name string) (string, error) {
	var image inspection
	if err := env.docker.do("GET", "/images/"+imageName+"/json", nil, &image); err != nil {
		return "", err
	}
	if upper := image.GraphDriver.Data["UpperDir"]; upper != "" {
		return filepath.Join(upper, name), nil
	}
	found, err := filepath.Glob("/var/lib/docker/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/" + name)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%s is in %d snapshots, want one: %v", name, len(found), found)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}
