package tracer

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/layertrace/layertrace/tracer/event"
)

// Answers of the programs track and settle.
const (
	trackNew   = 0
	trackKnown = 1

	settleDone      = 0
	settleAgain     = 1
	settleGone      = 2
	settleSizeTaken = 3
)

// States of a ledger page.
const (
	statePending = 0
	stateLive    = 1
	stateDeleted = 2
)

// AddLayer begins to watch the upper directory whose inode is rootInode on the
// file system device (the kernel's s_dev: major<<20 | minor). Nothing is seen
// below it before its entries are tracked. mounted tells whether an overlay
// mount uses it now; SetMounted corrects that.
func (t *Tracer) AddLayer(id event.LayerID, device, rootInode uint64, mounted bool) error {
	if id == 0 || id >= maxLayers {
		return fmt.Errorf("adding layer %d: ids are 1 to %d", id, maxLayers-1)
	}
	if err := t.layers.Put(uint32(id), &ledgerLayer{Mounts: mounts(mounted)}); err != nil {
		return fmt.Errorf("adding layer %d: %w", id, err)
	}
	t.mu.Lock()
	t.known[id] = uint32(device)
	err := t.watchDevices()
	t.mu.Unlock()
	if err != nil {
		return fmt.Errorf("adding layer %d: %w", id, err)
	}
	if _, _, err := t.Track(id, device, rootInode, modeDirectory); err != nil {
		return fmt.Errorf("adding layer %d: %w", id, err)
	}
	return nil
}

func mounts(mounted bool) int32 {
	if mounted {
		return 1
	}
	return 0
}

// SetMounted says whether an overlay mount uses the layer. From the first mount
// or unmount that it sees the kernel side keeps count by itself.
func (t *Tracer) SetMounted(id event.LayerID, mounted bool) error {
	var layer ledgerLayer
	if err := t.layers.Lookup(uint32(id), &layer); err != nil {
		return fmt.Errorf("looking up layer %d: %w", id, err)
	}
	if (layer.Mounts > 0) == mounted {
		return nil
	}
	layer.Mounts = mounts(mounted)
	if err := t.layers.Put(uint32(id), &layer); err != nil {
		return fmt.Errorf("updating layer %d: %w", id, err)
	}
	return nil
}

// watchDevices tells the programs on which device files may matter. Callers hold mu.
func (t *Tracer) watchDevices() error {
	var device uint32
	for _, d := range t.known {
		switch device {
		case 0, d:
			device = d
		default:
			device = anyDevice
		}
	}
	return t.coll.Variables["watched_device"].Set(device)
}

// RemoveLayer forgets a layer and all its files.
func (t *Tracer) RemoveLayer(id event.LayerID) error {
	t.mu.Lock()
	delete(t.known, id)
	err := t.watchDevices()
	t.mu.Unlock()
	if err != nil {
		return fmt.Errorf("removing layer %d: %w", id, err)
	}
	var (
		key   ledgerFileKey
		entry ledgerFileEntry
		gone  []ledgerFileKey
	)
	for files := t.files.Iterate(); files.Next(&key, &entry); {
		if entry.Layer == uint32(id) {
			gone = append(gone, key)
		}
	}
	for i := range gone {
		if err := t.files.Delete(&gone[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("removing layer %d: %w", id, err)
		}
	}
	return nil
}

// WatchCgroup reports writes outside of the layer by processes of the cgroup (the
// inode number of its directory in the v2 hierarchy) as Covered of that layer. It
// needs Config.IncludeCovered.
func (t *Tracer) WatchCgroup(cgroup uint64, id event.LayerID) error {
	if err := t.coll.Maps["cgroups"].Put(cgroup, uint32(id)); err != nil {
		return fmt.Errorf("watching cgroup %d: %w", cgroup, err)
	}
	return nil
}

// UnwatchCgroup ends WatchCgroup; a cgroup that is not watched is no error.
func (t *Tracer) UnwatchCgroup(cgroup uint64) error {
	if err := t.coll.Maps["cgroups"].Delete(cgroup); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("unwatching cgroup %d: %w", cgroup, err)
	}
	return nil
}

