package tracer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer/event"
)

// TestMountOptions changes what is in the image in ways in which it matters how the
// overlay is mounted: as no container runtime does.
func TestMountOptions(t *testing.T) {
	tracer := newTracer(t, Config{})
	defer tracer.Close()
	for _, options := range []string{
		"index=on", "metacopy=on", "redirect_dir=on", "volatile", "userxattr",
		"index=on,metacopy=on,redirect_dir=on", "index=on,nfs_export=on",
	} {
		t.Run(options, func(t *testing.T) {
			o, err := mountOverlay(t, ","+options, func(lower, _ string) {
				populateLinks(t, lower)
				for _, name := range []string{"meta", "late", "dir/sub/f"} {
					writeImage(t, filepath.Join(lower, name), 20_000)
				}
			})
			if options == "userxattr" && errors.Is(err, unix.EINVAL) {
				t.Log("n/a: this kernel has no overlay mounts with userxattr")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			o.tracer = tracer
			o.scan()
			defer o.remove()
			if options == "userxattr" && !marks(o) {
				t.Log("n/a: this file system has no attributes of users")
				return
			}
			o.check("baseline")
			for _, script := range imageWays {
				o.sh(script)
				o.check(script)
			}
		})
	}
}

// remove forgets the layer, so that its id is free again.
func (o *overlay) remove() {
	o.t.Helper()
	if err := o.tracer.RemoveLayer(testLayer); err != nil {
		o.t.Error(err)
	}
	for range 2 { // see RemoveLayer
		o.collect()
	}
}

// withIndex mounts an overlay on image files of several names with index=on.
func withIndex(t *testing.T) *overlay {
	t.Helper()
	o, err := tryOverlay(t, ",index=on", func(lower, _ string) { populateLinks(t, lower) })
	if err != nil {
		t.Fatal(err)
	}
	o.check("baseline")
	return o
}

func writeImage(t *testing.T, path string, size int) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, size), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// populateLinks makes image files of several names.
func populateLinks(t *testing.T, lower string) {
	t.Helper()
	for name, size := range map[string]int{"hard": 9000, "over": 9000, "held": 9000, "kept": 9000, "empty": 0} {
		path := filepath.Join(lower, "links", name)
		writeImage(t, path+".a", size)
		if err := errors.Join(os.Link(path+".a", path+".b"), os.Link(path+".a", path+".c")); err != nil {
			t.Fatal(err)
		}
	}
}

// imageWays change what is in the image where it matters how the overlay is mounted.
var imageWays = []string{
	// With metacopy=on the data come later, with redirect_dir=on the directory as it is.
	"chmod 600 meta",
	"echo more >> meta",
	"chmod 600 late",
	": >> late",
	"mv dir moved; chmod 600 moved/sub/f; echo more >> moved/sub/f",
	"mv moved/sub dir; rm -r moved dir",
	// Files of several names have one copy with index=on.
	"chmod 600 links/hard.a",
	"echo more >> links/hard.b",
	"rm links/hard.a",
	"rm links/hard.b",
	"echo again >> links/hard.c; sync",
	"ln links/hard.c links/hard.d",
	"rm links/hard.c",
	"rm links/hard.d",
	"chmod 600 links/empty.a; echo text > links/empty.b; rm links/empty.a links/empty.c",
	"mv links/over.a links/moved; echo text > links/new; mv links/new links/over.b",
	"rm links/moved; echo text > links/new; mv links/new links/over.c",
	"exec 3>>links/held.a; echo one >&3; rm links/held.a; echo two >&3; sync; echo three >> links/held.b; echo four >&3",
	"exec 3>>links/held.c; rm links/held.b; head -c 20000 /dev/zero >&3; rm links/held.c; head -c 20000 /dev/zero >&3; exec 3>&-",
	"rm links/kept.a; rm links/kept.b; rm links/kept.c",
	"rm -r links",
}

