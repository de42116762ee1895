package layer

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOverlayAttributes(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("opaque")
	tr.mkdir("plain")
	tr.write("copied", 1)
	tr.write("added", 1)
	prefix := "trusted.overlay."
	if err := unix.Setxattr(tr.path("copied"), prefix+"origin", []byte{0}, 0); err != nil {
		prefix = "user.overlay."
		if err := unix.Setxattr(tr.path("copied"), prefix+"origin", []byte{0}, 0); errors.Is(err, unix.ENOTSUP) {
			t.Skip("no extended attributes here:", err)
		} else {
			tr.must(err)
		}
	}
	tr.must(unix.Setxattr(tr.path("opaque"), prefix+"opaque", []byte("y"), 0))
	tr.must(unix.Setxattr(tr.path("plain"), prefix+"opaque", []byte("x"), 0))
	tr.must(unix.Setxattr(tr.root, prefix+"origin", []byte{0}, 0))
	// A list longer than the first buffer; ext4 stops at a block.
	for i := range 20 {
		name := fmt.Sprintf("%s%s%02d", prefix, strings.Repeat("n", 80), i)
		if err := unix.Setxattr(tr.path("copied"), name, nil, 0); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	var r recorder
	tr.must(Walk(t.Context(), tr.root, &r))
	for path, want := range map[string][2]bool{
		".": {true, false}, "copied": {true, false}, "added": {}, "opaque": {false, true}, "plain": {},
	} {
		if e := r.entries[path]; e.CopiedUp != want[0] || e.Opaque != want[1] {
			t.Errorf("%s: copied up %v, opaque %v, want %v", path, e.CopiedUp, e.Opaque, want)
		}
	}
}

// TestOverlay reads what overlayfs itself makes of an upper directory.
func TestOverlay(t *testing.T) {
	tr := newTree(t)
	for _, d := range []string{"lower/dir", "lower/again", "upper", "work", "merged"} {
		tr.mkdir(d)
	}
	tr.write("lower/dir/chmod", 100_000)
	tr.write("lower/dir/remove", 10)
	tr.write("lower/again/old", 10)
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", tr.root)
	err := unix.Mount("overlay", tr.path("merged"), "overlay", 0, options)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		t.Skip("no overlay can be mounted here:", err)
	}
	tr.must(err)
	t.Cleanup(func() { tr.must(unix.Unmount(tr.path("merged"), 0)) })
	tr.must(os.Chmod(tr.path("merged/dir/chmod"), 0o600))
	tr.must(os.Remove(tr.path("merged/dir/remove")))
	tr.must(os.RemoveAll(tr.path("merged/again")))
	tr.mkdir("merged/again")
	tr.write("merged/again/new", 5)

	var r recorder
	tr.must(Walk(t.Context(), tr.path("upper"), &r))
	for path, want := range map[string]struct{ whiteout, copiedUp, opaque bool }{
		"dir":        {copiedUp: true},
		"dir/chmod":  {copiedUp: true},
		"dir/remove": {whiteout: true},
		"again":      {opaque: true},
		"again/new":  {},
	} {
		e, ok := r.entries[path]
		if !ok || e.Whiteout != want.whiteout || e.CopiedUp != want.copiedUp || e.Opaque != want.opaque {
			t.Errorf("%s: %+v, want %+v", path, e, want)
		}
	}
	if got := measure(t, tr.path("upper")); got != r.Totals || got.Size != 100_005 || got.Whiteouts != 1 {
		t.Errorf("%+v, walk says %+v", got, r.Totals)
	}
}
