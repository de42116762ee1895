// Package sessiontest has a kernel side and a container runtime that exist in a
// test's memory, above layers that are real directories.
package sessiontest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// Writer is a process of the container; it does all that Look sees.
func Writer() event.Process {
	return event.Process{
		ID:       event.ProcessID{PID: 4242, Start: 1},
		CgroupID: 7, Name: "node", Executable: "/usr/bin/node",
	}
}

// Daemon is a process of the host, as the one that removes containers.
func Daemon() event.Process {
	return event.Process{
		ID:       event.ProcessID{PID: 800, Start: 1},
		CgroupID: 1, Name: "dockerd", Executable: "/usr/bin/dockerd",
	}
}

// Kernel keeps a ledger as the tracer does, but is told by the test when to look.
type Kernel struct {
	// Err is what AddLayer and Collect fail with, if not nil.
	Err error
	// MaxFiles is how many files the ledger has room for; 0: any number.
	MaxFiles int
	// Busy makes Settle ask to be called again so many times for each file.
	Busy int
	// OnCollect, if set, is called before each Collect.
	OnCollect func()
	// OnTrack, if set, is called before each Track; true tells of a stray.
	OnTrack func(inode uint64) (stray bool)

	// OnTracked, if set, is called after each Track of an inode that was not known.
	OnTracked func(inode uint64)
	// OnSettle, if set, is called after each Settle.
	OnSettle func(inode uint64)
	// OnLook, if set, tells of an inode whether it is steady; without it the kernel
	// can not tell.
	OnLook func(inode uint64) (steady bool)
	// Torn makes the next Collect bring names, and leave counts to the one after it.
	Torn bool
	// Untracked are the files that were given up.
	Untracked []event.FileID

	mu       sync.Mutex
	layers   map[event.LayerID]*kernelLayer
	pages    map[uint64]*page
	pending  event.Batch
	activity chan struct{}
	busy     map[uint64]int
	lastGen  uint64
	strays   uint64
	cgroups  map[uint64]event.LayerID
	collects int
	removed  map[event.LayerID]int // after how many Collects
	closed   bool
}

type kernelLayer struct{ mounted bool }

type page struct {
	tracer.Entry
	settled bool
}

// NewKernel returns a Kernel without layers.
func NewKernel() *Kernel {
	return &Kernel{
		layers:   map[event.LayerID]*kernelLayer{},
		pages:    map[uint64]*page{},
		activity: make(chan struct{}, 1),
		busy:     map[uint64]int{},
		cgroups:  map[uint64]event.LayerID{},
		removed:  map[event.LayerID]int{},
	}
}

// AddLayer implements session.Kernel. It fails for an id that something may still
// come of.
func (k *Kernel) AddLayer(id event.LayerID, upper event.Upper) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Err != nil {
		return k.Err
	}
	if at, removed := k.removed[id]; k.layers[id] != nil || removed && k.collects-at < 2 {
		return fmt.Errorf("layer %d is in use", id)
	}
	if k.full() {
		return tracer.ErrTableFull
	}
	k.layers[id] = &kernelLayer{mounted: upper.Mounted}
	k.open(id, upper.Inode, unix.S_IFDIR, 0)
	return nil
}

// RemoveLayer implements session.Kernel.
func (k *Kernel) RemoveLayer(id event.LayerID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.layers, id)
	k.removed[id] = k.collects
	for inode, p := range k.pages {
		if p.Layer == id {
			delete(k.pages, inode)
		}
	}
	return nil
}

// WatchCgroup implements session.Kernel.
func (k *Kernel) WatchCgroup(cgroupID uint64, id event.LayerID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cgroups[cgroupID] = id
	return nil
}

// UnwatchCgroup implements session.Kernel.
func (k *Kernel) UnwatchCgroup(cgroupID uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.cgroups, cgroupID)
	return nil
}

// Cgroup returns the layer that the cgroup was given to, 0 for none.
func (k *Kernel) Cgroup(id uint64) event.LayerID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cgroups[id]
}

// Layers returns how many layers there are.
func (k *Kernel) Layers() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.layers)
}

// SetMounted implements session.Kernel.
func (k *Kernel) SetMounted(id event.LayerID, ask func() bool) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		before := k.layers[id].mounted
		k.mu.Unlock()
		mounted := ask()
		k.mu.Lock()
		if k.layers[id].mounted == before {
			k.layers[id].mounted = mounted
			return mounted, nil
		}
	}
}

// Mounted tells whether all layers are.
func (k *Kernel) Mounted() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.layers {
		if !l.mounted {
			return false
		}
	}
	return true
}

// MountAll says whether all layers are mounted.
func (k *Kernel) MountAll(mounted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.layers {
		l.mounted = mounted
	}
}