// TestIndex: with index=on the copy of an image file of several names counts for as
// long as one of them is in the layer, and is known by those that are. Size and owner
// are held against the disk after each step; here it is names and who holds what.
func TestIndex(t *testing.T) {
	o := withIndex(t)
	// hold opens the file for writing, which alone is an operation of the mount's.
	hold := func(name string) *os.File {
		t.Helper()
		file, err := os.OpenFile(filepath.Join(o.merged, name), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		return file
	}
	// events are those since the last call, but for directories.
	events := func() string {
		t.Helper()
		batch := o.collect()
		var text []string
		for _, f := range batch.Files {
			if f.Mode&unix.S_IFMT != unix.S_IFDIR {
				text = append(text, strings.TrimSpace(map[event.FileOp]string{
					event.FileCreated: "created", event.FileCopiedUp: "copied up", event.FileLinked: "linked", event.FileRenamed: "renamed",
					event.FileUnlinked: "unlinked", event.FileWhiteout: "whiteout", event.FileGone: "gone",
				}[f.Op]+" "+f.Name))
			}
		}
		return strings.Join(text, ", ")
	}
	openDeleted := func() int64 { return o.collect().Layers[0].OpenDeleted }
	expect := func(what, want string, size, open int64) {
		t.Helper()
		if got := events(); got != want {
			t.Errorf("%s: events %q, want %q", what, got, want)
		}
		if o.size != size {
			t.Errorf("%s: size %d, want %d", what, o.size, size)
		}
		if got := openDeleted(); got != open && o.fileSystem == "ext4" {
			t.Errorf("%s: %d bytes of deleted files are held, want %d", what, got, open)
		}
		o.check(what)
	}
	file := hold("links/hard.a")
	expect("opened", "copied up hard.a", 9000, 0)
	o.sh("chmod 600 links/hard.b")
	expect("its second name", "linked hard.b", 9000, 0)
	o.sh("rm links/hard.a links/hard.b")
	expect("both gone", "unlinked hard.a, whiteout hard.a, unlinked hard.b, whiteout hard.b", 0, 0)
	if _, err := file.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	expect("written in the index", "", 0, 0)
	o.sh("chmod 600 links/hard.c")
	expect("its third name", "copied up hard.c", 10_000, 0)
	o.sh("rm links/hard.c")
	var held unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &held); err != nil {
		t.Fatal(err)
	}
	expect("deleted while open", "unlinked hard.c, whiteout hard.c", 0, held.Blocks*512)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	expect("closed", "gone", 0, 0)
	if o.written != 1000 {
		t.Errorf("%d bytes were written, want 1000", o.written)
	}
}

// TestIndexBeforeScan: what lies in the index when a layer is added was there before,
// and joins the layer as a copy of this moment.
func TestIndexBeforeScan(t *testing.T) {
	o := withIndex(t)
	o.sh("chmod 600 links/hard.a links/over.a links/over.b; rm links/hard.a; sync")
	o.restart(Config{})
	o.check("baseline")
	o.sh("chmod 600 links/hard.b")
	o.check("from the index")
	o.sh("rm links/over.a")
	o.check("one of two names")
	o.sh("rm links/over.b")
	o.check("the other")
	if o.baseSize != 9000 || o.size != 0 {
		t.Errorf("baseline %d, growth %d; want 9000 and 0", o.baseSize, o.size)
	}
}

// TestRenameWhiteout: the whiteout that a rename leaves where new files inherit a
// long access control list takes a block for it (on ext4), until something takes its place.
func TestRenameWhiteout(t *testing.T) {
	o := newOverlay(t, func(lower, _ string) {
		for _, name := range []string{"a", "b", "c"} {
			writeImage(t, filepath.Join(lower, "dir", name, "image"), 500)
		}
	})
	for _, name := range []string{"a", "b", "c"} {
		o.command("dir/"+name, "w: setacl path=. kind=default entries=40", "")
	}
	o.check("the lists")
	for _, script := range []string{
		"mv dir/a/image moved; echo text > dir/a/image",
		"mv dir/b/image dir/b/moved; mv dir/b/moved dir/b/image; rm dir/b/image",
		"mv dir/c/image moved; rm -r dir/c; mkdir dir/c",
		"rm -r dir",
	} {
		o.sh(script)
		o.check(script)
	}
}
