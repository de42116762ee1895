//go:build linux

package e2e

import (
	"errors"
	"fmt"
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
	api      [2]int // the newest version of its API that Docker has
}

func TestMain(m *testing.M) {
	if os.Getenv("LAYERTRACE_VM") != "1" {
		fmt.Println("test/e2e: these tests need the virtual machine (make test-vm, or LAYERTRACE_VM=1 as root with Docker); none was run")
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
	if _, err := fmt.Sscanf(version.APIVersion, "%d.%d", &env.api[0], &env.api[1]); err != nil {
		return 1, fmt.Errorf("docker's API version %q: %w", version.APIVersion, err)
	}
	if err := importImage(); err != nil {
		return 1, fmt.Errorf("making the image: %w", err)
	}
	defer func() { err = errors.Join(err, removeImage(imageName)) }()
	fmt.Printf("test/e2e: Linux %s, Docker %s (API %s), ready after %.1f s\n", release, version.Version, version.APIVersion, time.Since(began).Seconds())
	code = m.Run()
	if plainDaemon != nil {
		plainDaemon.stop()
	}
	return code, nil
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

// apiAtLeast compares with Docker's API.
func apiAtLeast(major, minor int) bool {
	return env.api[0] > major || env.api[0] == major && env.api[1] >= minor
}

// kernelAtLeast compares with the running kernel. Only what upstream says a
// kernel does not have may depend on it.
func kernelAtLeast(version, patchlevel int) bool {
	return env.kernel[0] > version || env.kernel[0] == version && env.kernel[1] >= patchlevel
}
