package tracer

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// windowBytes are always mapped: the counters of an interval in which little happens.
// What a process maps of a table counts as its resident memory, touched or not.
const windowBytes = 64 << 10

const counterBytes = int(unsafe.Sizeof(ledgerCounter{}))

// claimB marks claims of slots of the second table.
const claimB = 1 << 31

// table is one of the two tables of counters. While the programs count into it only
// inUse may be called; else it is its owner's, who is alone with it.
type table struct {
	counters *ebpf.Map
	claims   *ebpf.Map // nil on kernels that need none
	claim    uint32    // of its slots, claimB for the second
	window   []byte
}

// newTable maps the beginning of a table. second tells it from the other one, on
// kernels where claims are needed.
func newTable(counters, claims *ebpf.Map, second bool) (table, error) {
	t := table{counters: counters, claims: claims}
	window, err := t.mapped(windowBytes / counterBytes)
	if err != nil {
		return table{}, err
	}
	t.window = window
	if second {
		t.claim = claimB
		countersOf(window)[0].Key.Device = 1
	}
	return t, nil
}

// mapped maps a table's first counters, or all of it if it has less.
func (t *table) mapped(count int) ([]byte, error) {
	page := os.Getpagesize()
	bytes := min(count, int(t.counters.MaxEntries())) * counterBytes
	memory, err := unix.Mmap(t.counters.FD(), 0, (bytes+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping a table of counters: %w", err)
	}
	return memory, nil
}

// countersOf gives memory as the counters that fit it.
func countersOf(memory []byte) []ledgerCounter {
	return unsafe.Slice((*ledgerCounter)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/counterBytes)
}

// wanted is how many slots were asked for, with or without success.
func (t *table) wanted() uint64 { return atomic.LoadUint64(&countersOf(t.window)[0].Writes) }

// inUse tells whether anything was counted into the table since it was reset.
func (t *table) inUse() bool { return t.wanted() > 0 }

// taken gives the counters that are in use, until release is called.
func (t *table) taken() (counters []ledgerCounter, release func(), err error) {
	count := min(t.wanted(), uint64(t.counters.MaxEntries())-1) + 1
	memory, release := t.window, func() {}
	if counters := countersOf(memory); uint64(len(counters)) >= count {
		return counters[1:count], release, nil
	}
	memory, err = t.mapped(int(count))
	if err != nil {
		return nil, nil, err
	}
	return countersOf(memory)[1:count], func() { _ = unix.Munmap(memory) }, nil
}

// reset makes all slots free. Their counters must be zero.
func (t *table) reset() error {
	count := t.wanted()
	if t.claims != nil && count > 0 {
		slots := make([]uint32, count)
		for i := range slots {
			slots[i] = uint32(i+1) | t.claim
		}
		for len(slots) > 0 {
			n, err := t.claims.BatchDelete(slots, nil)
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				n++ // go on behind it
			} else if err != nil {
				return fmt.Errorf("giving up slots of counters: %w", err)
			}
			slots = slots[n:]
		}
	}
	atomic.StoreUint64(&countersOf(t.window)[0].Writes, 0)
	return nil
}

// close unmaps the table. It may be called of one that was never mapped.
func (t *table) close() error {
	if t.window == nil {
		return nil
	}
	return unix.Munmap(t.window)
}
