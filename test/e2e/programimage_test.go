//go:build linux

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The image with programs of the host, as Debian's packages install them.
const programsImage = "layertrace-e2e-programs:1"

// hostPrograms are what is copied, and the packages that they are from.
var hostPrograms = map[string]string{
	"fio": "fio", "sqlite3": "sqlite3", "logrotate": "logrotate", "tar": "tar", "gzip": "gzip",
	"dpkg": "dpkg", "dpkg-deb": "dpkg", "dpkg-split": "dpkg",
	// What dpkg wants to find.
	"start-stop-daemon": "dpkg", "sh": "dash", "rm": "coreutils", "diff": "diffutils", "ldconfig": "libc-bin",
}

// hostLibraries are mounts that a container of the image needs: fio alone is linked
// to 80 MB of libraries, which would take longer to import than all else here.
var hostLibraries = []string{"/usr/lib:/usr/lib:ro", "/usr/lib64:/usr/lib64:ro"}

// importPrograms makes the image, and lets the test fail if a program is missing.
func importPrograms(t *testing.T) {
	t.Helper()
	paths := map[string]string{}
	for name, debianPackage := range hostPrograms {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Errorf("%v (Debian's package %s)", err, debianPackage)
		}
		paths[name] = path
	}
	if t.Failed() {
		t.FailNow()
	}
	if err := importTar(env.docker, programsImage, func(w *imageWriter) { writePrograms(w, paths) }); err != nil {
		t.Fatalf("making the image: %v", err)
	}
	t.Cleanup(func() {
		if err := removeImage(programsImage); err != nil {
			t.Error(err)
		}
	})
}

func writePrograms(w *imageWriter, paths map[string]string) {
	w.dirs("ctl", "data", "dev", "etc", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin",
		"usr/share", "usr/share/tree", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log")
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		w.symlink(dir, "usr/"+dir)
	}
	w.program("usr/bin/workload", env.workload)
	for _, path := range paths {
		w.program("usr/"+strings.TrimPrefix(strings.TrimPrefix(filepath.Clean(path), "/"), "usr/"), path)
	}
	for i := range treeFiles {
		w.file(fmt.Sprintf("usr/share/tree/f%02d", i), 0o644, filler(treeSize+i))
	}
	w.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	w.file("etc/group", 0o644, []byte("root:x:0:\n"))
	w.file("var/lib/dpkg/status", 0o644, nil)
}
