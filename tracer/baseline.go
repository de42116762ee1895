package tracer

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/tracer/event"
)

// Answers of the programs track, settle and turn, and an argument.
const (
	trackNew   = 0
	trackKnown = 1

	settleDone  = 0
	settleAgain = 1
	settleGone  = 2
	settleTaken = 3

	turnDone = 0

	sizeUnknown = -1
)

// States of a ledger page.
const (
	statePending = 0
	stateLive    = 1
	stateDeleted = 2
)

// MaxLayers is how many layers can be watched at a time: their ids are 1 to
// MaxLayers.
const MaxLayers = 4095

// How the programs know allocated bytes, as enum disk_method of bpf/event.h.
const (
	diskQuota  = 0
	diskBlocks = 1
	diskXFS    = 2
	diskBtrfs  = 3
)

// diskMethod chooses how to know what is allocated on a file system. One whose
// programs were not loaded, because its module was not, is left to the caller's
// audit: nothing calls the quota hooks there. reason is what will not be seen, if
// anything. Callers hold adding.
func (t *Tracer) diskMethod(fileSystem string) (method uint64, reason string, err error) {
	switch fileSystem {
	case "ext2", "ext3", "ext4":
		return diskQuota, "", nil
	case xfs, btrfs, tmpfs:
		seen, err := t.attachFor(fileSystem)
		switch {
		case err != nil:
			return 0, "", err
		case fileSystem == tmpfs && seen:
			return diskBlocks, "", nil
		case fileSystem == tmpfs:
			return diskBlocks, "stores to mappings on tmpfs may be noticed late", nil
		case !seen:
			return diskQuota, fmt.Sprintf("allocated bytes on %s: its module was not loaded when tracing began, or has no BTF", fileSystem), nil
		case fileSystem == xfs:
			return diskXFS, "", nil
		}
		return diskBtrfs, "", nil
	}
	return diskBlocks, fmt.Sprintf("allocated bytes on %s may be noticed late", fileSystem), nil
}

// attachPlain attaches what it takes to see changes of a plain directory. Callers
// hold adding.
func (t *Tracer) attachPlain(fileSystem string, layer *knownLayer) error {
	seen, err := t.attachFor(plainLayer, plainLayer+fileSystem)
	if err != nil {
		return err
	}
	if !seen {
		return fmt.Errorf("watching a directory on %s without an overlay: %w", fileSystem, ErrUnsupported)
	}
	if fileSystem != btrfs {
		return nil
	}
	// A subvolume has a device number of its own, which is none of a file system.
	layer.device = anyDevice
	return t.coll.Variables["subvolumes"].Set(uint32(1))
}

// AddLayer begins to watch an upper directory, or one that has no overlay above it.
// Nothing is seen below it before its entries are tracked. The first layer on xfs or
// btrfs, and the first that is plain, attach further programs.
// The id must not be in use, and if it was, RemoveLayer says from when on it may be
// given again.
//
// After an error nothing of the layer stays. The error matches ErrTableFull if
// the ledger has no room for the directory.
func (t *Tracer) AddLayer(id event.LayerID, upper event.Upper) error {
	if id == 0 || id > MaxLayers {
		return fmt.Errorf("adding layer %d: ids are 1 to %d", id, MaxLayers)
	}
	if err := t.addLayer(id, upper); err != nil {
		return errors.Join(fmt.Errorf("adding layer %d: %w", id, err), t.RemoveLayer(id))
	}
	return nil
}

func (t *Tracer) addLayer(id event.LayerID, upper event.Upper) error {
	if err := t.putLayer(id, &ledgerLayer{Mounts: mounts(upper.Mounted)}); err != nil {
		return err
	}
	if err := t.prepare(id, upper); err != nil {
		return err
	}
	_, _, err := t.Track(id, upper.Device, upper.Inode, modeDirectory)
	return err
}

