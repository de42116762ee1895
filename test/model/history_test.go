package model

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// restLimit is how long work that the kernel does later may take.
const restLimit = 10 * time.Second

// history is operations that are done on an overlay of their own, and what is
// known of their effects.
type history struct {
	*rig
	t       *testing.T // for what is wrong with the checker
	ops     []op
	overlay *overlay
	books   *books
	before  map[uint64]inode // the last look at the disk
	lines   []string         // the history as it went, for people
}

// play does the operations on a new overlay and returns what does not agree, if
// anything. Where serial, they are done one at a time, in their order; otherwise
// each worker does its own, at the same time as the others.
func (r *rig) play(t *testing.T, options string, serial bool, ops []op) (problems, lines []string) {
	t.Helper()
	names := map[uint32]string{nobody: "nobody in particular"}
	peers := make([]int, workers)
	for i, m := range r.team {
		names[m.processID] = m.name
		peers[i] = int(m.processID)
	}
	h := &history{rig: r, t: t, ops: ops, books: newBooks(names)}
	var err error
	h.overlay, err = r.mount(options)
	h.must(err)
	h.before = h.overlay.start
	for _, m := range r.team {
		h.ask(m, request{Root: h.overlay.merged, Peers: peers})
	}
	if serial {
		h.serial()
	} else {
		h.concurrent()
	}
	h.agree(serial)
	h.end()
	agreed := len(h.books.problems) == 0
	if agreed {
		h.agree(serial)
		h.forgotten()
	}
	h.remove(agreed)
	return h.books.problems, h.lines
}

// agree compares all that is known.
func (h *history) agree(processes bool) {
	h.collect()
	// xfs and btrfs finish in workers what stat shows already, and the books know
	// it when it is done.
	h.eventually(func() bool { return !h.restless() })
	h.books.compare(processes, h.exact)
	// And btrfs has a worker free the inodes of which it has written something, at the
	// latest when a transaction ends.
	var wrong []string
	began := time.Now()
	h.eventually(func() bool {
		if wrong = h.openDeleted(); len(wrong) > 0 && time.Since(began) > restLimit/4 {
			unix.Sync()
		}
		return len(wrong) == 0
	})
	for _, text := range wrong {
		h.books.problem("%s", text)
	}
	h.ledger()
}

// eventually looks at the disk and collects until something is so, for a while.
func (h *history) eventually(so func() bool) {
	for end := time.Now().Add(restLimit); h.exact && !so() && time.Now().Before(end); {
		time.Sleep(restLimit / 100)
		h.look(nobody)
		h.collect()
	}
}

// restless tells whether a page differs from what was seen on the disk.
func (h *history) restless() bool {
	for number, i := range h.before {
		entry, known, err := h.tracer.Entry(h.overlay.device, number)
		h.must(err)
		if known && entry.Disk != i.disk {
			return true
		}
	}
	return false
}

// must ends the test if the checker itself does not work.
func (h *history) must(err error) {
	if err != nil {
		h.t.Helper()
		h.t.Fatalf("the checker does not work: %v\n%s", err, strings.Join(h.lines, "\n"))
	}
}

func (h *history) ask(m *member, r request) answer {
	a, err := m.ask(r)
	h.must(err)
	return a
}

// note takes down what an operation said.
func (h *history) note(o *op, r *result) {
	h.lines = append(h.lines, fmt.Sprintf("%v → %v", o, r))
	if r.Wrong != "" {
		h.must(fmt.Errorf("%v: %s", o, r.Wrong))
	}
	h.count(o, r)
	h.books.said(h.team[o.Worker].processID, *r)
}

// look charges a process with what has changed on the disk since the last look.
func (h *history) look(process uint32) {
	after, err := walk(h.overlay.upper)
	h.must(err)
	h.books.changed(process, h.before, after)
	h.before = after
}

func (h *history) collect() {
	batch, err := h.tracer.Collect()
	h.must(err)
	h.books.take(batch)
	for _, p := range batch.Processes {
		for _, m := range h.team {
			if p.ID.PID == m.processID && p.Name != m.name {
				h.books.problem("%s is announced as %+v", m.name, p)
			}
		}
	}
}

// serial does one operation after the other, and looks at the disk before another
// worker takes over: so that what has changed is the doing of that one.
func (h *history) serial() {
	for i, next := 0, 0; i < len(h.ops); i = next {
		first := &h.ops[i]
		next = i + 1
		if first.Kind == "collect" {
			h.lines = append(h.lines, "an interval ends")
			h.collect()
			continue
		}
		for next < len(h.ops) && h.ops[next].Worker == first.Worker && h.ops[next].Kind != "collect" {
			next++
		}
		m := h.team[first.Worker]
		results := h.ask(m, request{Ops: h.ops[i:next]}).Results
		for n := range results {
			h.note(&h.ops[i+n], &results[n])
		}
		h.look(m.processID)
	}
}

// nobody is charged with what several have done at once.
const nobody = 0

