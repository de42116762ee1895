package resolver

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const ownMounts = "LAYERTRACE_TEST_NAMESPACE"

// The mount table is read again when something was mounted, and only then. The test
// runs once more in a mount namespace of its own.
func TestHostMountsChange(t *testing.T) {
	if os.Getenv(ownMounts) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHostMountsChange$", "-test.v")
		cmd.Env = append(os.Environ(), ownMounts+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
			t.Skipf("unsupported: user namespaces: %v", err)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reads := 0
	h := hostMounts{path: "/proc/self/mountinfo", changed: func(f *os.File) bool {
		changed := mountsChanged(f)
		if changed {
			reads++
		}
		return changed
	}}
	defer h.close()
	point := t.TempDir()
	// expect looks twice, for which the table must be read so many times.
	expect := func(mounted bool, want int) {
		t.Helper()
		reads = 0
		for range 2 {
			table, err := h.read()
			must(err)
			if slices.ContainsFunc(table, func(m mountEntry) bool { return m.point == point }) != mounted {
				t.Fatalf("the table does not say that mounted is %v", mounted)
			}
		}
		if reads != want {
			t.Fatalf("read %d times, want %d", reads, want)
		}
	}
	expect(false, 0) // beside the first time
	for range 100 {
		must(unix.Mount("none", point, "tmpfs", 0, ""))
		expect(true, 1)
		must(unix.Unmount(point, 0))
		expect(false, 1)
	}
	h.close()
	h.path = point + "/none"
	if _, err := h.read(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
