// Package aggregate joins the kernel side's deltas with names and adds them up.
//
// It is pure: no I/O, no goroutines, no clock of its own. Whatever it has to ask
// of the outside (which container a process is in, what a path is mounted on)
// comes in through the interfaces Actors and Mounts.
//
// A layer's life in an Aggregator:
//
//	AddLayer → Seed…, Apply… in any order → SeedDone → Apply, Flush … → Removed or Final
//
// or, if no baseline can be taken, AddLayer → Seed…, Apply… → Forget or LeaveOut.
//
// Its one invariant is checked by its tests against random histories: for each
// layer, the growth records' sums of size and disk plus the filtered growth of
// the layer record are the layer's size and allocated bytes minus its baseline,
// to the byte, whatever was lost, late, filtered or found by an audit.
package aggregate

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// Actors knows the processes of the host. All methods are called by Apply,
// Flush, Removed and Final, from their goroutine, and should answer from memory.
type Actors interface {
	// Actor tells the container whose processes the cgroup holds. ok is false
	// if that is not known (yet), and is asked again; an empty id with ok true
	// says that the cgroup is the host's.
	Actor(cgroupID uint64) (containerID string, ok bool)
	// Alive tells whether the process with this pid in the initial pid namespace
	// that started at startNS (nanoseconds since boot) still runs.
	Alive(pid uint32, startNS uint64) bool
	// StartTime converts nanoseconds since boot to wall-clock time.
	StartTime(startNS uint64) time.Time
}

// Mounts knows what a container's paths outside its layer lie on.
type Mounts interface {
	// Classify says what holds path, which is as a process of the layer's
	// container names it and may be empty; device is the kernel's number of the
	// file system (major<<20 | minor).
	Classify(layer event.LayerID, device uint64, path string) record.Storage
}

// Config configures an Aggregator.
type Config struct {
	// Start is when counting began; the summary's duration counts from it.
	Start time.Time
	// IncludeCovered also reports what event.Batch.Covered holds, with its
	// storage class. Such growth never counts into a layer.
	IncludeCovered bool
	// Include keeps only files that match one of these doublestar patterns, all
	// files if there are none; Exclude drops files that match one, and wins. A
	// pattern is matched against the path inside the container, and holds for
	// everything below what it matches; one that does not start with "/" may
	// match at any depth. Growth without any known path is never dropped.
	Include, Exclude []string
	// MinGrowth drops records whose size and disk growth are both smaller in
	// magnitude, in bytes. 0 drops none. Growth without any known path is never
	// dropped.
	//
	// Whatever these three drop is summed in the layer record's
	// filtered_size_growth and filtered_disk_growth.
	MinGrowth int64

	Actors Actors // required
	Mounts Mounts // required with IncludeCovered
}

// Baseline describes one name of one inode that the baseline scan found.
type Baseline struct {
	// File and Parent identify the inode and the directory that names it, with
	// the generations that the kernel side gave them; File is none that was born
	// since counting began. The layer's root directory, without which no path is
	// complete, has the zero Parent and an empty Name.
	File, Parent event.FileID
	Name         string // one path component, raw bytes
	// Mode is st_mode, type bits included.
	Mode uint32
	// Origin is one of the record.Origin constants; empty means added.
	Origin string
	// Links is st_nlink, 0 if not known. It tells a further hard link from a
	// name that was changed while the scan ran.
	Links uint32
	// Size is st_size, ignored for directories; Disk is st_blocks*512. Both are
	// what the file's Deltas are relative to. They count once per inode.
	Size, Disk int64
	// Further is for a name of an inode whose sizes come with another one, before
	// or after this.
	Further bool
	// Gone is for an inode that was deleted before it could be measured. It is no
	// part of the baseline, but this is the name that it had.
	Gone bool
}

// Found is an inode that an audit of the disk found.
type Found struct {
	// File with Generation 0 stands for whatever life of that inode is current.
	File event.FileID
	Path string // inside the container, raw bytes; used for files not known so far
	Dir  bool
	// Size (0 for a directory) and Disk are what stat says: st_size and
	// st_blocks*512.
	Size, Disk int64
}

