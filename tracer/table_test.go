package tracer

import (
	"slices"
	"testing"

	"github.com/layertrace/layertrace/tracer/event"
)

// TestManyCounters: an interval with more counters than are always mapped, then one
// with few, then many again in the same table.
func TestManyCounters(t *testing.T) {
	o := newOverlay(t, nil)
	const files = 1500
	if files <= windowBytes/counterBytes {
		t.Fatal("so many fit what is always mapped")
	}
	for _, name := range []string{"first", "second", "third"} {
		o.deltas = nil
		o.sh("for i in $(seq 1500); do echo >" + name + ".$i; done")
		o.check(name)
		if len(o.deltas) < files {
			t.Errorf("%s: %d deltas of %d files", name, len(o.deltas), files)
		}
		o.sh("echo >" + name + ".few")
		o.check("a few after the " + name)
	}
}

// TestWritersTakeTurns: of several processes that write one file by turns each is
// charged with its own, and a turn takes no counter of its own.
func TestWritersTakeTurns(t *testing.T) {
	o := newOverlay(t, nil)
	// Writer k appends k bytes 200 times, and hands over to the next one through a pipe.
	const script = `perl -e '
		my @pipes = map { pipe my $r, my $w; [$r, $w] } 1..3;
		for my $k (1..3) {
			next if fork;
			open F, ">>", $ARGV[0] or die;
			for (1..200) {
				sysread $pipes[$k-1][0], my $turn, 1;
				syswrite F, "x" x $k;
				syswrite $pipes[$k % 3][1], "x";
			}
			exit;
		}
		syswrite $pipes[0][1], "x";
		1 while wait > 0;
	' shared`
	for _, interval := range []string{"first", "second"} {
		o.deltas = nil
		o.sh(script)
		o.check(interval)
		written, counters := map[event.ProcessID]int64{}, 0
		for _, d := range o.deltas {
			if d.Writes > 0 {
				counters++
				written[d.Process] += int64(d.Written)
				if d.Size != int64(d.Written) {
					t.Errorf("%s interval: %d bytes written, the file grew by %d", interval, d.Written, d.Size)
				}
			}
		}
		var sums []int64
		for _, sum := range written {
			sums = append(sums, sum)
		}
		slices.Sort(sums)
		if !slices.Equal(sums, []int64{200, 400, 600}) {
			t.Errorf("%s interval: by process %v", interval, sums)
		}
		if counters > 6 {
			t.Errorf("%s interval: %d counters for three processes and one file", interval, counters)
		}
	}
}
