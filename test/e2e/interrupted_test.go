//go:build linux

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What was cut short by a signal counts as far as it went.

// interruptedCall: a signal with a handler comes while data are moved from file to file,
// and the call returns what it has moved until then. A plain write to a file is
// only ended by a signal that kills (killedInWrite).
func interruptedCall(t *testing.T, st *stage) {
	const size = 64 * mib
	const from = "/w/interrupted"
	st.b.run(t, "prep", fields(fmt.Sprintf("write path=%s size=%d chunk=1048576", from, size))...)
	for _, kind := range []string{"sendfile", "copyrange"} {
		t.Run(kind, func(t *testing.T) {
			defer st.in(t)()
			name, path := "w-i-"+kind, "/w/interrupted-"+kind
			r := st.b.run(t, name, fields(fmt.Sprintf("interrupted kind=%s from=%s path=%s", kind, from, path))...)[0]
			got, disk := st.stat(t, path)
			if got != r.Written {
				t.Errorf("this test is wrong: the call returned %d, and the file has %d bytes", r.Written, got)
			}
			switch {
			case r.Written < size:
				t.Logf("%d of %d bytes were moved, %s", r.Written, size, r.Detail)
			case kind == "copyrange" && !st.ext4:
				t.Log("n/a: this file system copies a range by sharing its extents, at once")
			default:
				t.Errorf("this test is wrong: the call was done in spite of %s", r.Detail)
			}
			st.require("what was moved until the signal came", charged{name, path, got, disk, got})
			st.b.run(t, "prep", "unlink", "path="+path)
		})
	}
	st.b.run(t, "prep", "unlink", "path="+from)
}

// huge is a file of the image that it takes a while to copy up.
const huge = "/img/huge"

// copyUpKilled: a process is killed while overlayfs copies a file up for it. The
// copy is lost, and the next one is charged to who makes it.
func copyUpKilled(t *testing.T, st *stage) {
	const name, next = "w-up-killed", "w-up-next"
	p := st.b.spawn(t, name, fields("wait then chmod path="+huge+" then wait")...)
	p.until(t, "waiting")
	pid := st.b.hostPID(t, name)
	settle(t, st.b.upper)
	free := st.free(t)
	p.resume(t)
	copied := func() bool {
		var got unix.Stat_t
		return unix.Lstat(filepath.Join(st.b.upper, huge), &got) == nil
	}
	for deadline := time.Now().Add(procLimit); st.free(t) > free-mib && !copied(); {
		if time.Now().After(deadline) {
			t.Fatalf("nothing was copied within %s", procLimit)
		}
	}
	p.kill(t, pid)
	lost := charged{name: name, path: huge}
	if copied() {
		lost.size, lost.disk = st.stat(t, huge)
		if st.ext4 {
			t.Log("the copy was done before the process was killed")
		} else {
			t.Log("n/a: this file system copies by sharing extents, at once")
		}
	}
	st.b.run(t, next, "utimes", "path="+huge)
	size, disk := st.stat(t, huge)
	st.require("who has copied the file in the end", lost, charged{next, huge, size - lost.size, disk - lost.disk, 0})
	if l := st.mark(t); l.OpenDeletedBytes != 0 {
		t.Errorf("nothing is open, but the layer's record says: %+v", l)
	}
	st.b.run(t, "prep", "unlink", "path="+huge)
}

// copyUpInterrupted: signals come that have a handler, and the kernel begins the copy
// again after each until it is done.
func copyUpInterrupted(t *testing.T, st *stage) {
	const name, path = "w-up-signals", "/img/huge.2"
	r := st.b.run(t, name, fields("interrupted kind=chmod path="+path+" errno=EINTR then chmod path="+path)...)[0]
	switch t.Logf("%s, then: %v", r.Detail, r); {
	case r.Detail != "0 signals":
	case st.ext4:
		t.Error("this test is wrong: nothing was interrupted")
	default:
		t.Log("n/a: this file system copies by sharing extents, at once")
	}
	size, disk := st.stat(t, path)
	if size != img("huge.2") {
		t.Errorf("this test is wrong: the copy has %d bytes", size)
	}
	st.require("the copy, once", charged{name, path, size, disk, 0})
	if l := st.mark(t); l.OpenDeletedBytes != 0 {
		t.Errorf("nothing is open, but the layer's record says: %+v", l)
	}
	st.b.run(t, "prep", "unlink", "path="+path)
}

// free is how much space the file system of the layer has.
func (st *stage) free(t *testing.T) int64 {
	t.Helper()
	var got unix.Statfs_t
	if err := unix.Statfs(st.b.upper, &got); err != nil {
		t.Fatal(err)
	}
	return int64(got.Bfree) * got.Bsize
}
