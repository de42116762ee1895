package layer

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// aloneFor is how many entries a walk visits before it gets help: most layers have
// fewer, and are not worth the threads.
const aloneFor = 500

// helperNice is the nice value of the threads that help: they take processors that
// nobody else wants.
const helperNice = 10

// WalkShared is Walk by up to walkers threads, each of which has a visitor of its own
// that newVisitor makes. A directory is visited before its entries and by the time that
// these are, its visitor has returned, but nothing else of Walk's order is kept: parts
// of a directory are visited by several threads at once. newVisitor is called once at
// a time, and but for the first time by other goroutines.
//
// Errors are those of Walk; after one the other threads end soon.
func WalkShared(ctx context.Context, root string, walkers int, newVisitor func() Visitor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := crew{most: walkers, newVisitor: newVisitor, stop: cancel, walkers: 1}
	c.changed.L = &c.mu
	first := newWalker(newVisitor())
	first.crew = &c
	c.ended.Go(func() {
		first.begin()
		defer first.end()
		err := first.walkFrom(ctx, root)
		if err == nil {
			err = first.walkShares(ctx)
		}
		c.end(err)
	})
	c.ended.Wait()
	for _, s := range c.shares { // after an error
		unix.Close(s.fd)
	}
	if c.err == nil {
		return ctx.Err()
	}
	return c.err
}

// crew is the walkers of a tree. Who has nothing left to do waits for a share: half of
// what is left in a directory that another one is in.
type crew struct {
	most       int
	newVisitor func() Visitor
	stop       context.CancelFunc
	ended      sync.WaitGroup

	// wanted is how many walkers wait and have no share waiting for them.
	wanted atomic.Int32

	mu      sync.Mutex
	changed sync.Cond
	walkers int
	idle    int
	shares  []share
	over    bool
	err     error
}

// share is entries of a directory that is open.
type share struct {
	frame
	path string // relative to the root; empty for the root
}

// help gives other walkers something to do if they have nothing, and once the walk
// has turned out to be long, calls them.
func (c *crew) help(ctx context.Context, w *walker) {
	if w.visited == aloneFor {
		c.grow(ctx)
	}
	if c.wanted.Load() > 0 {
		c.give(w)
	}
}

// grow has as many walkers as there may be. The first one that has walked for long
// calls them.
func (c *crew) grow(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; c.walkers < c.most; c.walkers++ {
		c.ended.Go(func() {
			c.mu.Lock()
			w := newWalker(c.newVisitor())
			c.mu.Unlock()
			w.crew, w.mostOpen = c, maxOpenHelping
			w.begin()
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, helperNice) // means the thread
			defer w.end()
			c.end(w.walkShares(ctx))
		})
	}
}

// give offers half of what is left of the outermost directory that is open and has
// anything left. The next entry stays the walker's own: who takes a share visits
// something, so that the last entries are not passed round.
func (c *crew) give(w *walker) {
	for i := range w.stack {
		f := &w.stack[i]
		left := len(f.entries) - f.next
		if i == len(w.stack)-1 {
			left--
		}
		if f.fd < 0 || left == 0 {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return // out of descriptors: who waits, waits
		}
		keep := len(f.entries) - (left+1)/2
		s := share{path: string(w.path[:f.pathLen])}
		s.frame = frame{fd: fd, dev: f.dev, inode: f.inode, pathLen: f.pathLen, entries: f.entries[keep:]}
		f.entries = f.entries[:keep]

		c.mu.Lock()
		c.shares = append(c.shares, s)
		c.wanted.Add(-1)
		c.mu.Unlock()
		c.changed.Signal()
		return
	}
}

// walkShares walks what others give until nobody has anything left.
func (w *walker) walkShares(ctx context.Context) error {
	for {
		s, ok := w.crew.take()
		if !ok {
			return nil
		}
		w.path = append(w.path[:0], s.path...)
		w.stack, w.shut, w.cwd = append(w.stack[:0], s.frame), 0, -1
		if err := w.walkStack(ctx); err != nil {
			return err
		}
	}
}

// take waits for a share; ok is false if there will be none.
func (c *crew) take() (s share, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle++
	c.wanted.Add(1)
	for len(c.shares) == 0 && !c.over {
		if c.idle == c.walkers {
			c.over = true
			c.changed.Broadcast()
			break
		}
		c.changed.Wait()
	}
	if c.over {
		return share{}, false
	}
	last := len(c.shares) - 1
	s, c.shares = c.shares[last], c.shares[:last]
	c.idle--
	return s, true
}

// end notes that a walker has ended, after an error all do.
func (c *crew) end(err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.over = true
	c.changed.Broadcast()
	c.stop()
}
