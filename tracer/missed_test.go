package tracer

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/layertrace/layertrace/tracer/event"
)

// TestMissedReturns: where probes have room for so many threads in a function and no
// more, the ends of the calls beyond it are counted as losses.
func TestMissedReturns(t *testing.T) {
	if err := features.HaveBPFLinkKprobeMulti(); err != nil {
		t.Logf("n/a: %v", err)
		return
	}
	if !hasMember(t, "fprobe", "rethook") || !hasMember(t, "bpf_link_info", "missed") {
		t.Log("n/a: this kernel misses none, or does not count them")
		return
	}
	o, err := mountOverlay(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, is := scratch(t); is == "tmpfs" {
		t.Log("n/a: tmpfs can not be frozen")
		return
	}
	o.tracer = newTracer(t, Config{Method: MethodProbe})
	defer func() {
		if err := o.tracer.Close(); err != nil {
			t.Error(err)
		}
	}()
	o.scan()
	o.sh("for i in $(seq 40); do echo > f.$i; done")
	o.collect()
	// They wait inside of notify_change for the file system to thaw.
	o.sh(`fsfreeze -f /scratch
		trap 'fsfreeze -u /scratch' EXIT
		for i in $(seq 40); do chmod 600 f.$i & done
		for i in $(seq 1000); do
			[ "$(cat /proc/[0-9]*/task/*/comm /dev/null 2>/dev/null | grep -c '^chmod$')" -lt 40 ] || break
			sleep 0.01
		done
		fsfreeze -u /scratch
		trap - EXIT
		wait`)
	batch, err := o.tracer.Collect()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(batch.Losses, func(l event.Loss) bool { return l.Reason == event.LossRecursion && l.Events > 0 }) {
		t.Errorf("no returns were missed: %+v", batch.Losses)
	}
}

// hasMember tells by BTF whether a struct of the kernel, or one in it, has a member.
func hasMember(t *testing.T, structure, member string) bool {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var s *btf.Struct
	if err := kernel.TypeByName(structure, &s); err != nil {
		return false
	}
	var within func(members []btf.Member) bool
	within = func(members []btf.Member) bool {
		return slices.ContainsFunc(members, func(m btf.Member) bool {
			switch inner := m.Type.(type) {
			case *btf.Struct:
				return m.Name == member || within(inner.Members)
			case *btf.Union:
				return m.Name == member || within(inner.Members)
			}
			return m.Name == member
		})
	}
	return within(s.Members)
}