func (k *Kernel) full() bool { return k.MaxFiles > 0 && len(k.pages) >= k.MaxFiles }

// open opens a page; born is event.Born for what joins a layer while it is watched.
func (k *Kernel) open(id event.LayerID, inode uint64, mode uint32, born uint64) *page {
	k.lastGen++
	p := &page{}
	p.Layer, p.Mode = id, mode
	p.File = event.FileID{Inode: inode, Generation: born | k.lastGen}
	k.pages[inode] = p
	return p
}

// Strays implements session.Kernel; see OnTrack.
func (k *Kernel) Strays(event.LayerID) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.strays, nil
}

// Track implements session.Kernel.
func (k *Kernel) Track(id event.LayerID, _, inode uint64, mode uint32) (event.FileID, bool, error) {
	stray := k.OnTrack != nil && k.OnTrack(inode)
	file, known, err := k.track(id, inode, mode, stray)
	if err == nil && !known && k.OnTracked != nil {
		k.OnTracked(inode)
	}
	return file, known, err
}

func (k *Kernel) track(id event.LayerID, inode uint64, mode uint32, stray bool) (event.FileID, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if stray {
		k.strays++
	}
	if p := k.pages[inode]; p != nil {
		return p.File, true, nil
	}
	if k.full() {
		return event.FileID{}, false, fmt.Errorf("tracking inode %d: %w", inode, tracer.ErrTableFull)
	}
	return k.open(id, inode, mode, 0).File, false, nil
}

// Settle implements session.Kernel.
func (k *Kernel) Settle(_ uint64, file event.FileID, size, allocated int64) (tracer.Settled, error) {
	if k.OnSettle != nil {
		defer k.OnSettle(file.Inode)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pages[file.Inode]
	if p == nil || p.File != file {
		return tracer.Settled{Gone: true}, nil
	}
	if k.busy[file.Inode] < k.Busy {
		k.busy[file.Inode]++
		return tracer.Settled{Again: true}, nil
	}
	if p.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	if !p.settled {
		p.Size, p.settled = size, true
		p.Disk += allocated
	}
	return tracer.Settled{Size: size, Disk: allocated}, nil
}

// Untrack implements session.Kernel.
func (k *Kernel) Untrack(_ uint64, file event.FileID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Untracked = append(k.Untracked, file)
	delete(k.pages, file.Inode)
	return nil
}

// Entry implements session.Kernel.
func (k *Kernel) Entry(_, inode uint64) (tracer.Entry, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pages[inode]
	if p == nil {
		return tracer.Entry{}, false, nil
	}
	return p.Entry, true, nil
}

// LookOpen implements session.Kernel; see OnLook.
func (k *Kernel) LookOpen() (map[int]tracer.Look, error) {
	if k.OnLook == nil {
		return nil, nil
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	looks := make(map[int]tracer.Look)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, entry := range open {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue // closed by now
		}
		if p := k.pages[st.Ino]; p != nil {
			looks[fd] = tracer.Look{Entry: p.Entry, Allocated: st.Blocks * 512, Steady: k.OnLook(st.Ino)}
		}
	}
	return looks, nil
}

// Turn implements session.Kernel.
func (k *Kernel) Turn(_ uint64, seen tracer.Entry, size, allocated int64) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pages[seen.File.Inode]
	if p == nil || p.File != seen.File || p.Events != seen.Events || p.Disk != seen.Disk {
		return false, nil
	}
	p.Size, p.Disk = size, allocated
	return true, nil
}

// Wait implements session.Kernel.
func (k *Kernel) Wait(ctx context.Context) error {
	select {
	case <-k.activity:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Collect implements session.Kernel.
func (k *Kernel) Collect() (*event.Batch, error) {
	if k.OnCollect != nil {
		k.OnCollect()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Err != nil {
		return nil, k.Err
	}
	k.collects++
	b := k.pending
	k.pending = event.Batch{}
	if k.Torn {
		k.Torn = false
		k.pending.Deltas, b.Deltas = b.Deltas, nil
		k.wake()
	}
	for id, l := range k.layers {
		b.Layers = append(b.Layers, event.LayerState{Layer: id, Mounted: l.mounted})
	}
	return &b, nil
}

// Fail makes the calls that can fail do so.
func (k *Kernel) Fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Err = err
}

// Hooks is one hook.
func (k *Kernel) Hooks() []tracer.Hook {
	return []tracer.Hook{{Name: "write_exit", Kind: "fexit", Target: "vfs_iter_write"}}
}

// Coverage is full.
func (k *Kernel) Coverage() []string { return nil }

// Close notes that it was called.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// Closed reports whether Close was called.
func (k *Kernel) Closed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}

// Lose adds a loss to the next batch.
func (k *Kernel) Lose(loss event.Loss) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending.Losses = append(k.pending.Losses, loss)
	k.wake()
}

