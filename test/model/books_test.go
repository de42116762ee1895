package model

import (
	"fmt"
	"maps"
	"slices"

	"github.com/layertrace/layertrace/tracer/event"
)

// account is what one process did to one inode. An inode's number may be given
// again: what then is booked on the number still adds up to what is on the disk.
type account struct {
	process uint32
	inode   uint64
}

// amount is a change of size and of allocated bytes.
type amount struct{ size, disk int64 }

func (a amount) plus(b amount) amount { return amount{a.size + b.size, a.disk + b.disk} }

func (a amount) String() string { return fmt.Sprintf("size %+d, disk %+d", a.size, a.disk) }

// books holds what a history should have been charged with against what it was.
type books struct {
	due, booked map[account]amount
	// wrote is what the operations say that they wrote; perhaps may count as
	// written too.
	wrote, perhaps, written map[uint32]int64
	openDeleted             int64 // as the tracer says
	processes               map[uint32]*process
	announced               []event.Process
	// unclear are inodes of which the disk use has changed without it being known
	// whose doing that is.
	unclear  map[uint64]bool
	paths    map[uint64]string // of the inodes, for people
	deltas   []event.Delta
	files    []event.FileEvent
	problems []string
}

// process is one that changes the layer.
type process struct {
	label  string // for people
	name   string
	parent uint32
	fresh  bool // it began during the history
}

func newBooks() *books {
	return &books{
		due: map[account]amount{}, booked: map[account]amount{},
		wrote: map[uint32]int64{}, perhaps: map[uint32]int64{}, written: map[uint32]int64{},
		processes: map[uint32]*process{nobody: {label: "nobody in particular"}},
		unclear:   map[uint64]bool{},
		paths:     map[uint64]string{},
	}
}

func (b *books) problem(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

// changed charges a process with what is different on the disk.
func (b *books) changed(process uint32, before, after map[uint64]inode) {
	for number, i := range after {
		b.paths[number] = i.path
	}
	for number := range union(before, after) {
		was, is := before[number], after[number]
		change := amount{is.size - was.size, is.disk - was.disk}
		if change == (amount{}) {
			continue
		}
		key := account{process, number}
		b.due[key] = b.due[key].plus(change)
	}
}

// blur notes that it is not known who has changed the disk use of inodes.
func (b *books) blur(before, after map[uint64]inode) {
	for number := range union(before, after) {
		if before[number].disk != after[number].disk {
			b.unclear[number] = true
		}
	}
}

// said adds what an operation said.
func (b *books) said(r *result) {
	b.wrote[r.By] += r.Written
	b.perhaps[r.By] += r.Perhaps
}

// take books a batch of the tracer's.
func (b *books) take(batch *event.Batch) {
	for _, d := range batch.Deltas {
		process := d.Process.PID
		if process == ourselves {
			process = nobody // who has things written back
		}
		key := account{process, d.File.Inode}
		b.booked[key] = b.booked[key].plus(amount{d.Size, d.Disk})
		b.written[process] += int64(d.Written)
	}
	b.announced = append(b.announced, batch.Processes...)
	b.deltas = append(b.deltas, batch.Deltas...)
	b.files = append(b.files, batch.Files...)
	for _, l := range batch.Layers {
		b.openDeleted = l.OpenDeleted
	}
	for _, l := range batch.Losses {
		b.problem("a loss: %+v", l)
	}
	for _, o := range batch.Overflows {
		b.problem("an overflow: %+v", o)
	}
}

// compare notes what does not agree. Processes are told apart in size where the
// operations came one after the other. In disk only where what each has left in memory
// was written back before the next one went on: many an operation (fsync, direct I/O,
// fallocate, a rename over a file) writes back what others have left there, and what
// that allocates is theirs.
func (b *books) compare(order order, exact bool) {
	for _, number := range slices.Sorted(maps.Keys(b.inodes())) {
		var due, booked amount
		bad := false
		for process := range b.everybody() {
			d, k := b.due[account{process, number}], b.booked[account{process, number}]
			due, booked = due.plus(d), booked.plus(k)
			bad = bad || order != concurrent && d.size != k.size ||
				order == settled && exact && !b.unclear[number] && d.disk != k.disk
		}
		if bad || due.size != booked.size || exact && due.disk != booked.disk {
			b.problem("inode %d (%s): on the disk %v; booked %v", number, b.path(number), due, booked)
			b.details(number)
		}
	}
	for process := range b.everybody() {
		wrote, written := b.wrote[process], b.written[process]
		if written < wrote || written > wrote+b.perhaps[process] {
			b.problem("%s wrote %d bytes (and perhaps %d more); booked %d", b.who(process), wrote, b.perhaps[process], written)
		}
	}
	b.introduced()
}

// introduced requires that processes are announced as what they are, and none is
// charged that is not.
func (b *books) introduced() {
	known := map[uint32]bool{}
	for _, p := range b.announced {
		known[p.ID.PID] = true
		is := b.processes[p.ID.PID]
		if is != nil && (p.Name != is.name || p.ParentPID != is.parent) {
			b.problem("%s, of process %d, is announced as %+v", is.label, is.parent, p)
		}
	}
	for process, is := range b.processes {
		charged := b.written[process] != 0
		for key, a := range b.booked {
			charged = charged || key.process == process && a != (amount{})
		}
		if is.fresh && charged && !known[process] {
			b.problem("%s, process %d, is charged and was never announced", is.label, process)
		}
	}
}

// details adds all that is known of an inode.
func (b *books) details(number uint64) {
	for process := range b.everybody() {
		key := account{process, number}
		d, due := b.due[key]
		k, booked := b.booked[key]
		if due || booked {
			b.problem("    %s: on the disk %v; booked %v", b.who(process), d, k)
		}
	}
	for _, d := range b.deltas {
		if d.File.Inode == number {
			b.problem("    %+v", d)
		}
	}
	for _, f := range b.files {
		if f.File.Inode == number {
			b.problem("    %+v", f)
		}
	}
}

// inodes is every inode that is in the books.
func (b *books) inodes() map[uint64]bool {
	all := map[uint64]bool{}
	for key := range b.due {
		all[key.inode] = true
	}
	for key := range b.booked {
		all[key.inode] = true
	}
	for _, f := range b.files {
		all[f.File.Inode] = true
	}
	delete(all, 0) // of whiteouts
	return all
}

// everybody is every process that is in the books.
func (b *books) everybody() map[uint32]bool {
	all := map[uint32]bool{}
	for key := range b.due {
		all[key.process] = true
	}
	for key := range b.booked {
		all[key.process] = true
	}
	for process := range b.wrote {
		all[process] = true
	}
	for process := range b.written {
		all[process] = true
	}
	return all
}

func (b *books) path(number uint64) string {
	switch path, ok := b.paths[number]; {
	case !ok:
		return "never seen"
	case path == "":
		return "/"
	default:
		return path
	}
}

func (b *books) who(process uint32) string {
	if is := b.processes[process]; is != nil {
		return is.label
	}
	return fmt.Sprintf("process %d", process)
}

// union is the keys of both.
func union(a, b map[uint64]inode) map[uint64]bool {
	all := make(map[uint64]bool, len(a)+len(b))
	for number := range a {
		all[number] = true
	}
	for number := range b {
		all[number] = true
	}
	return all
}
