package tracer

import (
	"errors"
	"fmt"
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
	recordCounter    = 2
	recordProcess    = 3
	recordExecutable = 4
	recordCovered    = 5
)

// maxPaths bounds how many executables' and covered files' paths are remembered.
const maxPaths = 8192

// pending is what the reader has taken from the ring since the last Collect.
type pending struct {
	batch       event.Batch
	keys        []ledgerCounterKey
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
			t.log.Error().Err(err).Msg("reading the ring buffer")
			return
		default:
			t.mu.Lock()
			t.decode(record.RawSample)
			t.mu.Unlock()
			t.wake()
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
	case recordCounter:
		if record, ok := as[ledgerCounterRecord](raw); ok {
			t.pending.keys = append(t.pending.keys, record.Key)
		}
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
	table := t.tables[t.active]
	next := 1 - t.active
	// The update returns only after every program that may still count into the
	// old table has ended (the kernel waits for them when a map in a map is
	// replaced, upstream 1ae80cf31938, 4.19): from then on the table is ours.
	if err := t.counters.Put(uint32(0), t.tables[next]); err != nil {
		return nil, fmt.Errorf("changing the table of counters: %w", err)
	}
	t.active = next
	if err := t.flush(); err != nil {
		return nil, err
	}

	t.mu.Lock()
	batch := t.pending.batch
	keys := t.pending.keys
	t.pending.batch, t.pending.keys = event.Batch{}, nil
	t.mu.Unlock()

	// The flush also brought what was announced since the tables changed: those
	// keys are in the next table, perhaps beside the same key in this one. What is
	// not found here is looked for once more, there.
	unread := t.readLosses(&batch)
	var err error
	if unread || t.fullRead {
		t.fullRead = true
		t.early = append(t.early, keys...)
		err = t.readAll(table, &batch)
	} else {
		late := t.early
		t.early = nil
		if _, err = t.readKeys(table, late, &batch); err == nil {
			t.early, err = t.readKeys(table, keys, &batch)
		}
	}
	if err != nil {
		t.fullRead = true
		t.mu.Lock()
		batch.Files = append(batch.Files, t.pending.batch.Files...)
		batch.Processes = append(batch.Processes, t.pending.batch.Processes...)
		t.pending.batch = batch
		t.mu.Unlock()
		return nil, err
	}
	t.fullRead = false
	if err := t.readLayers(&batch); err != nil {
		return nil, err
	}
	t.arm()
	if len(t.early) > 0 {
		t.wake() // what they announced waits in the table
	}
	return &batch, nil
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

// readKeys takes counters out of a table that is ours and returns the keys that
// are not in it.
func (t *Tracer) readKeys(table *ebpf.Map, keys []ledgerCounterKey, batch *event.Batch) (absent []ledgerCounterKey, err error) {
	batch.Deltas = slices.Grow(batch.Deltas, len(keys))
	for i := range keys {
		var value ledgerCounter
		if err := table.LookupAndDelete(&keys[i], &value); errors.Is(err, ebpf.ErrKeyNotExist) {
			absent = append(absent, keys[i])
			continue
		} else if err != nil {
			return nil, fmt.Errorf("reading a counter: %w", err)
		}
		t.add(batch, &keys[i], &value)
	}
	return absent, nil
}

// readAll empties a table whose announcements are incomplete.
func (t *Tracer) readAll(table *ebpf.Map, batch *event.Batch) error {
	const chunk = 4096
	keys, values := make([]ledgerCounterKey, chunk), make([]ledgerCounter, chunk)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := table.BatchLookupAndDelete(&cursor, keys, values, nil)
		for i := range n {
			t.add(batch, &keys[i], &values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the counters: %w", err)
		}
	}
}

// add turns one counter into a delta, or into a covered write.
func (t *Tracer) add(batch *event.Batch, key *ledgerCounterKey, value *ledgerCounter) {
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

// readLosses adds what the ring had no room for; unread tells that some counters
// were not announced.
func (t *Tracer) readLosses(batch *event.Batch) (unread bool) {
	var now ledgerLossCounts
	if err := t.losses.Lookup(uint32(0), &now); err != nil {
		t.log.Error().Err(err).Msg("reading the counts of lost records")
		return true
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
	return now.CounterRecords != before.CounterRecords
}

// recursions counts how often the kernel did not run one of the programs because
// it was running on that CPU already (counted by the kernel since 5.12).
func (t *Tracer) recursions() (sum uint64) {
	for _, program := range t.coll.Programs {
		if stats, err := program.Stats(); err == nil {
			sum += stats.RecursionMisses
		}
	}
	return sum
}

// readLayers adds each layer's state and what its tables had no room for.
func (t *Tracer) readLayers(batch *event.Batch) error {
	t.mu.Lock()
	ids := make([]event.LayerID, 0, len(t.known))
	for id := range t.known {
		ids = append(ids, id)
	}
	t.mu.Unlock()

	if t.collected.layers == nil {
		t.collected.layers = make(map[event.LayerID]ledgerLayer)
	}
	for _, id := range ids {
		var now ledgerLayer
		if err := t.layers.Lookup(uint32(id), &now); err != nil {
			return fmt.Errorf("reading layer %d: %w", id, err)
		}
		before := t.collected.layers[id]
		t.collected.layers[id] = now
		batch.Layers = append(batch.Layers, event.LayerState{
			Layer: id, OpenDeleted: now.OpenDeleted, Mounted: now.Mounts > 0,
		})
		if now.OverflowEvents == before.OverflowEvents && now.Untracked == before.Untracked {
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
			Events: now.OverflowEvents - before.OverflowEvents + now.Untracked - before.Untracked,
			Bytes:  over.Size,
		})
	}
	return nil
}