// prepare gets the programs ready that the layer needs.
func (t *Tracer) prepare(id event.LayerID, upper event.Upper) error {
	t.adding.Lock()
	defer t.adding.Unlock()
	method, reason, err := t.diskMethod(upper.FileSystem)
	if err != nil {
		return err
	}
	layer := knownLayer{device: uint32(upper.Device), diskMethod: method, plain: upper.Plain}
	if upper.Plain {
		if err := t.attachPlain(upper.FileSystem, &layer); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if reason != "" && !slices.Contains(t.reasons, reason) {
		t.reasons = append(t.reasons, reason)
	}
	t.known[id] = layer
	return t.watchDevices()
}

func (t *Tracer) putLayer(id event.LayerID, layer *ledgerLayer) (err error) {
	t.unpreempted(func() { err = t.layers.Put(uint32(id), layer) })
	return err
}

func (t *Tracer) lookupLayer(id event.LayerID, layer *ledgerLayer) (err error) {
	t.unpreempted(func() { err = t.layers.Lookup(uint32(id), layer) })
	return err
}

func mounts(mounted bool) int32 {
	if mounted {
		return 1
	}
	return 0
}

// SetMounted asks whether an overlay mount uses the layer, and counts from there.
// The kernel side keeps count of the mounts and unmounts that it sees by itself: if
// there is one while ask runs, it is asked again.
func (t *Tracer) SetMounted(id event.LayerID, ask func() bool) (mounted bool, err error) {
	for {
		var before, layer ledgerLayer
		if err := t.lookupLayer(id, &before); err != nil {
			return false, fmt.Errorf("looking up layer %d: %w", id, err)
		}
		mounted = ask()
		if err := t.lookupLayer(id, &layer); err != nil {
			return false, fmt.Errorf("looking up layer %d: %w", id, err)
		}
		if layer.Mounts != before.Mounts {
			continue
		}
		if layer.Mounts >= 0 && (layer.Mounts > 0) == mounted {
			return mounted, nil
		}
		// Nothing but this: the programs go on counting beside it.
		word := mounts(mounted)
		at := int64(id)*int64(unsafe.Sizeof(layer)) + int64(unsafe.Offsetof(layer.Mounts))
		if _, err := t.states.WriteAt(bytesOf(&word), at); err != nil {
			return false, fmt.Errorf("updating layer %d: %w", id, err)
		}
		return mounted, nil
	}
}

// watchDevices tells the programs on which device files may matter. Callers hold mu.
func (t *Tracer) watchDevices() error {
	var device uint32
	for _, l := range t.known {
		switch device {
		case 0, l.device:
			device = l.device
		default:
			device = anyDevice
		}
	}
	return t.coll.Variables["watched_device"].Set(device)
}

// RemoveLayer forgets a layer and all its files, be they in use or not. When it
// returns, no program books growth on the layer any more; bytes that are written in
// place may still be counted until the next Collect. What has not been collected comes
// with the next two calls of Collect; after these the id may be given to another layer.
func (t *Tracer) RemoveLayer(id event.LayerID) error {
	if err := t.removeLayer(id); err != nil {
		return fmt.Errorf("removing layer %d: %w", id, err)
	}
	return nil
}

func (t *Tracer) removeLayer(id event.LayerID) error {
	t.mu.Lock()
	delete(t.known, id)
	maps.DeleteFunc(t.restless, func(_ ledgerFileKey, page ledgerFileEntry) bool { return page.Layer == uint32(id) })
	err := t.watchDevices()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	// A page of a directory brings forth those of what is created in it: also
	// behind the back of a walk through the table, and by a program that had
	// found it before it went.
	for {
		found, err := t.removePages(id)
		if err != nil || !found {
			return err
		}
		if err := t.awaitPrograms(); err != nil {
			return err
		}
	}
}

// removePages takes the pages of a layer out of the ledger. found is false if
// there were none.
func (t *Tracer) removePages(id event.LayerID) (found bool, err error) {
	const chunk = 4096
	keys, pages := make([]ledgerFileKey, chunk), make([]ledgerFileEntry, chunk)
	var (
		cursor ebpf.MapBatchCursor
		last   bool
	)
	// A chunk at a time, so that no thread stays unpreempted for long.
	for err == nil && !last {
		t.unpreempted(func() {
			var n int
			n, err = t.files.BatchLookup(&cursor, keys, pages, nil)
			if last = errors.Is(err, ebpf.ErrKeyNotExist); last {
				err = nil
			}
			gone := keys[:0:n]
			for i := range n {
				if pages[i].Layer == uint32(id) {
					gone = append(gone, keys[i])
				}
			}
			found = found || len(gone) > 0
			for err == nil && len(gone) > 0 {
				n, err = t.files.BatchDelete(gone, nil)
				if errors.Is(err, ebpf.ErrKeyNotExist) { // freed meanwhile
					n, err = n+1, nil
				}
				gone = gone[n:]
			}
		})
	}
	return found, err
}

const (
	modeType      = 0o170000
	modeDirectory = 0o040000
)

// Track opens the ledger's page of an inode, before the caller looks at it with
// lstat and hands the answer to Settle; of a directory before its entries are
// read. mode needs the type bits only.
//
// known means that the page exists: opened by an earlier Track (as for a hard link's
// second name) or by the kernel side because the inode was born meanwhile; then it
// is no part of the baseline.
//
// The caller should keep the inode open (O_PATH will do): otherwise it may be gone
// by now, and the page waits for whoever gets the number next. If it turns out to
// have been without a name, Untrack gives the page up.
func (t *Tracer) Track(id event.LayerID, device, inode uint64, mode uint32) (file event.FileID, known bool, err error) {
	t.mu.Lock()
	layer := t.known[id]
	t.mu.Unlock()
	file = event.FileID{Inode: inode, Generation: t.tracked.Add(1)}
	args := ledgerTrackArgs{
		Device: device, Inode: inode, Generation: file.Generation,
		Layer: uint64(id), Mode: uint64(mode), DiskMethod: layer.diskMethod,
	}
	if layer.plain {
		args.Plain = 1
	}
	answer, err := t.track.Run(&ebpf.RunOptions{Context: bytesOf(&args)})
	if err != nil {
		return file, false, fmt.Errorf("tracking inode %d: %w", inode, err)
	}
	switch answer {
	case trackNew:
		return file, false, nil
	case trackKnown:
		entry, ok, err := t.Entry(device, inode)
		if err != nil {
			return file, false, err
		}
		if !ok { // freed this instant
			return t.Track(id, device, inode, mode)
		}
		return entry.File, true, nil
	default:
		return file, false, fmt.Errorf("tracking inode %d: %w", inode, ErrTableFull)
	}
}

// Untrack takes a Track back whose inode had no name any more when it was tracked, and
// what was booked on it since. The caller still has it open, and no link left
// (st_nlink 0). If the inode lost its last name later, nothing changes.
func (t *Tracer) Untrack(device uint64, file event.FileID) error {
	args := ledgerUntrackArgs{Device: device, Inode: file.Inode, Generation: file.Generation}
	if _, err := t.untrack.Run(&ebpf.RunOptions{Context: bytesOf(&args)}); err != nil {
		return fmt.Errorf("giving up inode %d: %w", file.Inode, err)
	}
	return nil
}

// Settled is Settle's answer.
type Settled struct {
	// Size and Disk, in bytes, count as the file's baseline.
	Size, Disk int64
	// Again: something happened to the file since it was tracked. Look at it and
	// settle once more.
	Again bool
	// Gone: it was deleted and is no part of the baseline.
	Gone bool
}

// Settle closes a Track with what lstat said since (bytes; allocated is
// st_blocks*512) and tells what counts as the file's baseline. Of an inode that was
// settled before it tells that baseline again.
//
// What lstat says of a file on ext4 that is being written, or written back, may be of
// the middle of a change: LookOpen tells.
func (t *Tracer) Settle(device uint64, file event.FileID, size, allocated int64) (Settled, error) {
	key := ledgerFileKey{Inode: file.Inode, Device: uint32(device)}
	t.mu.Lock()
	seen, restless := t.restless[key]
	delete(t.restless, key)
	t.mu.Unlock()

	args := ledgerSettleArgs{
		Device: device, Inode: file.Inode, Generation: file.Generation, Size: size, Allocated: allocated,
	}
	if restless && seen.Generation == file.Generation {
		args.DiskEvents, args.Disk = seen.DiskEvents, seen.Disk
	}
	answer, err := t.settle.Run(&ebpf.RunOptions{Context: bytesOf(&args)})
	if err != nil {
		return Settled{}, fmt.Errorf("settling inode %d: %w", file.Inode, err)
	}
	switch answer {
	case settleDone:
		return Settled{Size: size, Disk: allocated - args.Disk}, nil
	case settleGone:
		return Settled{Gone: true}, nil
	}

	var entry ledgerFileEntry
	if err := t.lookup(&key, &entry); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return Settled{}, fmt.Errorf("looking up inode %d: %w", file.Inode, err)
	} else if err != nil || entry.Generation != file.Generation {
		return Settled{Gone: true}, nil
	}
	if answer == settleTaken {
		return Settled{Size: entry.BaseSize, Disk: entry.BaseDisk}, nil
	}
	t.mu.Lock()
	t.restless[key] = entry
	t.mu.Unlock()
	return Settled{Again: true}, nil
}

