package tracer

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/layertrace/layertrace/tracer/event"
)

// Kinds of ring records.
const (
	recordFile       = 1
	recordWake       = 2
	recordProcess    = 3
	recordExecutable = 4
	recordCovered    = 5
)

// maxPaths bounds how many executables' and covered files' paths are remembered.
const maxPaths = 8192

// defaultMaxNames bounds the names that wait in memory for a Collect: half a minute
// of 5,000 files a second that come, are written, and go.
const defaultMaxNames = 1 << 19

// pending is what the reader has taken from the ring since the last Collect.
type pending struct {
	batch       event.Batch
	executables map[ledgerExecutableKey]string
	covered     map[ledgerFileKey]string
}

func (p *pending) init() {
	p.executables = make(map[ledgerExecutableKey]string)
	p.covered = make(map[ledgerFileKey]string)
}

// snapshot is the kernel's cumulative counts, to tell what is new.
type snapshot struct {
	losses     ledgerLossCounts
	layers     map[event.LayerID]ledgerLayer
	recursions uint64
}

// read empties the ring until the reader is closed.
func (t *Tracer) read() {
	defer close(t.readerDone)
	var record ringbuf.Record
	for {
		err := t.reader.ReadInto(&record)
		switch {
		case errors.Is(err, ringbuf.ErrFlushed):
			t.flushed <- struct{}{}
		case errors.Is(err, ringbuf.ErrClosed):
			return
		case err != nil:
			t.cfg.Log.Error().Err(err).Msg("reading the ring buffer")
			return
		default:
			t.mu.Lock()
			t.decode(record.RawSample)
			t.wake()
			// With nobody to collect them names may take up the ring, and no more.
			for len(t.pending.batch.Files) >= t.maxNames && !t.taking {
				t.room.Wait()
			}
			t.mu.Unlock()
		}
	}
}

// decode adds one record to pending. Callers hold mu.
func (t *Tracer) decode(raw []byte) {
	kind, ok := as[uint32](raw)
	if !ok {
		return
	}
	switch kind {
	case recordFile:
		t.decodeFile(raw)
	case recordWake: // the reader wakes at any record
	case recordProcess:
		if record, ok := as[ledgerProcessRecord](raw); ok {
			t.pending.batch.Processes = append(t.pending.batch.Processes, t.process(&record))
		}
	case recordExecutable:
		if record, ok := as[ledgerExecutableRecord](raw); ok {
			t.executable(&record)
		}
	case recordCovered:
		if record, ok := as[ledgerCoveredRecord](raw); ok {
			remember(t.pending.covered, record.File, joined(record.Path[:], record.Length), t.coll.Maps["covered_sizes"])
		}
	}
}

func (t *Tracer) decodeFile(raw []byte) {
	// The short record is the long one cut off behind its name.
	var head ledgerFileRecord
	const nameOffset = int(unsafe.Offsetof(head.Name))
	if len(raw) < nameOffset {
		return
	}
	copy(bytesOf(&head), raw)
	length := min(int(head.NameLen), len(raw)-nameOffset)
	t.pending.batch.Files = append(t.pending.batch.Files, event.FileEvent{
		Layer:   event.LayerID(head.Layer),
		Op:      event.FileOp(head.Op),
		File:    event.FileID{Inode: head.Inode, Generation: head.Generation},
		Parent:  event.FileID{Inode: head.ParentInode, Generation: head.ParentGeneration},
		Name:    string(raw[nameOffset : nameOffset+length]),
		Mode:    head.Mode,
		Process: processID(head.Process),
	})
}

func (t *Tracer) process(record *ledgerProcessRecord) event.Process {
	executable := t.pending.executables[record.Executable]
	if executable == "" && record.Executable.Inode != 0 {
		// Too long for the kernel side, or forgotten: right as long as it lives.
		executable, _ = os.Readlink("/proc/" + strconv.Itoa(int(record.Process.Pid)) + "/exe")
	}
	return event.Process{
		ID:         processID(record.Process),
		ParentPID:  record.ParentPid,
		CgroupID:   record.CgroupId,
		Name:       text(record.Comm[:]),
		Executable: executable,
	}
}

// executable remembers an executable's path.
func (t *Tracer) executable(record *ledgerExecutableRecord) {
	remember(t.pending.executables, record.Executable, joined(record.Path[:], record.Length), t.coll.Maps["executables"])
}

