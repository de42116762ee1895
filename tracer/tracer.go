// Package tracer loads the eBPF programs that account for overlayfs layers and
// turns what they count into package event's typed numbers. It knows no
// container; which directory is whose is the caller's business.
//
// It needs Linux 5.10 or later with BTF, the overlay module loaded, and root.
package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/tracer/event"
)

const (
	defaultMaxFiles    = 1 << 20
	defaultMaxCounters = 1 << 16
	// callsAtOnce is how many threads may be in a function that a single probe
	// waits for: those of overlay that change names, or copy up.
	callsAtOnce = 4096
	anyDevice   = ^uint32(0)
)

// Config of a Tracer. The zero value is usable.
type Config struct {
	Log zerolog.Logger
	// IncludeCovered also traces writes of watched containers to files outside
	// of their layer. It costs a program on every write of the host.
	IncludeCovered bool
	// CgroupController is the cgroup v1 controller in whose hierarchy containers are
	// told apart, by its name in the mount table (memory, pids …). Default: the
	// v2 hierarchy.
	CgroupController string
	// Method is how to attach. Default: what suits the kernel.
	Method Method
	// MaxFiles bounds the ledger: the inodes of all watched layers. Kernel memory
	// is 16 bytes for each that there may be, some 170 for each that there is.
	// Default 1,048,576.
	MaxFiles uint32
	// MaxCounters bounds the (file, process) pairs of one interval, which are one less;
	// two tables of that many are allocated, 96 bytes a pair. Default 65,536.
	MaxCounters uint32
}

// Tracer counts growth of layers in the kernel. Its methods may be called from
// several goroutines at once, but for Collect, which has one caller at a time.
type Tracer struct {
	cfg    Config
	coll   *ebpf.Collection
	probes bool
	old    bool // the programs are those for kernels before 5.13

	files, layers, losses *ebpf.Map
	states                *ebpf.Memory // of layers
	counters              *ebpf.Map    // the slot that programs count into
	tables                [2]table
	cgroups               sync.Mutex // guards cgroupsChanged
	cgroupsChanged        uint64
	slot                  sync.Mutex // guards active and what is in the slot
	active                int        // which table is in the slot; the other is ours
	track, untrack        *ebpf.Program
	settle, turn          *ebpf.Program
	look                  *ebpf.Program // nil on old kernels
	tracked               atomic.Uint64 // how often Track was called: generations
	reader                *ringbuf.Reader
	readerDone, flushed   chan struct{}
	activity              chan struct{}
	fence                 atomic.Uint32 // see arm
	closeOnce             sync.Once
	closeErr              error
	collected             snapshot // cumulative counts at the last Collect

	adding sync.Mutex              // held, before mu, while programs are loaded: the reader must not wait for that
	later  map[string][]attachment // see hookSpec.later; nil once they are attached

	mu       sync.Mutex // guards what follows
	links    []link.Link
	attached []attachment // in the order of links
	reasons  []string
	pending  pending
	maxNames int       // in pending, before the reader waits
	room     sync.Cond // for more of them
	taking   bool      // the reader does not wait
	known    map[event.LayerID]knownLayer
	restless map[ledgerFileKey]ledgerFileEntry
}

// knownLayer is what AddLayer was told, and what follows from it.
type knownLayer struct {
	device     uint32
	diskMethod uint64
	plain      bool
}

// New loads and attaches the programs. Errors match ErrNoBTF, ErrNotPermitted,
// ErrNoOverlay or ErrUnsupported where one of these is the reason. What was set
// up before an error is taken down again.
func New(cfg Config) (_ *Tracer, err error) {
	if cfg.MaxFiles == 0 {
		cfg.MaxFiles = defaultMaxFiles
	}
	if cfg.MaxCounters == 0 {
		cfg.MaxCounters = defaultMaxCounters
	}
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raising the limit on locked memory: %w", permission(err))
	}
	cache := btf.NewCache()
	functions, err := loadKernelFunctions(cache)
	if err != nil {
		return nil, err
	}
	chosen, reasons, err := plan(functions, cfg.IncludeCovered)
	if err != nil {
		return nil, err
	}

	t := &Tracer{
		cfg:        cfg,
		reasons:    reasons,
		readerDone: make(chan struct{}),
		flushed:    make(chan struct{}, 1),
		activity:   make(chan struct{}, 1),
		later:      make(map[string][]attachment),
		known:      make(map[event.LayerID]knownLayer),
		restless:   make(map[ledgerFileKey]ledgerFileEntry),
		maxNames:   defaultMaxNames,
	}
	t.room.L = &t.mu
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	use, reason := probes(cfg.Method)
	if reason != "" {
		t.reasons = append(t.reasons, reason)
	}
	t.probes = use
	wanted := attachments(functions, chosen, use)
	if err = t.load(cache, functions, wanted); err != nil {
		return nil, err
	}
	if t.reader, err = ringbuf.NewReader(t.coll.Maps["events"]); err != nil {
		return nil, fmt.Errorf("opening the ring buffer: %w", err)
	}
	t.pending.init()
	go t.read()
	if err = t.attachAll(wanted); err != nil {
		return nil, err
	}
	t.arm()
	return t, nil
}

