package model

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// restLimit is how long work that the kernel does later may take.
const restLimit = 10 * time.Second

// order is a way to run the operations of a history.
type order string

const (
	// serial does them one at a time, in their order.
	serial order = "serial"
	// settled does too, and has what a worker left in memory written back before
	// another one goes on.
	settled order = "settled"
	// concurrent has each worker do its own, at the same time as the others.
	concurrent order = "concurrent"
)

var orders = []order{serial, settled, concurrent}

// history is operations that are done on an overlay of their own, and what is
// known of their effects.
type history struct {
	*rig
	t       *testing.T // for what is wrong with the checker
	order   order
	ops     []op
	overlay *overlay
	books   *books
	before  map[uint64]inode // the last look at the disk
	lines   []string         // the history as it went, for people
	hasty   bool             // waiting for the file system to settle has been in vain
}

// ourselves is the process of the test.
var ourselves = uint32(os.Getpid())

// play does the operations on a new overlay and returns what does not agree, if
// anything.
func (r *rig) play(t *testing.T, options string, order order, ops []op) (problems, lines []string) {
	t.Helper()
	h := &history{rig: r, t: t, order: order, ops: ops, books: newBooks()}
	h.lines = append(h.lines, fmt.Sprintf("%s, %s", options, order))
	for _, m := range r.team.members {
		h.books.processes[m.processID] = &process{label: m.name, name: m.name, parent: ourselves}
	}
	var err error
	h.overlay, err = r.mount(options)
	h.must(err)
	h.before = h.overlay.start
	r.played[order]++
	if order == concurrent {
		h.concurrent()
	} else {
		h.inTurn()
	}
	h.agree()
	h.end()
	agreed := len(h.books.problems) == 0
	if agreed {
		h.agree()
		h.forgotten()
	}
	h.remove(agreed)
	return h.books.problems, h.lines
}

// agree compares all that is known.
func (h *history) agree() {
	h.collect()
	// xfs and btrfs finish in workers what stat shows already, and the books know
	// it when it is done.
	h.eventually(func() bool { return !h.restless() })
	h.books.compare(h.order, h.exact)
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

func (h *history) ask(worker int, r request) answer {
	a, err := h.team.members[worker].ask(h.complete(r))
	h.must(err)
	return a
}

// complete adds to a request where everything is.
func (h *history) complete(r request) request {
	r.Root, r.Peers = h.overlay.merged, h.team.processes()
	return r
}

// note takes down what an operation said.
func (h *history) note(o *op, r *result) {
	h.lines = append(h.lines, fmt.Sprintf("%v → %v", o, r))
	if r.Wrong != "" {
		h.must(fmt.Errorf("%v: %s", o, r.Wrong))
	}
	h.count(o, r)
	h.books.said(r)
	name := workerName(o.Worker)
	if r.Parent != 0 {
		h.books.processes[r.By] = &process{label: "a child of " + name, name: name, parent: r.Parent, fresh: true}
	}
	if r.Heir != 0 {
		h.books.processes[r.Heir] = &process{label: "another " + name, name: name, parent: ourselves, fresh: true}
	}
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
}

// turns cuts operations where another worker takes over, and around those that are a
// turn of their own.
func turns(ops []op, alone func(*op) bool) (all [][]op) {
	for len(ops) > 0 {
		end := 1
		for end < len(ops) && ops[end].Worker == ops[0].Worker && !alone(&ops[0]) && !alone(&ops[end]) {
			end++
		}
		all = append(all, ops[:end])
		ops = ops[end:]
	}
	return all
}

// turn has a worker do what it has to do before another one takes over.
func (h *history) turn(ops []op) ([]result, error) {
	if ops[0].Kind == "kill" {
		r, err := h.kill(&ops[0])
		return []result{r}, err
	}
	a, err := h.team.members[ops[0].Worker].ask(h.complete(request{Ops: ops}))
	return a.Results, err
}

// kill ends a worker, at rest or while it does something, and puts another in its place.
func (h *history) kill(o *op) (result, error) {
	m := h.team.members[o.Worker]
	r := result{By: m.processID}
	if o.Choice != "at rest" {
		r.Perhaps = killPieces * o.Size
		if _, err := m.ask(h.complete(request{Ops: []op{*o}})); !errors.Is(err, io.EOF) {
			return r, fmt.Errorf("%s was to be killed: %w", m.name, err)
		}
	} else if err := m.cmd.Process.Kill(); err != nil {
		return r, err
	}
	err := h.team.replace(o.Worker)
	if err == nil {
		r.Heir = h.team.members[o.Worker].processID
	}
	return r, err
}

// inTurn does one operation after the other, and looks at the disk before another
// worker takes over: so that what has changed is the doing of that one.
func (h *history) inTurn() {
	// What was in memory before is nobody's.
	h.rest(nobody)
	for _, ops := range turns(h.ops, func(o *op) bool { return kindNamed[o.Kind].alone }) {
		if ops[0].Kind == "collect" {
			h.lines = append(h.lines, "an interval ends")
			h.collect()
			continue
		}
		results, err := h.turn(ops)
		h.must(err)
		for i := range results {
			h.note(&ops[i], &results[i])
		}
		before := h.before
		h.rest(results[0].By)
		if ops[0].Kind == "dropcaches" {
			h.givenUp(before)
		}
	}
}

// givenUp is for when the kernel has forgotten inodes: xfs gives up what it had allocated
// ahead of their writers then.
func (h *history) givenUp(before map[uint64]inode) { h.books.blur(before, h.before) }

// rest looks at the disk, in the settled order once all is there.
func (h *history) rest(process uint32) {
	if h.order != settled {
		h.look(process)
		return
	}
	h.must(h.overlay.sync())
	h.look(process)
	for end := time.Now().Add(restLimit); h.exact && !h.hasty && h.restless(); h.look(process) {
		h.hasty = time.Now().After(end)
		time.Sleep(restLimit / 1000)
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
	type heard struct {
		worker  int
		results []result
		err     error
	}
	done := make(chan heard, workers)
	var all [workers][][]op
	for i, list := range lists {
		all[i] = turns(list, func(o *op) bool { return o.Kind == "kill" })
		first := request{Await: true}
		if len(all[i]) > 0 && all[i][0][0].Kind != "kill" {
			first.Ops, all[i] = all[i][0], all[i][1:]
		}
		h.ask(i, first)
	}
	for i := range lists {
		go func() {
			a, err := h.team.members[i].ask(request{})
			results := a.Results
			for _, ops := range all[i] {
				if err != nil {
					break
				}
				var more []result
				more, err = h.turn(ops)
				results = append(results, more...)
			}
			done <- heard{i, results, err}
		}()
	}
	var results [workers][]result
	for range workers {
		for wait := true; wait; {
			select {
			case a := <-done:
				h.must(a.err)
				results[a.worker] = a.results
				wait = false
			case <-time.After(5 * time.Millisecond):
				h.collect()
			}
		}
	}
	for i, list := range lists {
		for n := range list {
			h.note(&list[n], &results[i][n])
		}
	}
	h.look(nobody)
}

// openDeleted holds what the tracer says of inodes that have no name and are in
// use against what those say who have them open, and returns what does not agree.
func (h *history) openDeleted() (wrong []string) {
	problem := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	open := map[uint64]held{}
	for i := range workers {
		for _, f := range h.ask(i, request{Report: true}).Held {
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
	for i, m := range h.team.members {
		h.ask(i, request{Release: true})
		h.rest(m.processID)
	}
	before := h.before
	h.must(h.overlay.unmount())
	h.look(nobody)
	h.givenUp(before)
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
