//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The image: busybox, the workload program, and files to change.
const imageName = "layertrace-e2e:1"

const (
	blobSize  = 3_700_000 // /usr/share/data/blob
	treeFiles = 40        // /usr/share/tree
	treeSize  = 1500      // the i-th file there has treeSize+i bytes
	busyFiles = 200       // /usr/share/busy, of busySize bytes each
	busySize  = 900
	// /img/sparse is a hole but for its end.
	sparseSize, sparseData = 2 << 20, 64 << 10
	hardSize               = 10_030 // /img/hard/a and /img/hard/b, which are one file
)

// treeTotal is what copying up all of /usr/share/tree adds to a layer's size.
func treeTotal() int64 {
	total := int64(0)
	for i := range treeFiles {
		total += int64(treeSize + i)
	}
	return total
}

// imageFiles are files that one test each may change: /img/NAME, of this size.
var imageFiles = map[string]int{
	"open": 10_001, "chmod": 10_002, "chown": 10_003, "truncate": 10_004, "rename": 10_005,
	"link": 10_006, "unlink": 10_007, "append": 10_008, "otrunc": 10_009, "utimes": 10_010,
	"setxattr": 10_011, "rewrite": 10_012, "mmap": 12_288, "over": 10_014, "sed": 0,
	"acl": 10_015, "exchange": 10_016, "replaces": 10_017, "replaced": 10_018, "chmod-unlink": 10_019,
	"cold": 10_020, "outside": 10_021, "uring": 10_022, "empty": 0, "no-space": 300_000,
	"clone": 10_023, "no-xattr": 10_024, "proc-root": 10_025, "docker-cp": 10_026, "huge": 24 << 20, "huge.2": 24 << 20,
}

// imageDirs are directories that one test each may change. Each holds a file
// called f of imageDirFile bytes, but for those that are called empty.
var imageDirs = []string{
	"empty-reused", "opaque", "moved", "chmod", "chown", "utimes", "setxattr", "setacl",
	"deep", "deep/a", "deep/a/b", "deep/a/b/c", "whiteout", "filled",
}

const imageDirFile = 300

// applets are the programs of busybox that the tests call by name.
var applets = []string{"sh", "dd", "cp", "mv", "rm", "sed", "tar", "truncate", "chmod", "chown", "mkdir", "ln", "cat", "touch", "sleep"}

func importImage() error {
	if err := importFiles(); err != nil {
		return err
	}
	return punchSparse()
}

// importFiles makes the image but for the hole in /img/sparse.
func importFiles() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox (statically linked) is needed: %w", err)
	}
	return importTar(env.docker, imageName, func(w *imageWriter) { writeImage(w, busybox) })
}

// punchSparse makes the hole of /img/sparse in the image's own directory, since
// Docker writes the zeros of an archive out. No container uses the image yet.
func punchSparse() error {
	name, err := imageFile("img/sparse")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, sparseSize-sparseData)
}

// importTar makes an image called NAME:TAG of what write writes.
func importTar(docker *dockerAPI, name string, write func(w *imageWriter)) error {
	repository, tag, _ := strings.Cut(name, ":")
	pr, pw := io.Pipe()
	go func() {
		w := &imageWriter{tar: tar.NewWriter(pw)}
		write(w)
		pw.CloseWithError(errors.Join(w.err, w.tar.Close()))
	}()
	return docker.do("POST", "/images/create?fromSrc=-&repo="+repository+"&tag="+tag, pr, nil)
}

func removeImage(name string) error {
	if err := env.docker.do("DELETE", "/images/"+name+"?force=1", nil, nil); err != nil {
		return fmt.Errorf("removing the image: %w", err)
	}
	return nil
}

// imageWriter writes an image as an archive. The first error is remembered, and
// nothing is written after it.
type imageWriter struct {
	tar *tar.Writer
	err error
}

func (w *imageWriter) entry(h tar.Header, content []byte) {
	if w.err != nil {
		return
	}
	h.ModTime, h.Size = time.Unix(1_700_000_000, 0), int64(len(content))
	if w.err = w.tar.WriteHeader(&h); w.err == nil {
		_, w.err = w.tar.Write(content)
	}
}

func (w *imageWriter) dirs(names ...string) {
	for _, name := range names {
		w.entry(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
	}
}

func (w *imageWriter) file(name string, mode int64, content []byte) {
	w.entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

// program copies a file of the host.
func (w *imageWriter) program(name, from string) {
	content, err := os.ReadFile(from)
	if w.err == nil {
		w.err = err
	}
	w.file(name, 0o755, content)
}

func (w *imageWriter) symlink(name, target string) {
	w.entry(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (w *imageWriter) link(name, target string) {
	w.entry(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, nil)
}

func writeImage(w *imageWriter, busybox string) {
	w.dirs("bin", "etc", "proc", "sys", "dev", "tmp", "root", "var", "var/log", "var/lib", "var/cache", "data", "run", "ctl", "srv", "w", "img",
		"img/emptydir", "img/dir", "img/hard", "img/dirs", "usr", "usr/share", "usr/share/data", "usr/share/tree", "usr/share/tree/sub", "usr/share/busy")
	w.program("bin/busybox", busybox)
	w.program("bin/workload", env.workload)
	for _, a := range applets {
		w.symlink("bin/"+a, "busybox")
	}
	w.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	w.file("usr/share/data/blob", 0o644, filler(blobSize))
	for i := range treeFiles {
		name := fmt.Sprintf("usr/share/tree/f%02d", i)
		if i%2 == 1 {
			name = fmt.Sprintf("usr/share/tree/sub/f%02d", i)
		}
		w.file(name, 0o644, filler(treeSize+i))
	}
	for i := range busyFiles {
		w.file(fmt.Sprintf("usr/share/busy/f%03d", i), 0o644, filler(busySize))
	}
	for name, size := range imageFiles {
		content := filler(size)
		if name == "sed" {
			content = []byte(sedBefore)
		}
		w.file("img/"+name, 0o644, content)
	}
	for i := range 3 {
		w.file(fmt.Sprintf("img/dir/f%d", i), 0o644, filler(100))
	}
	for _, name := range imageDirs {
		w.dirs("img/dirs/" + name)
		if !strings.HasPrefix(name, "empty") {
			w.file("img/dirs/"+name+"/f", 0o644, filler(imageDirFile))
		}
	}
	w.file("img/sparse", 0o644, append(make([]byte, sparseSize-sparseData), filler(sparseData)...))
	w.file("img/hard/a", 0o644, filler(hardSize))
	w.link("img/hard/b", "img/hard/a")
	w.symlink("img/symlink", "nowhere/in/particular")
}

// filler is content without zero bytes, in lines.
func filler(n int) []byte {
	line := []byte("the quick brown fox jumps over the lazy dog, again\n")
	return bytes.Repeat(line, n/len(line)+1)[:n]
}
