package session

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A file can lie deeper than a path that a system call takes is long.
func TestStatOfLongPath(t *testing.T) {
	root, err := openRoot(upper{path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer root.close()
	name, path := strings.Repeat("d", 250), ""
	dir := root.fd
	for range 40 {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		dir, path = fd, path+"/"+name
	}
	fd, err := unix.Openat(dir, "f", unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "f")
	defer f.Close()
	if _, err := f.Write(make([]byte, 123)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if is, found := root.stat(st.Ino, "/elsewhere", path+"/f"); !found || is.size != 123 {
		t.Errorf("%+v, %v", is, found)
	}
	if _, found := root.stat(st.Ino, path+"/g"); found {
		t.Error("found by a name that is none")
	}
}