// Diff is what an audit of the disk found for one file beyond the books: the
// truth minus what is booked. A zero File with an empty Path stands for what is
// booked for the layer as a whole only.
type Diff struct {
	File       event.FileID
	Path       string
	Size, Disk int64
	// Gone says that the file is not there any more.
	Gone bool
	// Nameless says that the books know the file, but not that Path is its name.
	Nameless bool
}

// Whole reports whether the difference is the layer's, not a file's.
func (d *Diff) Whole() bool { return d.File.Inode == 0 && d.Path == "" }

// Aggregator adds up what happens to a set of layers. Its methods must not be
// called concurrently. Records and strings that it returns are never changed
// later and may be kept; the Causes slices of growth records are shared and must
// not be written to.
type Aggregator struct {
	cfg    Config
	filter filter
	procs  procs
	layers map[event.LayerID]*layer
	order  []*layer           // by container name and id
	losses []lossCount        // not yet returned
	totals []record.LossTotal // of the whole run
	causes map[event.Causes][]string
	done   doneList
}

// lossCount is what was lost for one layer and reason.
type lossCount struct {
	layer  event.LayerID
	reason string
	events uint64
	bytes  int64
}

// New returns an Aggregator without layers. It fails only for a malformed
// pattern or a missing Actors or Mounts.
func New(cfg Config) (*Aggregator, error) {
	if cfg.Actors == nil {
		return nil, errors.New("aggregate: no Actors")
	}
	if cfg.IncludeCovered && cfg.Mounts == nil {
		return nil, errors.New("aggregate: covered paths need Mounts")
	}
	f, err := newFilter(cfg.Include, cfg.Exclude)
	if err != nil {
		return nil, err
	}
	return &Aggregator{
		cfg:    cfg,
		filter: f,
		procs:  newProcs(cfg.Actors),
		layers: make(map[event.LayerID]*layer),
		causes: make(map[event.Causes][]string),
	}, nil
}

// AddLayer makes a layer known, before the first Batch or Seed that concerns it.
// Nothing is reported of it before SeedDone. Adding an id that is in use does
// nothing. That of a layer that is gone may be added again once no Batch can speak
// of the old one any more.
func (a *Aggregator) AddLayer(id event.LayerID, c record.Container) {
	if a.layers[id] != nil || id == 0 {
		return
	}
	l := newLayer(id, c)
	a.layers[id] = l
	a.order = append(a.order, l)
	a.sort()
}

func (a *Aggregator) sort() {
	slices.SortStableFunc(a.order, func(x, y *layer) int {
		return cmp.Or(cmp.Compare(x.meta.Name, y.meta.Name), cmp.Compare(x.meta.ID, y.meta.ID))
	})
}

// Seed books one name of the baseline. Apply and Seed commute: where the kernel
// side has told of the inode already, its names win and only the sizes are
// taken, once for each inode. A generation-0 Seed of an inode that the kernel
// side saw coming to life is that file, seen by a scan that ran late, and is no
// part of the baseline. After SeedDone a Seed adds unattributed growth instead.
// The Baseline's strings are kept.
func (a *Aggregator) Seed(id event.LayerID, b Baseline) {
	if l := a.layers[id]; l != nil {
		l.seed(&b)
	}
}

// SeedDone ends the baseline scan: the layer's baseline is fixed and the next
// Flush reports it, together with what has been applied since AddLayer. Apply a
// batch that was collected after the scan before calling it, so that files that
// came to life during the scan are told from the baseline.
func (a *Aggregator) SeedDone(id event.LayerID) {
	if l := a.layers[id]; l != nil {
		l.seedDone()
	}
}

// SeedLate is SeedDone for a layer whose container was noticed only after it had
// begun to write. All that the scan found but the layer's own directory is growth
// of this run then, of nobody knows whom: it returns how much.
func (a *Aggregator) SeedLate(id event.LayerID) (size, disk int64) {
	l := a.layers[id]
	if l == nil {
		return 0, 0
	}
	l.seedDone()
	before := l.unattributed
	l.disown()
	return l.unattributed.size - before.size, l.unattributed.disk - before.disk
}