const modeDirectory = 0o040000

// Track opens the ledger's page of an inode, before the caller looks at it with
// lstat and hands the answer to Settle; of a directory before its entries are
// read. mode needs the type bits only.
//
// known means that the page exists: opened by an earlier Track (Generation is 0,
// as for a hard link's second name) or by the kernel side because the inode was
// created meanwhile; then it is no part of the baseline.
func (t *Tracer) Track(id event.LayerID, device, inode uint64, mode uint32) (file event.FileID, known bool, err error) {
	args := ledgerTrackArgs{Device: device, Inode: inode, Layer: uint64(id), Mode: uint64(mode)}
	answer, err := t.track.Run(&ebpf.RunOptions{Context: &args})
	if err != nil {
		return file, false, fmt.Errorf("tracking inode %d: %w", inode, err)
	}
	switch answer {
	case trackNew:
		return event.FileID{Inode: inode}, false, nil
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

// Settle closes a Track with what lstat said since (bytes; allocated is
// st_blocks*512) and tells what counts as the file's baseline. again: something
// happened to the file in between, call lstat and Settle once more. gone: it was
// deleted and is no part of the baseline. Of an inode that was settled before it
// tells that baseline again.
func (t *Tracer) Settle(_ event.LayerID, device, inode uint64, size, allocated int64) (baseSize, baseDisk int64, again, gone bool, err error) {
	key := ledgerFileKey{Inode: inode, Device: uint32(device)}
	t.mu.Lock()
	seen, restless := t.restless[key]
	delete(t.restless, key)
	t.mu.Unlock()

	args := ledgerSettleArgs{Device: device, Inode: inode, Size: size, Allocated: allocated}
	if restless {
		args.DiskEvents, args.Disk = seen.DiskEvents, seen.Disk
	}
	answer, err := t.settle.Run(&ebpf.RunOptions{Context: &args})
	if err != nil {
		return 0, 0, false, false, fmt.Errorf("settling inode %d: %w", inode, err)
	}
	switch answer {
	case settleDone:
		return size, allocated - args.Disk, false, false, nil
	case settleGone:
		return 0, 0, false, true, nil
	}

	var entry ledgerFileEntry
	if err := t.lookup(&key, &entry); errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, 0, false, true, nil
	} else if err != nil {
		return 0, 0, false, false, fmt.Errorf("looking up inode %d: %w", inode, err)
	}
	if answer == settleSizeTaken {
		return entry.BaseSize, entry.BaseDisk, false, false, nil
	}
	t.mu.Lock()
	t.restless[key] = entry
	t.mu.Unlock()
	return 0, 0, true, false, nil
}

// Strays counts how often something that the tracer did not know was moved into a
// directory that it knew: if the number has changed while a scan took the
// baseline, the scan may have missed that, and looks again.
func (t *Tracer) Strays(id event.LayerID) (uint64, error) {
	var layer ledgerLayer
	if err := t.layers.Lookup(uint32(id), &layer); err != nil {
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
	return Entry{
		Layer:      event.LayerID(page.Layer),
		File:       event.FileID{Inode: inode, Generation: page.Generation},
		Mode:       page.Mode,
		Size:       page.Size,
		Disk:       page.Disk + page.Aside,
		Events:     page.Events,
		Deleted:    page.State == stateDeleted,
		LastWriter: processID(page.Writer),
	}, true, nil
}

func (t *Tracer) lookup(key *ledgerFileKey, page *ledgerFileEntry) (err error) {
	t.unpreempted(func() { err = t.files.Lookup(key, page) })
	return err
}

func processID(id ledgerProcessId) event.ProcessID {
	return event.ProcessID{PID: id.Pid, Exec: id.Exec, Start: id.StartNs}
}
