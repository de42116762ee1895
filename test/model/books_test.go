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
	// wrote is what the operations say that they wrote; cloned may count as
	// written too, since it is up to the file system.
	wrote, cloned, written map[uint32]int64
	openDeleted            int64             // as the tracer says
	names                  map[uint32]string // of the processes, for people
	paths                  map[uint64]string // of the inodes, likewise
	deltas                 []event.Delta
	files                  []event.FileEvent
	problems               []string
}

// newBooks opens books for processes of these names.
func newBooks(names map[uint32]string) *books {
	return &books{
		names: names,
		due:   map[account]amount{}, booked: map[account]amount{},
		wrote: map[uint32]int64{}, cloned: map[uint32]int64{}, written: map[uint32]int64{},
		paths: map[uint64]string{},
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

// said adds what an operation said.
func (b *books) said(process uint32, r result) {
	b.wrote[process] += r.Written
	b.cloned[process] += r.Cloned
}

// take books a batch of the tracer's.
func (b *books) take(batch *event.Batch) {
	for _, d := range batch.Deltas {
		key := account{d.Process.PID, d.File.Inode}
		b.booked[key] = b.booked[key].plus(amount{d.Size, d.Disk})
		b.written[d.Process.PID] += int64(d.Written)
	}
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
// operations came one after the other; not in disk, since many an operation (fsync,
// direct I/O, fallocate, a rename over a file) writes back what others have left in
// memory, and what that allocates is theirs.
func (b *books) compare(processes, disk bool) {
	for _, number := range slices.Sorted(maps.Keys(b.inodes())) {
		var due, booked amount
		bad := false
		for process := range b.processes() {
			d, k := b.due[account{process, number}], b.booked[account{process, number}]
			due, booked = due.plus(d), booked.plus(k)
			bad = bad || processes && d.size != k.size
		}
		if bad || due.size != booked.size || disk && due.disk != booked.disk {
			b.problem("inode %d (%s): on the disk %v; booked %v", number, b.path(number), due, booked)
			b.details(number)
		}
	}
	for process := range b.processes() {
		wrote, written := b.wrote[process], b.written[process]
		if written < wrote || written > wrote+b.cloned[process] {
			b.problem("%s wrote %d bytes (and had %d cloned); booked %d", b.who(process), wrote, b.cloned[process], written)
		}
	}
}

// details adds all that is known of an inode.
func (b *books) details(number uint64) {
	for process := range b.processes() {
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

// processes is every process that is in the books.
func (b *books) processes() map[uint32]bool {
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
	if name, ok := b.names[process]; ok {
		return name
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