// Look books what stat says of the file now, as a hook does. A file that it does
// not know yet is taken for created; its directory must be known.
func (k *Kernel) Look(tb testing.TB, path string) {
	tb.Helper()
	st, dir := lstat(tb, path), lstat(tb, filepath.Dir(path))
	k.mu.Lock()
	defer k.mu.Unlock()
	parent := k.pages[dir.Ino]
	if parent == nil {
		tb.Fatalf("%s: the kernel side does not know its directory", path)
	}
	p := k.pages[st.Ino]
	causes := event.CauseWrite
	if p == nil {
		p = k.open(parent.Layer, st.Ino, st.Mode, event.Born)
		causes |= event.CauseCreate
		k.pending.Files = append(k.pending.Files, event.FileEvent{
			Layer: p.Layer, Op: event.FileCreated, File: p.File, Parent: parent.File,
			Name: filepath.Base(path), Mode: st.Mode, Process: Writer().ID,
		})
	}
	k.book(p, Writer(), sizeOf(&st), st.Blocks*512, causes)
}

// Overflow is Look where there is no room for a counter: the growth of a file that it
// knows is counted for its layer.
func (k *Kernel) Overflow(tb testing.TB, path string) {
	tb.Helper()
	st := lstat(tb, path)
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pages[st.Ino]
	size, disk := sizeOf(&st), st.Blocks*512
	k.pending.Overflows = append(k.pending.Overflows, event.Overflow{Layer: p.Layer, Size: size - p.Size, Disk: disk - p.Disk})
	p.Size, p.Disk = size, disk
	p.Events++
	k.wake()
}

// Unlink removes the file and books that on the process; below a layer that is not
// mounted that is its removal, of which only the end of the inode is told.
func (k *Kernel) Unlink(tb testing.TB, by event.Process, path string) {
	tb.Helper()
	st, dir := lstat(tb, path), lstat(tb, filepath.Dir(path))
	if err := os.Remove(path); err != nil {
		tb.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p, parent := k.pages[st.Ino], k.pages[dir.Ino]
	if k.layers[p.Layer].mounted {
		k.pending.Files = append(k.pending.Files,
			event.FileEvent{Layer: p.Layer, Op: event.FileUnlinked, File: p.File, Parent: parent.File, Name: filepath.Base(path), Process: by.ID})
		k.book(p, by, 0, 0, event.CauseDelete)
	}
	k.pending.Files = append(k.pending.Files, event.FileEvent{Layer: p.Layer, Op: event.FileGone, File: p.File})
	delete(k.pages, st.Ino)
}

// Replace renames a file over another one, of which it tells no more than what the
// layer lost by that.
func (k *Kernel) Replace(tb testing.TB, by event.Process, from, to string) {
	tb.Helper()
	st, victim, dir := lstat(tb, from), lstat(tb, to), lstat(tb, filepath.Dir(to))
	if err := unix.Rename(from, to); err != nil { // os.Rename replaces no directory
		tb.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pages[victim.Ino]; p != nil {
		k.book(p, by, 0, 0, event.CauseDelete)
		k.pending.Files = append(k.pending.Files, event.FileEvent{Layer: p.Layer, Op: event.FileGone, File: p.File})
		delete(k.pages, victim.Ino)
	}
	p, parent := k.pages[st.Ino], k.pages[dir.Ino]
	if p == nil {
		k.strays++
		return
	}
	k.pending.Files = append(k.pending.Files,
		event.FileEvent{Layer: p.Layer, Op: event.FileRenamed, File: p.File, Parent: parent.File, Name: filepath.Base(to), Process: by.ID})
	k.book(p, by, sizeOf(&st), st.Blocks*512, event.CauseRename)
}

// Reuse gives an inode's number, which is free, to a file that is created in a layer.
func (k *Kernel) Reuse(id event.LayerID, inode uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open(id, inode, unix.S_IFREG, event.Born)
}

func (k *Kernel) book(p *page, by event.Process, size, disk int64, causes event.Causes) {
	k.pending.Processes = append(k.pending.Processes, by)
	k.pending.Deltas = append(k.pending.Deltas, event.Delta{
		Layer: p.Layer, File: p.File, Process: by.ID,
		Size: size - p.Size, Disk: disk - p.Disk,
		Causes: causes,
	})
	p.Size, p.Disk = size, disk
	p.Events++
	k.wake()
}

func (k *Kernel) wake() {
	select {
	case k.activity <- struct{}{}:
	default:
	}
}

func lstat(tb testing.TB, path string) unix.Stat_t {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		tb.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

func sizeOf(st *unix.Stat_t) int64 {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return 0
	}
	return st.Size
}
