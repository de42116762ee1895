// Package inside finds out where a path leads to inside a container, without
// running anything there: in one that runs, through /proc/PID/root; in one that
// does not, through the directories of its layer and image and what is going to be
// mounted over them. Symlinks are followed as a process of the container would
// follow them, and never out of it.
package inside

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symlinks one path may lead through, as in the kernel.
const maxLinks = 40

// Place is where a path leads to.
type Place struct {
	// Path is absolute and holds no symlinks, as far as it exists.
	Path string
	// Existing is its deepest part that exists; all of it if Exists.
	Existing string
	Exists   bool
	// Unknown tells that nobody can say whether it exists: what is mounted there
	// can not be seen while the container does not run.
	Unknown bool
	// Output is 1 or 2 if the path leads to the standard output or error of the
	// container's first process. Then nothing else but Links is set.
	Output int
	Links  []Link

	// Of Existing:
	Stat unix.Stat_t // zero if there is none, as of a directory that the runtime makes
	// MountID is that of the mount in the container's mount table. 0 if it does
	// not run, or before Linux 5.8.
	MountID int
	// Mount is the index of the mount among those of a container that does not
	// run; -1 if it is the root, and in a container that runs.
	Mount int

	fd int // of Existing, or -1
}

// Link is a symlink that was followed.
type Link struct {
	Path   string // absolute, in the container
	Target string // as it is written in the link
}

// Name returns a path on the host by which Existing can be looked at, until Close:
// also where no other path leads to it. A slash behind it leads to its entries.
// Empty if there is none.
func (p *Place) Name() string {
	if p.fd < 0 {
		return ""
	}
	return fmt.Sprintf("/proc/self/fd/%d", p.fd)
}

// Close releases Name. It is safe to call twice.
func (p *Place) Close() {
	if p.fd >= 0 {
		unix.Close(p.fd)
		p.fd = -1
	}
}

// NotDirError says that a path leads through something that is no directory.
type NotDirError struct{ Path string }

func (e *NotDirError) Error() string { return e.Path + " is no directory" }

// LoopError says that a path leads through too many symlinks.
type LoopError struct{ Path string }

func (e *LoopError) Error() string { return e.Path + " leads through too many symlinks" }

var (
	errAbsent  = errors.New("no such entry")
	errUnknown = errors.New("not to be seen")
)

// node is an existing file or directory on the way.
type node struct {
	fd      int // O_PATH; -1 if there is none
	stat    unix.Stat_t
	dir     bool
	link    string // target, of a symlink that is to be followed
	mountID int
	mount   int
}

func (n *node) close() {
	if n.fd >= 0 {
		unix.Close(n.fd)
	}
}

// tree is what a walk asks for the files of a container.
type tree interface {
	root() (node, error)
	// child returns the entry of a directory. at is its absolute path. Errors match
	// errAbsent if there is none, errUnknown if it can not be seen.
	child(dir *node, at, name string) (node, error)
	// output tells whether a path is the standard output (1) or error (2) of the
	// first process, or, if that has its output in a file, that file's path.
	output(name string) (stream int, file string)
}

// walk follows name, which is taken from the root.
func walk(t tree, name string) (*Place, error) {
	root, err := t.root()
	if err != nil {
		return nil, err
	}
	w := walker{tree: t, stack: []node{root}, todo: strings.Split(name, "/")}
	defer w.close()
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			return nil, err
		}
		if w.place.Output != 0 {
			w.place.Mount, w.place.fd = -1, -1
			return &w.place, nil
		}
	}
	return w.end(), nil
}

type walker struct {
	tree
	place   Place
	stack   []node   // existing directories, the root first
	names   []string // of all but the root
	missing []string // what does not exist below
	todo    []string
}

func (w *walker) close() {
	for i := range w.stack {
		w.stack[i].close()
	}
}

// at is the path of name in the directory where the walk is.
func (w *walker) at(name ...string) string {
	return "/" + path.Join(path.Join(w.names...), path.Join(w.missing...), path.Join(name...))
}

// step takes one component.
func (w *walker) step() error {
	name := w.todo[0]
	w.todo = w.todo[1:]
	top := &w.stack[len(w.stack)-1]
	switch {
	case name == "", name == ".":
		return nil
	case len(w.missing) > 0 && name == "..":
		w.missing = w.missing[:len(w.missing)-1]
		return nil
	case len(w.missing) > 0:
		w.missing = append(w.missing, name)
		return nil
	case !top.dir:
		return &NotDirError{w.at()}
	case name == "..":
		w.pop()
		return nil
	}
	at := w.at(name)
	whole := path.Join(at, path.Join(w.todo...))
	switch stream, file := w.output(whole); {
	case file != "":
		w.todo = nil
		return w.follow(whole, file)
	case stream != 0:
		w.place.Output, w.todo = stream, nil
		return nil
	}
	child, err := w.child(top, at, name)
	switch {
	case errors.Is(err, errUnknown), errors.Is(err, errAbsent):
		w.place.Unknown = errors.Is(err, errUnknown)
		w.missing = append(w.missing, name)
		return nil
	case err != nil:
		return fmt.Errorf("looking at %s: %w", at, err)
	case child.link != "":
		child.close()
		return w.follow(at, child.link)
	}
	w.stack, w.names = append(w.stack, child), append(w.names, name)
	return nil
}

// follow goes on where a symlink points to.
func (w *walker) follow(at, target string) error {
	w.place.Links = append(w.place.Links, Link{at, target})
	if len(w.place.Links) > maxLinks {
		return &LoopError{w.place.Links[0].Path}
	}
	if strings.HasPrefix(target, "/") {
		for len(w.stack) > 1 {
			w.pop()
		}
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	return nil
}

// pop goes up; from the root it leads to the root.
func (w *walker) pop() {
	last := len(w.stack) - 1
	if last == 0 {
		return
	}
	w.stack[last].close()
	w.stack, w.names = w.stack[:last], w.names[:last-1]
}

// end says where the walk ended.
func (w *walker) end() *Place {
	last := len(w.stack) - 1
	n := w.stack[last]
	w.stack = w.stack[:last] // its descriptor goes to the place
	p := &w.place
	p.Path, p.Existing = w.at(), "/"+path.Join(w.names...)
	p.Exists = len(w.missing) == 0
	p.Unknown = p.Unknown && !p.Exists
	p.Stat, p.MountID, p.Mount, p.fd = n.stat, n.mountID, n.mount, n.fd
	return p
}
