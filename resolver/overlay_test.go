package resolver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRealOverlay describes a process whose root is an overlay that the kernel
// has mounted, with a name that needs every kind of escape.
func TestRealOverlay(t *testing.T) {
	shell, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no static shell to run as a container:", err)
	}
	h := newHost(t)
	const name = `odd dir,with\all:of them`
	odd := h.dir(name)
	for _, d := range []string{"l/bin", "l/proc", "u", "w", "m"} {
		h.dir(name + "/" + d)
	}
	data, err := os.ReadFile(shell)
	h.must(err)
	h.must(os.WriteFile(odd+"/l/bin/busybox", data, 0o755))
	escaped := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`).Replace(odd)
	options := fmt.Sprintf("lowerdir=%[1]s/l,upperdir=%[1]s/u,workdir=%[1]s/w", escaped)
	err = unix.Mount("overlay", odd+"/m", "overlay", 0, options)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		t.Skip("no overlay can be mounted here:", err)
	}
	h.must(err)
	t.Cleanup(func() { h.must(unix.Unmount(odd+"/m", unix.MNT_DETACH)) })

	cmd := exec.Command("/bin/busybox", "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: odd + "/m"}
	cmd.Dir = "/"
	if err := cmd.Start(); errors.Is(err, os.ErrNotExist) {
		t.Skip("the shell is not static:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })

	e := newFakeEngine(Details{ID: id("a"), Name: "c", State: StateRunning, PID: cmd.Process.Pid, Driver: "overlayfs", StartedAt: time.Now()})
	r, err := New(Config{Engine: e})
	h.must(err)
	defer r.Close()
	c, err := r.Find(t.Context(), "c")
	h.must(err)
	if c.LayerErr != nil || c.UpperDir != odd+"/u" || c.UpperInode != inode(t, odd+"/u") || c.UpperDevice == 0 {
		t.Errorf("%+v", c)
	}
	var st unix.Stat_t
	h.must(unix.Stat(odd+"/m", &st))
	if want := uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev)); c.OverlayDevice != want {
		t.Errorf("overlay device %d, want %d", c.OverlayDevice, want)
	}
	if !r.ProcessAlive(c.InitPID, 0) {
		t.Error("it does not live")
	}
}
