package session

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/internal/layer"
)

const (
	// freshFor is how long after its last change a file may be written back: what
	// is dirty waits for half a minute, and then for the disk.
	freshFor = 90 * time.Second
	// freshMax bounds the fresh files of a layer that are looked at again.
	freshMax = 1 << 16
	// recheckFor is how long a fresh file that is not what its page says is looked
	// at, and recheckEvery how often.
	recheckFor   = 2 * time.Second
	recheckEvery = 20 * time.Millisecond
	// rightFor is how long a fresh file must have been what its page says. A look may
	// come between the same two steps as the one before it, if who takes them was
	// interrupted there: an emulated processor stops for a tenth of a second.
	rightFor = 150 * time.Millisecond
	// sameDifference is how many looks must have found the same difference, one
	// after the other, before it is taken for one.
	sameDifference = 5
	// lastTries is for the end, when nobody else can be waited for.
	lastTries = 64
)

// fresh is a name of a file that had changed shortly before its baseline was taken.
// Write-back on ext4 turns reserved blocks into allocated ones in two steps, between
// which stat sees neither, and which no hook tells of since nothing grows: a baseline
// taken between the two is too low for good. So it is handed over only after the file
// has been seen to be what its page says, for a while.
type fresh struct {
	seed  aggregate.Baseline
	path  string    // in the container
	diff  int64     // of stat to the page, at the last looks
	seen  int       // looks that found it
	right time.Time // since when looks found no difference; zero if the last did
}

// keepFresh holds back the seed of a file that may be written back while it is looked
// at. It reports whether it did.
func (b *baseline) keepFresh(e *layer.Entry, seed *aggregate.Baseline) bool {
	if e.Mode&unix.S_IFMT != unix.S_IFREG ||
		b.clock.Now().Sub(e.Changed).Abs() >= freshFor { // the clock may have been set
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.fresh) >= freshMax {
		return false
	}
	b.fresh = append(b.fresh, fresh{seed: *seed, path: inContainer(e.Path)})
	return true
}

// recheck looks at the fresh files until each is what its page says, or differs by
// the same amount all the time: then that belongs to its baseline.
func (b *baseline) recheck(ctx context.Context) error {
	root, err := openRoot(upper{path: b.root})
	if err == nil {
		defer root.close()
		if err := b.recheckIn(ctx, root); err != nil {
			return err
		}
	} // else the layer is gone, which will be reported
	return nil
}

func (b *baseline) recheckIn(ctx context.Context, root upperDir) error {
	open := make([]*fresh, len(b.fresh))
	for i := range b.fresh {
		open[i] = &b.fresh[i]
	}
	end := b.clock.Now().Add(recheckFor)
	for {
		late := !b.clock.Now().Before(end)
		left := open[:0]
		for _, f := range open {
			right, err := b.isRight(root, f, late)
			if err != nil {
				return err
			}
			if !right {
				left = append(left, f)
			}
		}
		if open = left; len(open) == 0 || late {
			return nil
		}
		select {
		case <-b.clock.After(recheckEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isRight reports whether nothing more is to be done about the file. Late it tries
// harder, and puts right what has differed all the time.
func (b *baseline) isRight(root upperDir, f *fresh, late bool) (bool, error) {
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
		is, found := root.stat(f.seed.File.Inode, f.path)
		after, err := markOf(b.kernel, b.dev, f.seed.File.Inode)
		switch {
		case err != nil:
			return false, err
		case !found:
			return true, nil // renamed, which leaves no way to it
		case !after.same(&before):
			continue
		case is.disk == page.Disk:
			f.seen = 0
			now := b.clock.Now()
			if f.right.IsZero() {
				f.right = now
			}
			return late || now.Sub(f.right) >= rightFor, nil
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
