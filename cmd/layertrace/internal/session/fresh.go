package session

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/internal/layer"
	"github.com/layertrace/layertrace/tracer"
)

const (
	// freshFor is how long after its last change a file may be written back: what
	// is dirty waits for half a minute, and then for the disk.
	freshFor = 90 * time.Second
	// freshMax bounds the fresh files of a layer that are looked at again.
	freshMax = 1 << 16
	// recheckEvery is how often a fresh file is looked at. If the kernel does not tell
	// whether somebody is in the middle of a change, that ends after recheckFor; else
	// it ends with the answer, but not later than recheckAtMost.
	recheckEvery  = 20 * time.Millisecond
	recheckFor    = 2 * time.Second
	recheckAtMost = 20 * time.Second
	// looksAtOnce bounds the files that are open for looks.
	looksAtOnce = 256
	// rightFor is how long a fresh file must have been what its page says, if the kernel
	// does not tell. A look may come between the same two steps as the one before it, if
	// who takes them was interrupted there: an emulated processor stops for a tenth of a
	// second.
	rightFor = 150 * time.Millisecond
	// sameDifference is how many looks must have found the same difference, one
	// after the other, before it is taken for one.
	sameDifference = 5
	// lastTries is for the end, when nobody else can be waited for.
	lastTries = 64
)

// fresh is a file that had changed shortly before its baseline was taken. On ext4 a
// change of what is allocated takes several steps: the hook that tells of it comes
// before stat sees it, or after; and write-back turns reserved blocks into allocated
// ones in two steps, between which stat sees neither, and of which no hook tells since
// nothing grows. A baseline taken in the middle is wrong for good. So it is handed over
// only after the file has been seen to be what its page says, in a moment of which the
// kernel tells that nobody is changing it, or else for a while.
type fresh struct {
	seed    aggregate.Baseline
	path    string // in the container
	handle  unix.FileHandle
	handled bool      // there is a handle
	untold  bool      // the kernel does not tell of this file
	diff    int64     // of stat to the page, at the last looks
	seen    int       // looks that found it
	right   time.Time // since when looks found no difference; zero if the last did
}

// keepFresh holds back the seed of a file that may be written back while it is looked
// at. It reports whether it did.
func (b *baseline) keepFresh(e *layer.Entry, seed *aggregate.Baseline) bool {
	if e.Mode&unix.S_IFMT != unix.S_IFREG ||
		b.clock.Now().Sub(e.Changed).Abs() >= freshFor { // the clock may have been set
		return false
	}
	f := fresh{seed: *seed, path: inContainer(e.Path)}
	f.handle, f.handled = e.Handle()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.fresh) >= freshMax {
		return false
	}
	b.fresh = append(b.fresh, f)
	return true
}

// recheck looks at the fresh files until each is what its page says. What a page lacks
// belongs to the file's baseline.
func (b *baseline) recheck(ctx context.Context) error {
	if len(b.fresh) == 0 {
		return nil
	}
	root, err := openRoot(upper{path: b.root})
	if err != nil {
		return nil // the layer is gone, which will be reported
	}
	defer root.close()
	// Of which file system handles are, no descriptor with O_PATH can tell.
	mount, err := unix.Openat(root.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(mount)
	r := recheck{baseline: b, root: root, mount: mount, began: b.clock.Now()}
	for i := range b.fresh {
		r.open = append(r.open, &b.fresh[i])
	}
	return r.run(ctx)
}

// recheck is one that is going on.
type recheck struct {
	*baseline
	root  upperDir
	mount int
	began time.Time
	open  []*fresh // those that are not known to be right
}

func (r *recheck) run(ctx context.Context) error {
	for {
		lasted := r.clock.Now().Sub(r.began)
		left := r.open[:0]
		for batch := range slices.Chunk(r.open, looksAtOnce) {
			if err := r.look(batch, lasted >= recheckFor); err != nil {
				return err
			}
			for _, f := range batch {
				if f != nil {
					left = append(left, f)
				}
			}
		}
		if r.open = left; len(left) == 0 || lasted >= recheckAtMost {
			return nil
		}
		select {
		case <-r.clock.After(recheckEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look leaves nil in place of the files of which nothing more is to be done.
func (r *recheck) look(batch []*fresh, late bool) error {
	fds := make([]int, len(batch))
	ask := false
	for i, f := range batch {
		fds[i] = r.hold(f)
		if fds[i] >= 0 {
			defer unix.Close(fds[i])
			ask = ask || !f.untold
		}
	}
	var looks map[int]tracer.Look
	if ask {
		var err error
		if looks, err = r.kernel.LookOpen(); err != nil {
			return err
		}
	}
	for i, f := range batch {
		right, err := true, error(nil) // if it is gone, or nothing leads to it
		if look, told := looks[fds[i]]; told {
			right, err = r.compare(f, &look)
		} else if fds[i] >= 0 {
			f.untold = true
			right, err = r.guess(f, fds[i], late)
			right = right || late
		}
		if err != nil {
			return err
		}
		if right {
			batch[i] = nil
		}
	}
	return nil
}

// hold opens the file, wherever it is now; -1 if it can not be found.
func (r *recheck) hold(f *fresh) int {
	if f.handled {
		fd, err := unix.OpenByHandleAt(r.mount, f.handle, unix.O_PATH|unix.O_CLOEXEC)
		if err == nil {
			return fd
		}
	}
	fd, ok := r.root.open(f.path)
	if !ok {
		return -1
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != f.seed.File.Inode {
		unix.Close(fd)
		return -1
	}
	return fd
}

// compare reports whether nothing more is to be done about the file, by what the kernel
// tells of it.
func (b *baseline) compare(f *fresh, look *tracer.Look) (right bool, err error) {
	switch {
	case look.File != f.seed.File || look.Deleted:
		return true, nil
	case !look.Steady:
		return false, nil
	case look.Disk == look.Allocated:
		return true, nil
	}
	turned, err := b.kernel.Turn(b.dev, look.Entry, look.Size, look.Allocated)
	if turned {
		f.seed.Disk += look.Allocated - look.Disk
	}
	return turned, err
}

// guess does the same where the kernel does not tell. Late it tries harder, and puts
// right what has differed all the time.
func (b *baseline) guess(f *fresh, fd int, late bool) (right bool, err error) {
	tries := 1
	if late {
		tries = lastTries
	}
	for range tries {
		before, err := markOf(b.kernel, b.dev, f.seed.File.Inode)
		if err != nil {
			return false, err
		}
		page := before.page
		if !before.known || page.Deleted || page.File != f.seed.File {
			return true, nil
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return false, fmt.Errorf("looking at %q: %w", f.path, err)
		}
		is := sizesOf(&st)
		after, err := markOf(b.kernel, b.dev, f.seed.File.Inode)
		switch {
		case err != nil:
			return false, err
		case !after.same(&before):
			continue
		case is.disk == page.Disk:
			f.seen = 0
			now := b.clock.Now()
			if f.right.IsZero() {
				f.right = now
			}
			return now.Sub(f.right) >= rightFor, nil
		case f.seen == 0 || f.diff != is.disk-page.Disk:
			f.diff, f.seen = is.disk-page.Disk, 0
		}
		f.seen++
		f.right = time.Time{}
		if !late || f.seen < sameDifference {
			continue
		}
		turned, err := b.kernel.Turn(b.dev, page, page.Size, is.disk)
		if err != nil {
			return false, err
		}
		if turned {
			f.seed.Disk += f.diff
			return true, nil
		}
	}
	return false, nil
}