// concurrent has all workers do their operations at the same time, while one
// interval ends after the other.
func (h *history) concurrent() {
	var lists [workers][]op
	for _, o := range h.ops {
		lists[o.Worker] = append(lists[o.Worker], o)
	}
	for i, m := range h.team {
		h.ask(m, request{Await: true, Ops: lists[i]})
	}
	type heard struct {
		answer
		worker int
		err    error
	}
	done := make(chan heard, workers)
	for i, m := range h.team {
		h.must(m.tell(request{}))
		go func() {
			a, err := m.hear()
			done <- heard{a, i, err}
		}()
	}
	var results [workers][]result
	for range workers {
		for wait := true; wait; {
			select {
			case a := <-done:
				h.must(a.err)
				results[a.worker] = a.Results
				wait = false
			case <-time.After(5 * time.Millisecond):
				h.collect()
			}
		}
	}
	for i := range h.team {
		for n := range lists[i] {
			h.note(&lists[i][n], &results[i][n])
		}
	}
	h.look(nobody)
}

// openDeleted holds what the tracer says of inodes that have no name and are in
// use against what those say who have them open, and returns what does not agree.
func (h *history) openDeleted() (wrong []string) {
	problem := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	open := map[uint64]held{}
	for _, m := range h.team {
		for _, f := range h.ask(m, request{Report: true}).Held {
			open[f.Inode] = f
		}
	}
	var files, directories int64
	for _, f := range open {
		if f.Directory {
			directories += f.Disk
		} else {
			files += f.Disk
		}
	}
	var filePages, directoryPages int64
	for number := range h.books.inodes() {
		entry, known, err := h.tracer.Entry(h.overlay.device, number)
		h.must(err)
		switch {
		case !known || !entry.Deleted:
		case entry.Mode&unix.S_IFMT == unix.S_IFDIR:
			directoryPages += entry.Disk
		default:
			filePages += entry.Disk
		}
	}
	if sum := filePages + directoryPages; sum != h.books.openDeleted {
		problem("the pages of deleted inodes add up to %d; booked as open and deleted are %d", sum, h.books.openDeleted)
	}
	if files != filePages {
		problem("open files without a name take %d bytes: %v; booked %d", files, open, filePages)
	}
	// Overlayfs keeps more of them in use than are open: a file, one that another
	// name is left of too, keeps the directory that it was deleted from.
	if directories > directoryPages {
		problem("open directories without a name take %d bytes: %v; booked %d", directories, open, directoryPages)
	}
	return wrong
}

// ledger holds the page of each inode against the disk.
func (h *history) ledger() {
	for number, i := range h.before {
		if i.whiteout && i.size == 0 && i.disk == 0 {
			continue // made beside the layer, or without a block for an access control list
		}
		entry, known, err := h.tracer.Entry(h.overlay.device, number)
		h.must(err)
		if !known {
			h.books.problem("inode %d (%s) has no page", number, i.path)
			continue
		}
		if entry.Deleted || entry.Layer != theLayer || entry.Size != i.size || h.exact && entry.Disk != i.disk {
			h.books.problem("inode %d (%s) has size %d, disk %d; its page is %+v", number, i.path, i.size, i.disk, entry)
		}
	}
}

// end has all workers let go of what they hold, one after the other, and unmounts
// the overlay, which has the kernel write back what was left in memory.
func (h *history) end() {
	for _, m := range h.team {
		h.ask(m, request{Release: true})
		h.look(m.processID)
	}
	h.must(h.overlay.unmount())
	h.look(nobody)
}

// forgotten requires that inodes which are not there any more have no page.
func (h *history) forgotten() {
	kept := map[uint64]inode{}
	if index := h.overlay.dir + "/work/index"; exists(index) {
		var err error
		kept, err = walk(index)
		h.must(err)
	}
	for number := range h.books.inodes() {
		if _, ok := h.before[number]; ok {
			continue
		}
		if _, ok := kept[number]; ok {
			continue // overlayfs keeps it for other names of the image's file
		}
		h.noPage(number)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// noPage requires that an inode has no page, or none once the file system has written
// back what it still works on: btrfs frees inodes late that had direct and delayed writes.
func (h *history) noPage(number uint64) {
	entry, known, err := h.tracer.Entry(h.overlay.device, number)
	for end := time.Now().Add(restLimit); known && err == nil && time.Now().Before(end); {
		unix.Sync()
		time.Sleep(restLimit / 100)
		entry, known, err = h.tracer.Entry(h.overlay.device, number)
	}
	h.must(err)
	if known {
		h.books.problem("inode %d (%s) is gone, its page is %+v", number, h.books.path(number), entry)
	}
}

// remove does what a runtime does with the layer of a container. That is its end
// and no change of it: nothing may be booked for it, unless something is wrong
// already.
func (h *history) remove(agreed bool) {
	h.must(h.overlay.remove())
	batch, err := h.tracer.Collect()
	h.must(err)
	if !agreed {
		return
	}
	for _, d := range batch.Deltas {
		h.books.problem("the removal of the layer was booked: %+v", d)
	}
	for number := range h.before {
		h.noPage(number)
	}
}

// kernel is the name of the running kernel.
func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(release))
}