// load brings the programs that are attached at once, and all maps, into the kernel.
func (t *Tracer) load(cache *btf.Cache, functions *kernelFunctions, wanted []attachment) (err error) {
	t.old = errors.Is(features.HaveProgramHelper(ebpf.Kprobe, asm.FnForEachMapElem), ebpf.ErrNotSupported)
	now := slices.DeleteFunc(slices.Clone(wanted), func(a attachment) bool { return a.later != "" })
	run := []string{"track", "untrack", "settle", "turn"}
	if !t.old {
		run = append(run, "look")
	}
	if t.coll, err = t.collection(cache, functions, now, run...); err != nil {
		return err
	}
	t.files, t.layers, t.losses = t.coll.Maps["files"], t.coll.Maps["layers"], t.coll.Maps["losses"]
	if t.states, err = t.layers.Memory(); err != nil {
		return fmt.Errorf("mapping the layers' states: %w", err)
	}
	t.counters = t.coll.Maps["counters"]
	for i, name := range []string{"counters_a", "counters_b"} {
		if t.tables[i], err = newTable(t.coll.Maps[name], t.coll.Maps["claims"], i > 0); err != nil {
			return err
		}
	}
	t.track, t.untrack = t.coll.Programs["track"], t.coll.Programs["untrack"]
	t.settle, t.turn = t.coll.Programs["settle"], t.coll.Programs["turn"]
	t.look = t.coll.Programs["look"]
	return nil
}

// loadMore brings in programs that are attached later. They share the maps of those
// that are there. Callers hold adding.
func (t *Tracer) loadMore(list []attachment) error {
	// Read again: until then it would only take memory.
	cache := btf.NewCache()
	functions, err := loadKernelFunctions(cache)
	if err != nil {
		return err
	}
	more, err := t.collection(cache, functions, list)
	if err != nil {
		return err
	}
	for name, program := range more.Programs {
		t.coll.Programs[name] = program
	}
	clear(more.Programs)
	more.Close()
	return nil
}

// collection loads programs: those of the attachments, and others by name.
func (t *Tracer) collection(cache *btf.Cache, functions *kernelFunctions, list []attachment, others ...string) (*ebpf.Collection, error) {
	read := loadLedger
	if t.old {
		read = loadLedgerOld
	}
	spec, err := read()
	if err != nil {
		return nil, fmt.Errorf("reading the programs: %w", err)
	}
	wanted := make(map[string]bool)
	for _, name := range others {
		wanted[name] = true
	}
	for _, hook := range list {
		wanted[hook.program] = true
		if hook.single {
			spec.Programs[hook.program].AttachType = ebpf.AttachNone
		}
	}
	for name := range spec.Programs {
		if !wanted[name] {
			delete(spec.Programs, name)
		}
	}
	if err := t.configure(spec, functions); err != nil {
		return nil, err
	}
	// Without these options the library reads the BTF of all modules there are.
	options := ebpf.CollectionOptions{
		Cache: cache,
		Programs: ebpf.ProgramOptions{
			KernelTypes:            functions.specs[0],
			ExtraRelocationTargets: functions.specs[1:],
		},
	}
	if t.coll != nil {
		options.MapReplacements = t.coll.Maps
		// The library would put its table back into the slot.
		spec.Maps["counters"].Contents = nil
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		return nil, fmt.Errorf("loading the programs: %w", permission(err))
	}
	return coll, nil
}