// Turn brings the ledger's page of an inode in step with what the caller, who has
// found it different, will book itself: size and allocated bytes by stat. seen is
// the page as it was before and after that stat; if something has happened to the
// file since, ok is false, the difference may be none, and nothing must be booked.
func (t *Tracer) Turn(device uint64, seen Entry, size, allocated int64) (ok bool, err error) {
	if seen.Mode&modeType == modeDirectory || size == seen.Size {
		size = sizeUnknown
	}
	answer, err := t.turn.Run(&ebpf.RunOptions{Context: &ledgerTurnArgs{
		Device: device, Inode: seen.File.Inode, Generation: seen.File.Generation,
		Events: seen.Events, SeenSize: seen.Size, SeenDisk: seen.Disk, Size: size, Allocated: allocated,
	}})
	if err != nil {
		return false, fmt.Errorf("turning the page of inode %d: %w", seen.File.Inode, err)
	}
	return answer == turnDone, nil
}

// Strays counts how often something that the tracer did not know was moved into a
// directory that it knew: if the number has changed while a scan took the
// baseline, the scan may have missed that, and looks again.
func (t *Tracer) Strays(id event.LayerID) (uint64, error) {
	var layer ledgerLayer
	if err := t.lookupLayer(id, &layer); err != nil {
		return 0, fmt.Errorf("looking up layer %d: %w", id, err)
	}
	return layer.Strays, nil
}

