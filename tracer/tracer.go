// Package tracer loads the eBPF programs that account for overlayfs layers and
// turns what they count into package event's typed numbers. It knows no
// container; which directory is whose is the caller's business.
//
// It needs Linux 5.15 or later with BTF, the overlay module loaded, and root.
package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/tracer/event"
)

const (
	defaultMaxFiles    = 1 << 20
	defaultMaxCounters = 1 << 16
	maxLayers          = 4096
	anyDevice          = ^uint32(0)
)

// Config of a Tracer. The zero value is usable.
type Config struct {
	Log zerolog.Logger
	// IncludeCovered also traces writes of watched containers to files outside
	// of their layer. It costs a program on every write of the host.
	IncludeCovered bool
	// Method is how to attach. Default: what suits the kernel.
	Method Method
	// MaxFiles bounds the ledger: the inodes of all watched layers. Kernel memory
	// is 16 bytes for each that there may be, some 170 for each that there is.
	// Default 1,048,576.
	MaxFiles uint32
	// MaxCounters bounds the (file, process) pairs of one interval; two tables of
	// that many are allocated, 130 bytes a pair. Default 65,536.
	MaxCounters uint32
}

// Tracer counts growth of layers in the kernel. Its methods may be called from
// several goroutines at once, but for Collect, which has one caller at a time.
type Tracer struct {
	log     zerolog.Logger
	coll    *ebpf.Collection
	links   []link.Link
	probes  bool
	hooks   []Hook
	reasons []string

	files, layers, losses *ebpf.Map
	counters              *ebpf.Map    // the slot that programs count into
	tables                [2]*ebpf.Map // one is in the slot, the other is ours
	active                int
	track, settle         *ebpf.Program
	reader                *ringbuf.Reader
	readerDone, flushed   chan struct{}
	activity              chan struct{}
	closeOnce             sync.Once
	closeErr              error
	collected             snapshot           // cumulative counts at the last Collect
	fullRead              bool               // a table's announcements are incomplete
	early                 []ledgerCounterKey // announced, but for the table in the slot

	mu       sync.Mutex // guards what follows
	pending  pending
	known    map[event.LayerID]uint32 // layer -> device
	restless map[ledgerFileKey]ledgerFileEntry
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
		log:        cfg.Log,
		reasons:    reasons,
		readerDone: make(chan struct{}),
		flushed:    make(chan struct{}, 1),
		activity:   make(chan struct{}, 1),
		known:      make(map[event.LayerID]uint32),
		restless:   make(map[ledgerFileKey]ledgerFileEntry),
	}
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
	wanted := attachments(chosen, use)
	if err = t.load(cfg, cache, functions, wanted); err != nil {
		return nil, err
	}
	if t.reader, err = ringbuf.NewReader(t.coll.Maps["events"]); err != nil {
		return nil, fmt.Errorf("opening the ring buffer: %w", err)
	}
	t.pending.init()
	go t.read()
	if err = t.attach(wanted); err != nil {
		return nil, err
	}
	t.arm()
	return t, nil
}

// load brings the chosen programs and all maps into the kernel.
func (t *Tracer) load(cfg Config, cache *btf.Cache, functions *kernelFunctions, chosen []attachment) error {
	spec, err := loadLedger()
	if err != nil {
		return fmt.Errorf("reading the programs: %w", err)
	}
	wanted := map[string]bool{"track": true, "settle": true}
	for _, hook := range chosen {
		wanted[hook.program] = true
	}
	for name := range spec.Programs {
		if !wanted[name] {
			delete(spec.Programs, name)
		}
	}
	spec.Maps["files"].MaxEntries = cfg.MaxFiles
	spec.Maps["counters_a"].MaxEntries = cfg.MaxCounters
	spec.Maps["counters_b"].MaxEntries = cfg.MaxCounters
	spec.Maps["counters"].InnerMap.MaxEntries = cfg.MaxCounters
	if err := spec.Variables["count_copies"].Set(functions.has("backing_file_write_iter")); err != nil {
		return fmt.Errorf("setting count_copies: %w", err)
	}

	t.coll, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: cache})
	if err != nil {
		return fmt.Errorf("loading the programs: %w", permission(err))
	}
	t.files, t.layers, t.losses = t.coll.Maps["files"], t.coll.Maps["layers"], t.coll.Maps["losses"]
	t.counters = t.coll.Maps["counters"]
	t.tables = [2]*ebpf.Map{t.coll.Maps["counters_a"], t.coll.Maps["counters_b"]}
	t.track, t.settle = t.coll.Programs["track"], t.coll.Programs["settle"]
	return nil
}

func (t *Tracer) attach(wanted []attachment) error {
	for _, a := range wanted {
		attached, err := attach(a, t.coll.Programs[a.program])
		if err != nil {
			return fmt.Errorf("attaching %s to %s: %w", a.program, a.target, permission(err))
		}
		t.links = append(t.links, attached)
		t.hooks = append(t.hooks, Hook{Name: a.program, Kind: a.kind, Target: a.target})
	}
	return nil
}

func attach(a attachment, program *ebpf.Program) (link.Link, error) {
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

// Hooks lists what is attached.
func (t *Tracer) Hooks() []Hook { return append([]Hook(nil), t.hooks...) }

// Coverage tells what this kernel does not let the tracer see; nothing means
// that coverage is full.
func (t *Tracer) Coverage() []string { return append([]string(nil), t.reasons...) }

// Close detaches the programs and frees the maps. It is safe to call twice.
func (t *Tracer) Close() error {
	t.closeOnce.Do(func() {
		var errs []error
		for _, l := range t.links {
			errs = append(errs, l.Close())
		}
		if t.reader != nil {
			errs = append(errs, t.reader.Close())
			<-t.readerDone
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

// arm asks the programs to wake the reader with their next record.
func (t *Tracer) arm() {
	if err := t.coll.Variables["armed"].Set(uint32(1)); err != nil {
		t.log.Error().Err(err).Msg("arming the ring buffer")
	}
	// A record that came between the flush and here has woken nobody.
	if t.reader.AvailableBytes() > 0 {
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
