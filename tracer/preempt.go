package tracer

import (
	"os"
	"regexp"
	"runtime"
	"strings"

	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Method is a way of attaching programs to kernel functions.
type Method int

const (
	// MethodAuto takes trampolines, but probes on a kernel that preempts itself
	// and has them.
	MethodAuto Method = iota
	// MethodTrampoline is fentry and fexit: the cheaper way.
	MethodTrampoline
	// MethodProbe is kprobe.multi, for which the kernel needs CONFIG_FPROBE
	// (5.18 or later). It misses nothing where the kernel preempts itself.
	MethodProbe
)

// probes decides whether to attach by probes; reason is what may be missed if a
// kernel that should have them has not.
func probes(method Method) (use bool, reason string) {
	switch method {
	case MethodTrampoline:
		return false, ""
	case MethodProbe:
		return true, ""
	}
	if !preemptible("/", "/proc/1/root") {
		return false, ""
	}
	if features.HaveBPFLinkKprobeMulti() != nil {
		return false, "this kernel preempts itself and has no kprobe.multi (CONFIG_FPROBE): events may be missed under load, and are counted as loss"
	}
	return true, ""
}

// preemptible tells whether the kernel preempts tasks in kernel mode: by what
// debugfs says is in force, else by how it was configured. roots are where /sys and
// /boot are looked for: a container has neither of the host.
func preemptible(roots ...string) bool {
	for _, root := range roots {
		if raw, err := os.ReadFile(root + "/sys/kernel/debug/sched/preempt"); err == nil {
			// Such as "none voluntary (full)" or "full (lazy)".
			return strings.Contains(string(raw), "(full)") || strings.Contains(string(raw), "(lazy)")
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	for _, root := range roots {
		if raw, err := os.ReadFile(root + "/boot/config-" + unix.ByteSliceToString(name.Release[:])); err == nil {
			return preemptConfig.Match(raw)
		}
	}
	return preemptVersion.MatchString(unix.ByteSliceToString(name.Version[:]))
}

var (
	preemptConfig  = regexp.MustCompile(`(?m)^CONFIG_PREEMPT(_LAZY|_RT)?=y$`)
	preemptVersion = regexp.MustCompile(`\bPREEMPT(_LAZY|_RT)?\b`)
)

// unpreempted runs fn, which reads or writes maps, on a thread that other tasks do
// not preempt. While a task is in such a system call the kernel runs no probe on
// its CPU (bpf_disable_instrumentation): if it were preempted there, the tasks
// that run instead would not be seen. On a thread of real-time priority that does
// not happen. Where that is refused, what is missed is counted as ever.
func (t *Tracer) unpreempted(fn func()) {
	if !t.probes {
		fn()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		fn()
		return
	}
	urgent := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &urgent, 0); err != nil {
		fn()
		return
	}
	defer func() {
		if err := unix.SchedSetAttr(0, before, 0); err != nil {
			t.cfg.Log.Error().Err(err).Msg("giving up real-time priority")
		}
	}()
	fn()
}