// Entry is the ledger's page of one inode at this moment. Events changes
// whenever anything was booked on it. Size and Disk are bytes; of a deleted file
// Disk is what it still holds.
type Entry struct {
	Layer      event.LayerID
	File       event.FileID
	Mode       uint32
	Size, Disk int64
	Events     uint64
	Deleted    bool
	LastWriter event.ProcessID
}

// Entry looks an inode up; false if the ledger does not know it.
func (t *Tracer) Entry(device, inode uint64) (Entry, bool, error) {
	key := ledgerFileKey{Inode: inode, Device: uint32(device)}
	var page ledgerFileEntry
	if err := t.lookup(&key, &page); errors.Is(err, ebpf.ErrKeyNotExist) {
		return Entry{}, false, nil
	} else if err != nil {
		return Entry{}, false, fmt.Errorf("looking up inode %d: %w", inode, err)
	}
	return entryOf(&key, &page), true, nil
}

func entryOf(key *ledgerFileKey, page *ledgerFileEntry) Entry {
	return Entry{
		Layer:      event.LayerID(page.Layer),
		File:       event.FileID{Inode: key.Inode, Generation: page.Generation},
		Mode:       page.Mode,
		Size:       page.Size,
		Disk:       page.Disk + page.Aside,
		Events:     page.DiskEvents + page.OtherEvents,
		Deleted:    page.State == stateDeleted,
		LastWriter: processID(page.Writer),
	}
}

// Look is an inode beside its page.
type Look struct {
	Entry
	// Allocated is st_blocks*512.
	Allocated int64
	// Steady: nobody was in the middle of allocating or freeing. Only then do Disk and
	// Allocated speak of the same moment, and a difference means that the page is wrong.
	Steady bool
}

// LookOpen compares the inodes that this process has open (O_PATH will do) with their
// pages, by their descriptors. Missing are those that the ledger does not know, and
// those of which there is no telling: of file systems other than ext4, and on kernels
// before 5.13 (whose programs do without the BTF of modules) or with other locks
// (PREEMPT_RT).
//
// It comes by the open files of all processes.
func (t *Tracer) LookOpen() (looks map[int]Look, err error) {
	if t.look == nil {
		return nil, nil
	}
	iter, err := link.AttachIter(link.IterOptions{Program: t.look})
	if err != nil {
		return nil, fmt.Errorf("attaching to open files: %w", err)
	}
	defer iter.Close()
	reader, err := iter.Open()
	if err != nil {
		return nil, fmt.Errorf("opening the iterator over open files: %w", err)
	}
	defer reader.Close()
	raw, err := io.ReadAll(reader)
	if err != nil {
		return nil, fmt.Errorf("looking at open files: %w", err)
	}
	looks = make(map[int]Look)
	for {
		record, ok := as[ledgerLookRecord](raw)
		if !ok {
			return looks, nil
		}
		raw = raw[unsafe.Sizeof(record):]
		looks[int(record.Fd)] = Look{
			Entry:     entryOf(&record.File, &record.Page),
			Allocated: record.Allocated,
			Steady:    record.Steady != 0,
		}
	}
}

func (t *Tracer) lookup(key *ledgerFileKey, page *ledgerFileEntry) (err error) {
	t.unpreempted(func() { err = t.files.Lookup(key, page) })
	return err
}

func processID(id ledgerProcessId) event.ProcessID {
	return event.ProcessID{PID: id.Pid, Exec: id.Exec, Start: id.StartNs}
}
