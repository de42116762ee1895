//go:build linux

package main

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// sizes are a layer's on the disk: apparent as overlay2 adds it up, which leaves directories out,
// and allocated as du does.
type sizes struct{ size, disk int64 }

func (s sizes) minus(t sizes) sizes { return sizes{s.size - t.size, s.disk - t.disk} }

// measure writes back what the layer's file system still holds in memory, after which nothing
// changes its disk use by itself, and walks the layer.
func measure(upper string) (sizes, error) {
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return sizes{}, fmt.Errorf("opening the layer %s: %w", upper, err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return sizes{}, fmt.Errorf("writing back the file system of %s: %w", upper, err)
	}
	var sum sizes
	seen := map[uint64]bool{} // a file with two names counts once
	err = filepath.WalkDir(upper, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		sum.disk += st.Blocks * 512
		if !entry.IsDir() {
			sum.size += st.Size
		}
		return nil
	})
	if err != nil {
		return sizes{}, fmt.Errorf("walking the layer: %w", err)
	}
	return sum, nil
}
