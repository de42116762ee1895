package resolver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestLogMeter(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := NewLogMeter(filepath.Join(dir, "c-json.log"))
	check := func(what string, full bool, files int, size int64) {
		t.Helper()
		got, err := m.Measure(full)
		if err != nil || got.Files != files || got.Size != size {
			t.Errorf("%s: %+v, %v; want %d files, %d bytes", what, got, err, files, size)
		}
	}
	check("not written yet", false, 0, 0)
	write("c-json.log", 1000)
	write("c-json.logs", 7)  // somebody else's
	write("hostconfig", 900) //
	check("written", false, 1, 1000)
	check("the same", false, 1, 1000)
	check("the same", false, 1, 1000)

	// Rotated: the old file is compressed meanwhile.
	if err := os.Rename(filepath.Join(dir, "c-json.log"), filepath.Join(dir, "c-json.log.1")); err != nil {
		t.Fatal(err)
	}
	write("c-json.log", 10)
	check("rotated", false, 2, 1010)
	write("c-json.log.1.gz", 50)
	check("being compressed", false, 3, 1060)
	write("c-json.log.1.gz", 80) // grows in place: no directory changes
	check("compressed", false, 3, 1090)
	if err := os.Remove(filepath.Join(dir, "c-json.log.1")); err != nil {
		t.Fatal(err)
	}
	check("the uncompressed one is removed", false, 2, 90)
	check("quiet", false, 2, 90)
	write("c-json.log.1.gz", 81)
	check("quiet: nobody looks", false, 2, 90)
	check("the last look is a full one", true, 2, 91)

	if err := os.Mkdir(filepath.Join(dir, "c-json.log.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "c-json.log.2")); err != nil {
		t.Fatal(err)
	}
	check("what is no file", false, 2, 91)

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Measure(true); !errors.Is(err, fs.ErrNotExist) || got.Size != 91 {
		t.Errorf("removed: %+v, %v", got, err)
	}
}

func TestLogPathOfTheLocalDriver(t *testing.T) {
	h := newHost(t)
	e := newFakeEngine(
		Details{ID: id("1"), Name: "local", LogDriver: "local"},
		Details{ID: id("2"), Name: "none", LogDriver: "none"},
		Details{ID: id("3"), Name: "json", LogDriver: "json-file", LogPath: "/l"},
	)
	e.rootDir = h.root + "/docker"
	r := h.resolver(e)
	for name, want := range map[string]string{
		"local": h.root + "/docker/containers/" + id("1") + "/local-logs/container.log", "none": "", "json": "/l",
	} {
		c, err := r.Find(t.Context(), name)
		h.must(err)
		if c.LogPath != want {
			t.Errorf("%s: %q, want %q", name, c.LogPath, want)
		}
	}
}
