package resolver

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessAlive reports whether the process that had pid and started startNS
// nanoseconds after boot (CLOCK_BOOTTIME) still runs: a later process with the
// same pid, and a zombie, count as ended. startNS 0 fits any start.
func (r *Resolver) ProcessAlive(pid uint32, startNS uint64) bool {
	data, err := os.ReadFile(filepath.Join(r.procRoot, strconv.FormatUint(uint64(pid), 10), "stat"))
	if err != nil {
		return false
	}
	stat, ok := parseStat(data)
	if !ok || stat.ended() {
		return false
	}
	if startNS == 0 {
		return true
	}
	// The file has the start in ticks of 10 ms (USER_HZ), rounded down; allow
	// for a kernel that rounds.
	const tick = uint64(10 * time.Millisecond)
	ticks := startNS / tick
	return stat.start+1 >= ticks && stat.start <= ticks+1
}

// processStat is a part of /proc/PID/stat.
type processStat struct {
	state   byte
	threads int
	start   uint64 // in ticks since boot
}

// ended reports whether no thread runs any more. A group leader that ended
// before its other threads is a zombie too.
func (s processStat) ended() bool {
	return (s.state == 'Z' || s.state == 'X') && s.threads <= 1
}

func parseStat(data []byte) (processStat, bool) {
	const threadsAt, startAt = 20 - 3, 22 - 3 // fields 3 and on follow the name
	// The name is in parentheses and may hold any byte.
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return processStat{}, false
	}
	var fields [startAt + 1][]byte
	count := 0
	for field := range bytes.FieldsSeq(data[end+1:]) {
		fields[count] = field
		if count++; count == len(fields) {
			break
		}
	}
	if count < len(fields) {
		return processStat{}, false
	}
	threads, err1 := strconv.Atoi(string(fields[threadsAt]))
	start, err2 := strconv.ParseUint(string(fields[startAt]), 10, 64)
	if err1 != nil || err2 != nil {
		return processStat{}, false
	}
	return processStat{state: fields[0][0], threads: threads, start: start}, true
}

// BootClock turns times since boot into wall clock times. The zero value takes
// the epoch for the boot. It is plain data, safe for concurrent use.
type BootClock struct {
	bootNS int64 // of boot, since the epoch
}

// NewBootClock compares CLOCK_REALTIME with CLOCK_BOOTTIME once, so that a start
// is given the same time for ever, even if the wall clock is set later.
func NewBootClock() (BootClock, error) {
	var boot, wall unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return BootClock{}, fmt.Errorf("reading CLOCK_BOOTTIME: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return BootClock{}, fmt.Errorf("reading CLOCK_REALTIME: %w", err)
	}
	return BootClock{wall.Nano() - boot.Nano()}, nil
}

// Time returns the wall clock time, in UTC, ns nanoseconds after boot.
func (c BootClock) Time(ns uint64) time.Time {
	return time.Unix(0, c.bootNS).Add(time.Duration(ns)).UTC()
}

// startTimes tells when processes began.
type startTimes struct {
	clock BootClock
	root  string // of a proc file system
}

// of returns a process's start, zero if it is gone. It is always the same for the
// same process.
func (s startTimes) of(pid int) time.Time {
	// Where containers are looked for, this is what it costs: no more calls than it takes.
	fd, err := unix.Open(filepath.Join(cmp.Or(s.root, defaultProcRoot), strconv.Itoa(pid), "stat"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return time.Time{}
	}
	defer unix.Close(fd)
	var line [1024]byte // the start is in the first half of what there may be
	n, err := unix.Read(fd, line[:])
	if err != nil {
		return time.Time{}
	}
	stat, ok := parseStat(line[:n])
	if !ok || stat.ended() {
		return time.Time{}
	}
	const tick = uint64(10 * time.Millisecond)
	return s.clock.Time(stat.start * tick)
}

// madeBy returns the user who has made a process's user namespace: root of the initial
// one, and the user himself of those in which his containers are.
func madeBy(procRoot string, pid int) (uid uint32, err error) {
	ns, err := os.Open(filepath.Join(procRoot, strconv.Itoa(pid), "ns/user"))
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	return unix.IoctlGetUint32(int(ns.Fd()), unix.NS_GET_OWNER_UID)
}
