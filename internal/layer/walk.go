package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// maxOpen bounds the directories that are held open; those further up are
	// opened again, through "..", when the walk comes back to them.
	maxOpen = 128
	// maxOpenHelping is the bound for each thread that helps.
	maxOpenHelping = 16
	// maxReplaced bounds how often a name that changes hands is looked at again.
	maxReplaced = 16
	// pollEvery is after how many entries ctx is looked at.
	pollEvery = 256
)

// Walk visits the directory root and everything below it, depth first, each
// directory before its entries, and those in the order of their bytes. It works
// relative to open directories, so that neither depth nor path length is
// limited and a directory that is renamed while the walk is in it is still
// walked; it follows no symlink. Entries that vanish meanwhile are left out. It
// leaves access times as they are where the kernel allows that.
//
// It runs, and calls the visitor, on a thread of its own, of which disk requests
// are served after those of others, and returns when that has ended.
//
// Errors are those of the visitor, of ctx, and of directories that can not be
// read, named with their path.
func Walk(ctx context.Context, root string, v Visitor) error {
	w := newWalker(v)
	return w.walk(ctx, root)
}

type walker struct {
	visitor    Visitor
	enterer    Enterer // the same; nil if it is none
	attributes bool    // look for overlayfs's extended attributes
	crew       *crew   // those who share the walk; nil if nobody does

	stack []frame
	path  []byte // of the innermost frame, relative to the root; empty at the root
	shut  int    // frames 1 to shut have their descriptors given up

	mostOpen int // of the frames' descriptors
	entry    Entry
	held     int // what an enterer was told of, with O_PATH; -1 if nothing is
	visited  int
	dirBuf   []byte
	attrBuf  []byte

	ownCwd bool // the thread has a working directory of its own
	cwd    int  // the descriptor of what that is; -1 if it is none of the frames'
}

// frame is a directory between the root and where the walk is.
type frame struct {
	fd         int // -1 while given up
	dev, inode uint64
	pathLen    int // of its path
	entries    []string
	next       int
	replaced   int // how often the last name has led to another directory
}

func newWalker(v Visitor) *walker {
	w := &walker{visitor: v, attributes: true, held: -1, mostOpen: maxOpen}
	w.enterer, _ = v.(Enterer)
	return w
}

// walk walks on a thread of its own.
func (w *walker) walk(ctx context.Context, root string) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.begin()
		defer w.end()
		err = w.walkFrom(ctx, root)
	}()
	<-done
	return err
}

// prepareThread makes the disk serve others first and, where attributes are to be
// read, gives the thread a working directory of its own. What is refused is done
// without.
func (w *walker) prepareThread() {
	const (
		ofProcess  = 1 // IOPRIO_WHO_PROCESS, which means the thread
		bestEffort = 2 << 13
		last       = 7
	)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ofProcess, 0, bestEffort|last)
	w.ownCwd = w.attributes && unix.Unshare(unix.CLONE_FS) == nil
	w.cwd = -1
}

// begin makes the calling thread the walk's: it ends with the goroutine, since it is
// not as others are.
func (w *walker) begin() {
	runtime.LockOSThread()
	w.prepareThread()
	if w.attributes {
		w.attrBuf = make([]byte, 1024)
	}
	w.dirBuf = make([]byte, 64<<10)
}

// end closes what an error has left open.
func (w *walker) end() {
	for _, f := range w.stack {
		if f.fd >= 0 {
			unix.Close(f.fd)
		}
	}
	w.stack = nil
}

func (w *walker) walkFrom(ctx context.Context, root string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := openDir(unix.AT_FDCWD, root)
	if err != nil {
		return fmt.Errorf("opening %q: %w", root, err)
	}
	w.stack = append(w.stack, frame{fd: fd})
	switch err := w.visitRoot(root); {
	case errors.Is(err, SkipDir):
		return nil
	case err != nil:
		return err
	}
	return w.walkStack(ctx)
}

