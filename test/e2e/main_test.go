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
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// env is what all tests share.
var env struct {
	bin      string // layertrace
	workload string // the workload program
	docker   *dockerAPI
	dir      string // temporary, outside of any layer
	kernel   [2]int // version and patchlevel
}

func TestMain(m *testing.M) {
	if os.Getenv("LAYERTRACE_VM") != "1" {
		fmt.Println("test/e2e: these tests need the virtual machine (make test-e2e, or LAYERTRACE_VM=1 as root with Docker); none was run")
		return
	}
	code, err := setUpAndRun(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "test/e2e: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

func setUpAndRun(m *testing.M) (code int, err error) {
	began := time.Now()
	root, err := repositoryRoot()
	if err != nil {
		return 1, err
	}
	if env.bin, err = program("LAYERTRACE_BIN", filepath.Join(root, "bin/layertrace"), "go build -o bin/layertrace ./cmd/layertrace"); err != nil {
		return 1, err
	}
	if env.workload, err = program("LAYERTRACE_WORKLOAD", filepath.Join(root, "bin/workload"), "CGO_ENABLED=0 go build -o bin/workload ./test/workload"); err != nil {
		return 1, err
	}
	if os.Geteuid() != 0 {
		return 1, errors.New("these tests need root")
	}
	release, err := kernelRelease()
	if err != nil {
		return 1, err
	}
	if env.dir, err = os.MkdirTemp("", "layertrace-e2e-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(env.dir)
	// TestErrors runs layertrace as nobody, with its output in here.
	if err := os.Chmod(env.dir, 0o755); err != nil {
		return 1, err
	}
	env.docker = newDockerAPI()
	var version struct {
		Version    string
		APIVersion string `json:"ApiVersion"`
	}
	if err := env.docker.do("GET", "/version", nil, &version); err != nil {
		return 1, fmt.Errorf("docker is needed: %w", err)
	}
	if err := importImage(); err != nil {
		return 1, fmt.Errorf("making the image: %w", err)
	}
	defer func() {
		if rmErr := env.docker.do("DELETE", "/images/"+imageName+"?force=1", nil, nil); rmErr != nil && err == nil {
			err = fmt.Errorf("removing the image: %w", rmErr)
		}
	}()
	fmt.Printf("test/e2e: Linux %s, Docker %s (API %s), ready after %.1f s\n", release, version.Version, version.APIVersion, time.Since(began).Seconds())
	return m.Run(), nil
}

func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory: run inside the repository")
		}
		dir = up
	}
}

// program finds an executable by an environment variable or at its usual place.
func program(variable, usual, build string) (string, error) {
	path := os.Getenv(variable)
	if path == "" {
		path = usual
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath(path); err != nil {
		return "", fmt.Errorf("%s: %w (%s, or set %s)", path, err, build, variable)
	}
	return path, nil
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	release := unix.ByteSliceToString(u.Release[:])
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return "", fmt.Errorf("kernel release %q", release)
	}
	for i := range env.kernel {
		digits := strings.TrimRightFunc(parts[i], func(r rune) bool { return r < '0' || r > '9' })
		n, err := strconv.Atoi(digits)
		if err != nil {
			return "", fmt.Errorf("kernel release %q: %w", release, err)
		}
		env.kernel[i] = n
	}
	return release, nil
}

// kernelAtLeast compares with the running kernel. Only what upstream says a
// kernel does not have may depend on it.
func kernelAtLeast(version, patchlevel int) bool {
	return env.kernel[0] > version || env.kernel[0] == version && env.kernel[1] >= patchlevel
}

// The image: busybox, the workload program, and files to change.
const imageName = "layertrace-e2e:1"

const (
	blobSize  = 3_700_000 // /usr/share/data/blob
	treeFiles = 40        // /usr/share/tree
	treeSize  = 1500      // the i-th file there has treeSize+i bytes
	busyFiles = 200       // /usr/share/busy, of busySize bytes each
	busySize  = 900
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
}

// applets are the programs of busybox that the tests call by name.
var applets = []string{"sh", "dd", "cp", "mv", "rm", "sed", "tar", "truncate", "chmod", "chown", "mkdir", "ln", "cat", "touch", "sleep"}

func importImage() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox (statically linked) is needed: %w", err)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(writeImage(pw, busybox)) }()
	return env.docker.do("POST", "/images/create?fromSrc=-&repo=layertrace-e2e&tag=1", pr, nil)
}

func writeImage(w io.Writer, busybox string) error {
	tw := tar.NewWriter(w)
	when := time.Unix(1_700_000_000, 0)
	dir := func(name string, mode int64) error {
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: when})
	}
	file := func(name string, mode int64, content []byte) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: when}); err != nil {
			return err
		}
		_, err := tw.Write(content)
		return err
	}
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root", "var", "var/log", "var/lib", "var/cache", "data", "run", "ctl", "srv", "w", "img", "img/emptydir", "img/dir", "usr", "usr/share", "usr/share/data", "usr/share/tree", "usr/share/tree/sub", "usr/share/busy"} {
		if err := dir(d, 0o755); err != nil {
			return err
		}
	}
	for name, path := range map[string]string{"bin/busybox": busybox, "bin/workload": env.workload} {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := file(name, 0o755, content); err != nil {
			return err
		}
	}
	for _, a := range applets {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777, ModTime: when}); err != nil {
			return err
		}
	}
	if err := file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n")); err != nil {
		return err
	}
	if err := file("usr/share/data/blob", 0o644, filler(blobSize)); err != nil {
		return err
	}
	for i := range treeFiles {
		name := fmt.Sprintf("usr/share/tree/f%02d", i)
		if i%2 == 1 {
			name = fmt.Sprintf("usr/share/tree/sub/f%02d", i)
		}
		if err := file(name, 0o644, filler(treeSize+i)); err != nil {
			return err
		}
	}
	for i := range busyFiles {
		if err := file(fmt.Sprintf("usr/share/busy/f%03d", i), 0o644, filler(busySize)); err != nil {
			return err
		}
	}
	for name, size := range imageFiles {
		content := filler(size)
		if name == "sed" {
			content = []byte(sedBefore)
		}
		if err := file("img/"+name, 0o644, content); err != nil {
			return err
		}
	}
	for i := range 3 {
		if err := file(fmt.Sprintf("img/dir/f%d", i), 0o644, filler(100)); err != nil {
			return err
		}
	}
	return tw.Close()
}

// filler is content without zero bytes, in lines.
func filler(n int) []byte {
	line := []byte("the quick brown fox jumps over the lazy dog, again\n")
	return bytes.Repeat(line, n/len(line)+1)[:n]
}