// remember keeps a path, at the cost of another one if there are too many; that
// one is taken from the programs' memory too, so that it is sent again.
func remember[K comparable](paths map[K]string, key K, path string, sent *ebpf.Map) {
	if len(paths) >= maxPaths {
		for old := range paths {
			delete(paths, old)
			_ = sent.Delete(&old)
			break
		}
	}
	paths[key] = path
}

// joined makes a path of components that come last one first, each ended by a
// NUL; empty if there are none.
func joined(chars []int8, length uint32) string {
	raw := make([]byte, min(int(length), len(chars)))
	for i := range raw {
		raw[i] = byte(chars[i])
	}
	if len(raw) == 0 {
		return ""
	}
	components := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	slices.Reverse(components)
	return "/" + strings.Join(components, "/")
}

// text reads a C string.
func text(chars []int8) string {
	raw := make([]byte, 0, len(chars))
	for _, c := range chars {
		if c == 0 {
			break
		}
		raw = append(raw, byte(c))
	}
	return string(raw)
}

// Collect returns everything since the Collect before and starts a new interval.
// Nothing that the programs count meanwhile is lost or seen twice. On an error
// what was read stays for the next Collect.
func (t *Tracer) Collect() (batch *event.Batch, err error) {
	t.unpreempted(func() { batch, err = t.collect() })
	return batch, err
}

func (t *Tracer) collect() (*event.Batch, error) {
	ours, err := t.swap()
	if err != nil {
		return nil, fmt.Errorf("changing the table of counters: %w", err)
	}
	t.letRead(true)
	err = t.flush()
	t.letRead(false)
	if err != nil {
		return nil, err
	}

	t.mu.Lock()
	batch := t.pending.batch
	t.pending.batch = event.Batch{}
	t.room.Signal()
	t.mu.Unlock()

	if err := t.readCounters(&t.tables[ours], &batch); err != nil {
		t.mu.Lock()
		batch.Files = append(batch.Files, t.pending.batch.Files...)
		batch.Processes = append(batch.Processes, t.pending.batch.Processes...)
		t.pending.batch = batch
		t.mu.Unlock()
		return nil, err
	}
	t.readLosses(&batch)
	if err := t.readLayers(&batch); err != nil {
		return nil, err
	}
	t.arm()
	return &batch, nil
}

// letRead sets whether the reader goes on however many names there are.
func (t *Tracer) letRead(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taking = on
	t.room.Signal()
}

// swap puts the other table into the slot and returns which one is ours now.
func (t *Tracer) swap() (ours int, err error) {
	t.slot.Lock()
	defer t.slot.Unlock()
	ours = t.active
	if err := t.fill(1 - ours); err != nil {
		return 0, err
	}
	t.active = 1 - ours
	return ours, nil
}

// fill puts a table into the slot. It returns only after every program that was
// running has ended (the kernel waits for them when a map in a map is replaced,
// upstream 1ae80cf31938, 4.19): from then on none counts into the one that was
// there before. Callers hold slot.
func (t *Tracer) fill(table int) error { return t.counters.Put(uint32(0), t.tables[table].counters) }

// awaitPrograms returns once every program that is running has ended, and with it
// what it knew of pages that are gone.
func (t *Tracer) awaitPrograms() error {
	t.slot.Lock()
	defer t.slot.Unlock()
	var err error
	t.unpreempted(func() { err = t.fill(t.active) })
	if err != nil {
		return fmt.Errorf("waiting for programs to end: %w", err)
	}
	return nil
}

// flush waits until the reader has taken everything that is in the ring.
func (t *Tracer) flush() error {
	if err := t.reader.Flush(); err != nil {
		return fmt.Errorf("flushing the ring buffer: %w", err)
	}
	select {
	case <-t.flushed:
		// What it read it also announced: that is not news any more.
		select {
		case <-t.activity:
		default:
		}
		return nil
	case <-t.readerDone:
		return errors.New("flushing the ring buffer: the tracer is closed")
	}
}

// readCounters empties a table that is ours. After an error what was counted is still
// there, and read when the table is ours again.
func (t *Tracer) readCounters(table *table, batch *event.Batch) error {
	counters, release, err := table.taken()
	if err != nil {
		return err
	}
	defer release()
	t.addAll(batch, counters)
	clear(counters)
	return table.reset()
}

// addAll turns counters into deltas and covered writes.
func (t *Tracer) addAll(batch *event.Batch, counters []ledgerCounter) {
	batch.Deltas = slices.Grow(batch.Deltas, len(counters))
	for i := range counters {
		t.add(batch, &counters[i])
	}
}