// walkStack visits all that is left of the directories in the stack.
func (w *walker) walkStack(ctx context.Context) error {
	for len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		if top.next == len(top.entries) {
			if err := w.leave(); err != nil {
				return err
			}
			continue
		}
		if w.visited++; w.visited%pollEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if w.crew != nil {
			w.crew.help(ctx, w)
		}
		name := top.entries[top.next]
		top.next++
		if err := w.visit(name); err != nil {
			return err
		}
	}
	return nil
}

// visitRoot visits the root, which has no name, and reads its entries.
func (w *walker) visitRoot(path string) error {
	root := &w.stack[0]
	st, err := statAt(root.fd, "")
	if err != nil {
		return fmt.Errorf("looking at %q: %w", path, err)
	}
	if w.enterer != nil {
		if err := w.enterer.Enter(0, "", st.Ino, st.Mode&unix.S_IFMT); err != nil {
			return err
		}
		if st, err = statAt(root.fd, ""); err != nil {
			return fmt.Errorf("looking at %q: %w", path, err)
		}
	}
	root.dev, root.inode = st.Dev, st.Ino
	w.entry = Entry{Path: ".", dirFD: root.fd, held: -1}
	w.entry.set(&st)
	if w.attributes {
		w.readAttributes()
	}
	if err := w.visitor.Visit(&w.entry); err != nil {
		return err
	}
	root.entries, err = readDir(root.fd, w.dirBuf)
	if err != nil {
		return fmt.Errorf("reading directory %q: %w", path, err)
	}
	return nil
}

// visit visits a name of the innermost frame and, if it is a directory's, makes that
// the innermost frame.
func (w *walker) visit(name string) error {
	parent := len(w.stack) - 1
	dir := &w.stack[parent]
	w.path = w.path[:dir.pathLen]
	if len(w.path) > 0 {
		w.path = append(w.path, '/')
	}
	w.path = append(w.path, name...)
	defer w.letGo()
	for ; dir.replaced < maxReplaced; dir.replaced++ {
		w.letGo()
		switch seen, err := w.look(dir, name); {
		case seen == replaced && err == nil:
			continue
		case errors.Is(err, SkipDir) && w.entry.Dir():
			dir.replaced = 0
			return nil
		case err != nil:
			return err
		case seen == vanished || !w.entry.Dir():
			dir.replaced = 0
			return nil
		}
		switch same, err := w.descend(name); {
		case err != nil:
			return err
		case same:
			w.stack[parent].replaced = 0
			return nil
		case w.held < 0:
			continue
		}
		// Somebody has moved it, maybe to where the walk has been, so it is read
		// here. After that comes what the name stands for now.
		w.stack[parent].replaced++
		w.stack[parent].next--
		return w.descendHeld()
	}
	return fmt.Errorf("looking at %q: it was replaced %d times meanwhile", w.path, maxReplaced)
}

// sight is what became of a name.
type sight int

const (
	visited sight = iota
	vanished
	replaced // it stands for another inode than a moment ago
)

// look visits what a name stands for now.
func (w *walker) look(dir *frame, name string) (sight, error) {
	if w.enterer != nil {
		fd, st, err := hold(dir.fd, name)
		if errors.Is(err, unix.ENOENT) {
			return vanished, nil
		}
		if err != nil {
			return vanished, fmt.Errorf("looking at %q: %w", w.path, err)
		}
		w.held = fd
		if err := w.enterer.Enter(dir.inode, name, st.Ino, st.Mode&unix.S_IFMT); err != nil {
			return vanished, err
		}
		switch now, err := statAt(dir.fd, name); {
		case err == nil && now.Ino == st.Ino && now.Dev == st.Dev && now.Nlink == 0:
			// It is being removed, and the kernel will forget the name next.
			return vanished, w.enterer.Nameless()
		case err == nil && now.Ino == st.Ino && now.Dev == st.Dev:
			return visited, w.show(dir, name, &now)
		case err == nil:
			return replaced, w.lost(fd)
		case errors.Is(err, unix.ENOENT):
			return vanished, w.lost(fd)
		default:
			return vanished, fmt.Errorf("looking at %q: %w", w.path, err)
		}
	}
	st, err := statAt(dir.fd, name)
	if errors.Is(err, unix.ENOENT) {
		return vanished, nil
	}
	if err != nil {
		return vanished, fmt.Errorf("looking at %q: %w", w.path, err)
	}
	return visited, w.show(dir, name, &st)
}