// Apply books a batch. Layers that were not added or have been removed are
// ignored. The batch is not kept, but its strings are.
func (a *Aggregator) Apply(b *event.Batch) {
	for _, l := range a.order {
		l.batches++
	}
	for i := range b.Processes {
		a.procs.learn(&b.Processes[i])
	}
	// First, because whether a layer is mounted decides what FileGone means.
	for i := range b.Layers {
		s := &b.Layers[i]
		if l := a.layers[s.Layer]; l != nil {
			l.state(s)
		}
	}
	for i := range b.Files {
		e := &b.Files[i]
		if l := a.layers[e.Layer]; l != nil {
			l.file(e, a.procs.obtain(e.Process))
		}
	}
	for i := range b.Deltas {
		d := &b.Deltas[i]
		if l := a.layers[d.Layer]; l != nil {
			l.delta(d, a.procs.obtain(d.Process))
		}
	}
	if a.cfg.IncludeCovered {
		for i := range b.Covered {
			c := &b.Covered[i]
			if l := a.layers[c.Layer]; l != nil {
				l.cover(c, a.procs.obtain(c.Process))
			}
		}
	}
	for i := range b.Overflows {
		o := &b.Overflows[i]
		l := a.layers[o.Layer]
		if l == nil {
			continue
		}
		l.overflow(o)
		if !reported(b.Losses, o.Layer) {
			a.lose(lossCount{o.Layer, string(event.LossTableFull), 1, o.Size})
		}
	}
	for _, x := range b.Losses {
		if x.Layer == 0 || a.layers[x.Layer] != nil {
			a.lose(lossCount{x.Layer, string(x.Reason), x.Events, x.Bytes})
		}
	}
}

// reported tells whether the batch counts the loss behind a layer's overflow
// itself.
func reported(losses []event.Loss, id event.LayerID) bool {
	return slices.ContainsFunc(losses, func(x event.Loss) bool {
		return x.Layer == id && x.Reason == event.LossTableFull
	})
}

func (a *Aggregator) lose(x lossCount) {
	i := slices.IndexFunc(a.losses, func(y lossCount) bool {
		return y.layer == x.layer && y.reason == x.reason
	})
	if i < 0 {
		a.losses = append(a.losses, x)
	} else {
		a.losses[i].events += x.events
		a.losses[i].bytes += x.bytes
	}
	a.addLoss(x)
}

// addLoss adds to the sums of the whole run.
func (a *Aggregator) addLoss(x lossCount) {
	i := slices.IndexFunc(a.totals, func(t record.LossTotal) bool { return t.Reason == x.reason })
	if i < 0 {
		a.totals = append(a.totals, record.LossTotal{Reason: x.reason, Events: x.events, Bytes: x.bytes})
		return
	}
	a.totals[i].Events += x.events
	a.totals[i].Bytes += x.bytes
}

// Missed returns the loss record of a container that was gone before its layer was
// known, so that nobody can tell what it wrote.
func (a *Aggregator) Missed(c record.Container, now time.Time) []record.Record {
	x := lossCount{reason: record.LossUnresolved, events: 1}
	a.addLoss(x)
	return []record.Record{&record.Loss{
		Header: record.NewHeader(record.TypeLoss, now), Reason: x.reason, Events: x.events, Container: &c,
	}}
}

// Losses returns the loss records of what was lost since the last call of
// Losses, Flush or Final, so that they can be written at once after Apply.
func (a *Aggregator) Losses(now time.Time) []record.Record {
	if len(a.losses) == 0 {
		return nil
	}
	res := make([]record.Record, 0, len(a.losses))
	for _, x := range a.losses {
		r := &record.Loss{
			Header: record.NewHeader(record.TypeLoss, now),
			Reason: x.reason, Events: x.events, Bytes: x.bytes,
		}
		if l := a.layers[x.layer]; l != nil {
			c := l.meta
			r.Container = &c
		}
		res = append(res, r)
	}
	a.losses = a.losses[:0]
	return res
}

// Flush ends the interval: it returns losses, then for each container with a
// change its growth records, heaviest first, and its layer record. Containers
// come in the order of name and id.
func (a *Aggregator) Flush(now time.Time) []record.Record {
	var res []record.Record
	for _, l := range a.order {
		if l.seeded {
			res = a.flush(res, l, now, false)
		}
	}
	a.endEpoch()
	return a.withLosses(res, now)
}