// add turns one counter into a delta, or into a covered write.
func (t *Tracer) add(batch *event.Batch, value *ledgerCounter) {
	key := &value.Key
	if key.Device == 0 {
		batch.Deltas = append(batch.Deltas, event.Delta{
			Layer:   event.LayerID(key.Layer),
			File:    event.FileID{Inode: key.Inode, Generation: key.Generation},
			Process: processID(key.Process),
			Size:    value.Size,
			Disk:    value.Disk,
			CopyUp:  value.CopyUp,
			Written: value.Written,
			Writes:  value.Writes,
			Causes:  event.Causes(value.Causes),
		})
		return
	}
	t.mu.Lock()
	path := t.pending.covered[ledgerFileKey{Inode: key.Inode, Device: key.Device}]
	t.mu.Unlock()
	batch.Covered = append(batch.Covered, event.Covered{
		Layer:    event.LayerID(key.Layer),
		Device:   uint64(key.Device),
		Inode:    key.Inode,
		Process:  processID(key.Process),
		Path:     path,
		Size:     value.Size,
		Written:  value.Written,
		Writes:   value.Writes,
		Causes:   event.Causes(value.Causes),
		FileSize: value.FileSize,
	})
}

// readLosses adds what the ring had no room for.
func (t *Tracer) readLosses(batch *event.Batch) {
	var now ledgerLossCounts
	if err := t.losses.Lookup(uint32(0), &now); err != nil {
		t.cfg.Log.Error().Err(err).Msg("reading the counts of lost records")
		return
	}
	before := t.collected.losses
	t.collected.losses = now
	names := now.FileRecords - before.FileRecords + now.ProcessRecords - before.ProcessRecords
	if names > 0 {
		batch.Losses = append(batch.Losses, event.Loss{Reason: event.LossRingFull, Events: names})
	}
	if n := now.LongPaths - before.LongPaths; n > 0 {
		batch.Losses = append(batch.Losses, event.Loss{Reason: event.LossPathTooLong, Events: n})
	}
	if n := t.recursions() + now.Calls; n > t.collected.recursions {
		batch.Losses = append(batch.Losses, event.Loss{Reason: event.LossRecursion, Events: n - t.collected.recursions})
		t.collected.recursions = n
	}
}

// recursions counts how often the kernel did not run one of the programs because
// it was running on that CPU already (counted by the kernel since 5.12), or because
// too many threads were in the function whose end it waits for (kprobe.multi, counted
// since 6.7).
func (t *Tracer) recursions() (sum uint64) {
	for _, program := range t.coll.Programs {
		if stats, err := program.Stats(); err == nil {
			sum += stats.RecursionMisses
		}
	}
	if !t.probes {
		return sum
	}
	t.mu.Lock()
	links := t.links
	t.mu.Unlock()
	for _, l := range links {
		if info, err := l.Info(); err == nil && info.KprobeMulti() != nil {
			sum += info.KprobeMulti().Missed
		}
	}
	return sum
}

// readLayers adds each layer's state and what its tables had no room for.
func (t *Tracer) readLayers(batch *event.Batch) error {
	t.mu.Lock()
	ids := slices.Collect(maps.Keys(t.known))
	t.mu.Unlock()

	// Of removed layers nothing stays: the next one of that id counts from 0.
	collected := make(map[event.LayerID]ledgerLayer, len(ids))
	for _, id := range ids {
		var now ledgerLayer
		// What the programs add to are aligned words, which a copy does not tear.
		if _, err := t.states.ReadAt(bytesOf(&now), int64(id)*int64(unsafe.Sizeof(now))); err != nil {
			return fmt.Errorf("reading layer %d: %w", id, err)
		}
		before := t.collected.layers[id]
		collected[id] = now
		batch.Layers = append(batch.Layers, event.LayerState{
			Layer: id, OpenDeleted: now.OpenDeleted, Mounted: now.Mounts > 0,
		})
		lost := now.OverflowEvents - before.OverflowEvents + now.Untracked - before.Untracked + now.CoveredLost - before.CoveredLost
		if lost == 0 {
			continue
		}
		over := event.Overflow{
			Layer:   id,
			Size:    now.OverflowSize - before.OverflowSize,
			Disk:    now.OverflowDisk - before.OverflowDisk,
			CopyUp:  now.OverflowCopyUp - before.OverflowCopyUp,
			Written: now.OverflowWritten - before.OverflowWritten,
		}
		batch.Overflows = append(batch.Overflows, over)
		batch.Losses = append(batch.Losses, event.Loss{
			Layer:  id,
			Reason: event.LossTableFull,
			Events: lost,
			Bytes:  over.Size,
		})
	}
	t.collected.layers = collected
	return nil
}