// letGo ends the holding of what was entered.
func (w *walker) letGo() {
	if w.held >= 0 {
		unix.Close(w.held)
		w.held = -1
	}
}

// lost tells the visitor if what was entered has no name left.
func (w *walker) lost(fd int) error {
	st, err := statAt(fd, "")
	if err != nil {
		return fmt.Errorf("looking at what was %q: %w", w.path, err)
	}
	if st.Nlink > 0 {
		return nil
	}
	return w.enterer.Nameless()
}

// show has the visitor visit what lstat has seen.
func (w *walker) show(dir *frame, name string, st *unix.Stat_t) error {
	w.entry = Entry{Path: string(w.path), Name: name, Parent: dir.inode, dirFD: dir.fd, held: w.held}
	w.entry.set(st)
	if w.attributes && !w.entry.Whiteout {
		w.readAttributes()
	}
	return w.visitor.Visit(&w.entry)
}

// descend opens the directory that was just visited and reads its entries. It
// reports false if the name stands for something else now.
func (w *walker) descend(name string) (bool, error) {
	if err := w.limitOpen(); err != nil {
		return false, err
	}
	fd, err := openDir(w.stack[len(w.stack)-1].fd, name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("opening directory %q: %w", w.path, err)
	}
	st, err := statAt(fd, "")
	if err != nil {
		unix.Close(fd)
		return false, fmt.Errorf("looking at %q: %w", w.path, err)
	}
	if st.Ino != w.entry.Inode || st.Dev != w.entry.Dev {
		unix.Close(fd)
		return false, nil
	}
	return true, w.push(fd)
}

// descendHeld is descend for a directory that has another name by now. What has none
// has no entries.
func (w *walker) descendHeld() error {
	fd, err := openDir(w.held, ".")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening directory %q: %w", w.path, err)
	}
	return w.push(fd)
}

// push reads the entries of the directory that was just visited and makes it the
// innermost frame. It takes fd over.
func (w *walker) push(fd int) error {
	entries, err := readDir(fd, w.dirBuf)
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: removed while open
		unix.Close(fd)
		return fmt.Errorf("reading directory %q: %w", w.path, err)
	}
	w.stack = append(w.stack, frame{
		fd: fd, dev: w.entry.Dev, inode: w.entry.Inode, pathLen: len(w.path), entries: entries,
	})
	return nil
}

// limitOpen gives up the outermost descriptor, but never the root's, when the
// bound is reached.
func (w *walker) limitOpen() error {
	if len(w.stack)-w.shut < w.mostOpen {
		return nil
	}
	w.shut++
	f := &w.stack[w.shut]
	w.cwd = -1
	err := unix.Close(f.fd)
	f.fd = -1
	if err != nil {
		return fmt.Errorf("closing directory %q: %w", w.path[:f.pathLen], err)
	}
	return nil
}

// leave ends the innermost frame and makes sure that the next one is open.
func (w *walker) leave() error {
	last := len(w.stack) - 1
	child := w.stack[last]
	w.stack = w.stack[:last]
	w.cwd = -1
	defer unix.Close(child.fd)
	if last == 0 {
		return nil
	}
	parent := &w.stack[last-1]
	w.path = w.path[:parent.pathLen]
	if parent.fd >= 0 {
		return nil
	}
	fd, err := w.reopen(child.fd, parent)
	if err != nil {
		return fmt.Errorf("coming back to directory %q: %w", w.path, err)
	}
	parent.fd = fd
	w.shut = last - 2
	return nil
}