// configure sets the maps' sizes and what programs have to know of the kernel.
func (t *Tracer) configure(spec *ebpf.CollectionSpec, functions *kernelFunctions) error {
	spec.Maps["files"].MaxEntries = t.cfg.MaxFiles
	spec.Maps["counters_a"].MaxEntries = t.cfg.MaxCounters
	spec.Maps["counters_b"].MaxEntries = t.cfg.MaxCounters
	spec.Maps["counters"].InnerMap.MaxEntries = t.cfg.MaxCounters
	if claims := spec.Maps["claims"]; claims != nil {
		claims.MaxEntries = 2 * t.cfg.MaxCounters
	}
	controller, err := cgroupController(functions.specs[0], t.cfg.CgroupController)
	if err != nil {
		return err
	}
	variables := map[string]any{
		"cgroup_controller": controller,
		"delalloc_of_inode": functions.takes("btrfs_clear_delalloc_extent", "inode"),
		"perform_of_iocb":   functions.takes("generic_perform_write", "kiocb"),
		"tmpfile_of_file":   functions.takes("d_tmpfile", "file"),
		"idmapped":          !functions.takes("notify_change", "dentry"),
	}
	if !t.old {
		variables["casts"] = functions.proto("bpf_rdonly_cast") != nil
	}
	for name, value := range variables {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// attachAll attaches the programs that are always wanted, and keeps in mind those for
// the first layer of a kind.
func (t *Tracer) attachAll(wanted []attachment) error {
	t.adding.Lock()
	defer t.adding.Unlock()
	for _, a := range wanted {
		if a.later != "" {
			t.later[a.later] = append(t.later[a.later], a)
		} else if err := t.attach(a); err != nil {
			return err
		}
	}
	return nil
}

// attachFor loads and attaches what was to be attached later, with a layer that needs
// it: by file system, or what plainLayer stands for; seen is false if one of these has
// no programs. Callers hold adding.
func (t *Tracer) attachFor(kinds ...string) (seen bool, err error) {
	var list []attachment
	for _, kind := range kinds {
		more, known := t.later[kind]
		if !known {
			return false, nil
		}
		list = append(list, more...)
	}
	if len(list) == 0 {
		return true, nil
	}
	if err := t.loadMore(list); err != nil {
		return false, err
	}
	for _, a := range list {
		if err := t.attach(a); err != nil {
			return false, err
		}
	}
	for _, kind := range kinds {
		t.later[kind] = nil
	}
	return true, nil
}

// attach attaches one program. Callers hold adding.
func (t *Tracer) attach(a attachment) error {
	attached, err := attach(a, t.coll.Programs[a.program])
	if err != nil {
		return fmt.Errorf("attaching %s to %s: %w", a.program, a.target, permission(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.links = append(t.links, attached)
	t.attached = append(t.attached, a)
	return nil
}

func attach(a attachment, program *ebpf.Program) (link.Link, error) {
	switch {
	case a.single && a.kind == kprobe:
		return link.Kprobe(a.target, program, nil)
	case a.single:
		return link.Kretprobe(a.target, program, &link.KprobeOptions{RetprobeMaxActive: callsAtOnce})
	}
	switch a.kind {
	case kprobe:
		return link.KprobeMulti(program, link.KprobeMultiOptions{Symbols: []string{a.target}})
	case kretprobe:
		return link.KretprobeMulti(program, link.KprobeMultiOptions{Symbols: []string{a.target}})
	}
	return link.AttachTracing(link.TracingOptions{Program: program})
}

// permission marks errors that mean that the kernel did not allow something.
func permission(err error) error {
	// The verifier says EACCES too, of a program that it finds unsafe.
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) && len(rejected.Log) > 0 {
		return fmt.Errorf("%w (%w)", ErrUnsupported, err)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (%w)", ErrNotPermitted, err)
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w (%w)", ErrUnsupported, err)
	}
	return err
}

// Hooks lists what is attached. AddLayer may add to it.
func (t *Tracer) Hooks() []Hook {
	t.mu.Lock()
	defer t.mu.Unlock()
	return hooksOf(t.attached)
}

// Coverage tells what the kernel, or the file systems of the layers so far, do not
// let the tracer see; nothing means that coverage is full.
func (t *Tracer) Coverage() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.reasons)
}

// Close detaches the programs and frees the maps. It is safe to call twice.
func (t *Tracer) Close() error {
	t.closeOnce.Do(func() {
		var errs []error
		for _, l := range t.links {
			errs = append(errs, l.Close())
		}
		t.letRead(true)
		if t.reader != nil {
			errs = append(errs, t.reader.Close())
			<-t.readerDone
		}
		for i := range t.tables {
			errs = append(errs, t.tables[i].close())
		}
		if t.coll != nil {
			t.coll.Close()
		}
		t.closeErr = errors.Join(errs...)
	})
	return t.closeErr
}

// Wait blocks until something was counted since the last Collect, or ctx ends.
func (t *Tracer) Wait(ctx context.Context) error {
	select {
	case <-t.activity:
		return nil
	case <-t.readerDone:
		return errors.New("waiting for the kernel's records: the tracer is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *Tracer) wake() {
	select {
	case t.activity <- struct{}{}:
	default:
	}
}

// arm asks the programs to wake the reader with their next record, or the next counter.
func (t *Tracer) arm() {
	if err := t.coll.Variables["armed"].Set(int64(1)); err != nil {
		t.cfg.Log.Error().Err(err).Msg("arming the ring buffer")
	}
	// A program reserves a record, or takes a slot, and then looks whether it is to wake
	// us; this looks at both after having said so. With a barrier on both sides one of
	// the two sees the other.
	t.fence.Add(1)
	// What came between the flush and here has woken nobody.
	t.slot.Lock()
	counted := t.tables[t.active].inUse()
	t.slot.Unlock()
	if counted || t.reader.AvailableBytes() > 0 {
		t.wake()
	}
}

// bytesOf gives the memory of a fixed-size value without pointers; it must be
// kept alive by the caller while the result is in use.
func bytesOf[T any](value *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(value)), unsafe.Sizeof(*value))
}

// as copies a record from the ring into its type.
func as[T any](raw []byte) (value T, ok bool) {
	if len(raw) < int(unsafe.Sizeof(value)) {
		return value, false
	}
	copy(bytesOf(&value), raw)
	runtime.KeepAlive(&value)
	return value, true
}
