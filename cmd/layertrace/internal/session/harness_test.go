package session

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/layer"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// recorder is an output that keeps what it gets.
type recorder struct {
	mu      sync.Mutex
	records []record.Record
	flushes int
	err     error
}

func (r *recorder) Write(rec record.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.records = append(r.records, rec)
	return nil
}

func (r *recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes++
	return r.err
}

func (r *recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// of returns the records of one type so far.
func of[T record.Record](r *recorder) []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []T
	for _, rec := range r.records {
		if t, ok := rec.(T); ok {
			all = append(all, t)
		}
	}
	return all
}

// types lists the types of all records.
func (r *recorder) types() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, rec := range r.records {
		name := rec.Head().Type
		if e, ok := rec.(*record.ContainerEvent); ok {
			name = e.Event
		}
		all = append(all, name)
	}
	return all
}

// world is a session that runs in a test, in the time of a synctest bubble.
type world struct {
	*testing.T
	kernel     *sessiontest.Kernel
	containers *sessiontest.Containers
	out        *recorder
	session    *Session
	stop       chan string
	abort      context.CancelCauseFunc
	done       chan error
}

// run starts a session on the containers and waits until it has begun, or is
// waiting for something else.
func run(t *testing.T, adjust func(*Config, *world), list ...resolver.Container) *world {
	t.Helper()
	w := &world{
		T:          t,
		kernel:     sessiontest.NewKernel(),
		containers: sessiontest.NewContainers(list...),
		out:        &recorder{},
		stop:       make(chan string, 1),
		done:       make(chan error, 1),
	}
	cfg := Config{
		Log:        zerolog.Nop(),
		Clock:      SystemClock{},
		Kernel:     w.kernel,
		Containers: w.containers,
		Output:     w.out,
		StartTime:  func(uint64) time.Time { return time.Unix(0, 0) },
		Interval:   time.Second,
	}
	for _, c := range list {
		cfg.Select.Refs = append(cfg.Select.Refs, c.Name)
	}
	if adjust != nil {
		adjust(&cfg, w)
	}
	var err error
	if w.session, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, abort := context.WithCancelCause(t.Context())
	w.abort = abort
	go func() { w.done <- w.session.Run(ctx, w.stop) }()
	synctest.Wait()
	return w
}

// sleep lets time pass and everything settle.
func (w *world) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// write changes a file of the container and lets the kernel side see it.
func (w *world) write(c resolver.Container, path string, size int) {
	w.Helper()
	full := filepath.Join(c.UpperDir, path)
	sessiontest.Write(w, full, size)
	w.kernel.Look(w, full)
}

// stopWithADifference stops the container, and returns in the midst of the audit that
// this brings about.
func (w *world) stopWithADifference(c resolver.Container) {
	w.Helper()
	sessiontest.Write(w, filepath.Join(c.UpperDir, "unseen"), 100) // is looked at twice
	w.containers.Send(resolver.Stopped, c)
	time.Sleep(confirmAfter / 2)
}

// end waits for the session's end.
func (w *world) end() error {
	w.Helper()
	select {
	case err := <-w.done:
		return err
	case <-time.After(24 * time.Hour):
		w.Fatal("the session does not end")
		return nil
	}
}

// finish ends the session like a signal does, and expects no error.
func (w *world) finish() {
	w.Helper()
	w.stop <- record.EndedSignal
	if err := w.end(); err != nil {
		w.Fatalf("Run: %v", err)
	}
	w.wellFormed()
}

// wellFormed checks what holds for every stream that was ended in order.
func (w *world) wellFormed() {
	w.Helper()
	types := w.out.types()
	if len(types) < 2 || types[0] != record.TypeSession || types[len(types)-1] != record.TypeSummary {
		w.Fatalf("stream does not go from session to summary: %v", types)
	}
	type sums struct{ size, disk int64 }
	grown, first, last := map[string]sums{}, map[string]*record.Layer{}, map[string]*record.Layer{}
	for _, g := range of[*record.Growth](w.out) {
		if g.Storage.Class == record.ClassLayer {
			s := grown[g.Container.ID]
			grown[g.Container.ID] = sums{s.size + g.SizeGrowth, s.disk + g.DiskGrowth}
		}
	}
	for _, l := range of[*record.Layer](w.out) {
		if first[l.Container.ID] == nil {
			first[l.Container.ID] = l
		}
		last[l.Container.ID] = l
	}
	for id, l := range last {
		want := sums{l.Size - first[id].BaselineSize, l.Allocated - first[id].BaselineAllocated}
		if grown[id] != want {
			w.Errorf("%s: growth records add up to %+v, layer grew by %+v", l.Container.Name, grown[id], want)
		}
	}
}

// lastLayer returns the last layer record.
func (w *world) lastLayer() *record.Layer {
	w.Helper()
	all := of[*record.Layer](w.out)
	if len(all) == 0 {
		w.Fatal("no layer record")
	}
	return all[len(all)-1]
}

// equalsDisk checks that the last layer record says what is on the disk.
func (w *world) equalsDisk(c resolver.Container) {
	w.Helper()
	disk, err := layer.Measure(w.Context(), c.UpperDir)
	if err != nil {
		w.Fatal(err)
	}
	l := w.lastLayer()
	if l.Size != disk.Size || l.Allocated != disk.Allocated || l.Files != disk.Files {
		w.Errorf("last layer record: size %d, allocated %d, files %d; disk: %+v", l.Size, l.Allocated, l.Files, disk)
	}
}

// endsWithBaseline ends the run and checks that its last layer record says what is on
// the disk, of that baseline and so many files, and that somebody is known for all
// growth.
func (w *world) endsWithBaseline(c resolver.Container, size, files int64) {
	w.Helper()
	w.finish()
	w.equalsDisk(c)
	if l := w.lastLayer(); l.BaselineSize != size || l.Files != files || l.UnattributedSize != 0 {
		w.Errorf("layer record: %+v, want a baseline of %d bytes, %d files", l, size, files)
	}
}

// unattributed returns the growth records without a process.
func (w *world) unattributed() []*record.Growth {
	var all []*record.Growth
	for _, g := range of[*record.Growth](w.out) {
		if g.Process == nil {
			all = append(all, g)
		}
	}
	return all
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