// reopen opens a frame again that was given up: as the parent of its child, or,
// if the child has been moved away, by its path.
func (w *walker) reopen(childFD int, f *frame) (int, error) {
	fd, err := openDir(childFD, "..")
	if err == nil {
		if err = f.check(fd); err == nil {
			return fd, nil
		}
		unix.Close(fd)
	}
	outermost := &w.stack[0]
	fd = outermost.fd
	below := bytes.TrimPrefix(w.path[outermost.pathLen:f.pathLen], []byte{'/'})
	for name := range bytes.SplitSeq(below, []byte{'/'}) {
		next, err := openDir(fd, string(name))
		if fd != outermost.fd {
			unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	if err := f.check(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// check makes sure that fd is the frame's directory.
func (f *frame) check(fd int) error {
	st, err := statAt(fd, "")
	if err != nil {
		return err
	}
	if st.Dev != f.dev || st.Ino != f.inode {
		return errors.New("it was moved meanwhile")
	}
	return nil
}

// readAttributes fills in what overlayfs has noted at the current entry. An
// entry whose attributes can not be read has none: the file system may not
// support them, or the entry is gone by now.
func (w *walker) readAttributes() {
	e := &w.entry
	path := w.attributePath()
	var n int
	for {
		err := retry(func() (err error) {
			n, err = unix.Llistxattr(path, w.attrBuf)
			return err
		})
		if errors.Is(err, unix.ERANGE) && len(w.attrBuf) < 64<<10 { // XATTR_LIST_MAX
			w.attrBuf = make([]byte, 64<<10)
			continue
		}
		if err != nil {
			return
		}
		break
	}
	for name := range bytes.SplitSeq(w.attrBuf[:n], []byte{0}) {
		switch string(name) {
		case "trusted.overlay.origin", "user.overlay.origin":
			e.CopiedUp = true
		case "trusted.overlay.opaque", "user.overlay.opaque":
			var value [2]byte
			n, err := unix.Lgetxattr(path, string(name), value[:])
			e.Opaque = e.Dir() && err == nil && string(value[:n]) == "y"
		}
	}
}

// attributePath is a path of the current entry for calls that do not follow a
// symlink and, before Linux 6.13, have no form that is relative to a directory:
// its name in the thread's working directory. Where the thread has none of its
// own, the way is through /proc, which takes several times as long.
func (w *walker) attributePath() string {
	e := &w.entry
	if w.ownCwd && w.cwd != e.dirFD {
		if err := retry(func() error { return unix.Fchdir(e.dirFD) }); err != nil {
			w.ownCwd = false
		}
		w.cwd = e.dirFD
	}
	switch {
	case !w.ownCwd:
		return "/proc/thread-self/fd/" + strconv.Itoa(e.dirFD) + "/" + e.Name
	case e.Name == "":
		return "."
	}
	return e.Name
}

// openDir opens a directory, which must not be a symlink, for reading.
func openDir(dirFD int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	var fd int
	open := func(flags int) error {
		return retry(func() (err error) {
			fd, err = unix.Openat(dirFD, name, flags, 0)
			return err
		})
	}
	err := open(flags | unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) { // neither owner nor privileged
		err = open(flags)
	}
	return fd, err
}

// hold opens what a name stands for, whatever it is, so that its inode stays.
func hold(dirFD int, name string) (fd int, st unix.Stat_t, err error) {
	err = retry(func() (err error) {
		fd, err = unix.Openat(dirFD, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, st, err
	}
	if st, err = statAt(fd, ""); err != nil {
		unix.Close(fd)
	}
	return fd, st, err
}

// readDir returns the names in an open directory without . and .., in order.
func readDir(fd int, buf []byte) ([]string, error) {
	var names []string
	for {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Getdents(fd, buf)
			return err
		})
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	slices.Sort(names)
	return names, nil
}