// Final is the last Flush: every layer gets its layer record, changed or not.
// Reconcile before it.
func (a *Aggregator) Final(now time.Time) []record.Record {
	var res []record.Record
	for _, l := range a.order {
		l.seedDone()
		res = a.flush(res, l, now, true)
	}
	a.endEpoch()
	return a.withLosses(res, now)
}

// withLosses puts the losses first: those that flushing found belong to it.
func (a *Aggregator) withLosses(res []record.Record, now time.Time) []record.Record {
	if losses := a.Losses(now); len(losses) > 0 {
		return append(losses, res...)
	}
	return res
}

// endEpoch makes processes be looked at anew and forgets those long ended.
func (a *Aggregator) endEpoch() {
	a.procs.next()
	a.procs.shrink(maxProcesses, func(yield func(procID)) {
		for _, l := range a.order {
			for i := range l.accs {
				yield(l.accs[i].proc)
			}
			for i := range l.covered {
				yield(l.covered[i].proc)
			}
		}
	})
}

func (a *Aggregator) containerEvent(l *layer, what string, now time.Time) *record.ContainerEvent {
	return &record.ContainerEvent{
		Header: record.NewHeader(record.TypeContainer, now), Event: what, Container: l.meta,
	}
}

// Renamed gives the container a new name (or image), for all later records, and
// returns the container record that says so; nil if nothing changed.
func (a *Aggregator) Renamed(id event.LayerID, c record.Container, now time.Time) []record.Record {
	l := a.layers[id]
	if l == nil || l.meta == c {
		return nil
	}
	l.meta = c
	l.dirty = true
	a.sort()
	return []record.Record{a.containerEvent(l, record.ContainerRenamed, now)}
}

// Stopped returns the growth and layer records of the layer that a Flush would
// return now, then the container record that says that the container stopped.
// The layer stays: a stopped container can be started again.
func (a *Aggregator) Stopped(id event.LayerID, now time.Time) []record.Record {
	l := a.layers[id]
	if l == nil {
		return nil
	}
	var res []record.Record
	if l.seeded {
		res = a.flush(res, l, now, false)
	}
	return a.withLosses(append(res, a.containerEvent(l, record.ContainerStopped, now)), now)
}

// Removed ends a layer's life: it returns its last growth and layer records and
// the container record with what was lost with it and the ten heaviest paths.
// Later batches are ignored; a compact summary stays.
func (a *Aggregator) Removed(id event.LayerID, now time.Time) []record.Record {
	l := a.layers[id]
	if l == nil {
		return nil
	}
	l.seedDone()
	res := a.flush(nil, l, now, true)
	e := a.containerEvent(l, record.ContainerRemoved, now)
	t := l.totals()
	e.LostSize, e.LostAllocated = &t.Size, &t.Allocated
	e.LostPaths = l.heaviest()
	res = a.withLosses(append(res, e), now)

	s := l.summary()
	s.Removed = true
	a.done.add(s)
	a.Forget(id)
	return res
}

// LeaveOut gives up a layer whose baseline does not fit the kernel side's table of
// files: it returns the loss record that says so, and nothing else is ever
// reported of the layer. Later batches are ignored.
func (a *Aggregator) LeaveOut(id event.LayerID, now time.Time) []record.Record {
	if a.layers[id] == nil {
		return nil
	}
	a.lose(lossCount{layer: id, reason: string(event.LossTableFull), events: 1})
	res := a.Losses(now)
	a.Forget(id)
	return res
}

// Forget ends a layer's life without a word. Later batches are ignored.
func (a *Aggregator) Forget(id event.LayerID) {
	delete(a.layers, id)
	a.order = slices.DeleteFunc(a.order, func(l *layer) bool { return l.id == id })
	a.procs.forgetLayer(id)
}

// LayerTotals returns the totals as booked so far, also of growth that is not
// flushed yet. The Header is zero. ok is false if the layer is not there.
func (a *Aggregator) LayerTotals(id event.LayerID) (t record.Layer, ok bool) {
	l := a.layers[id]
	if l == nil {
		return record.Layer{}, false
	}
	return record.Layer{Totals: l.totals(), Files: l.files}, true
}
