package aggregate

import (
	"cmp"
	"slices"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// procID is a process's place in procs.list; 0 is "not known".
type procID uint32

// maxProcesses bounds the processes that are remembered. Dead ones are kept
// within it, because work that the kernel finishes later (write-back, freeing of
// an inode) is still theirs, and they are announced only once.
const maxProcesses = 1 << 14

// proc is one program image of one process.
type proc struct {
	id     event.ProcessID
	cgroup uint64
	known  bool // announced, not just met in a delta

	// rec is complete but for ContainerID while actorKnown is false.
	rec        record.Process
	actorKnown bool
	dead       bool
	used       uint64 // the generation of records in which it was last seen

	// made is the record of this flush, shared by all its growth records.
	made *record.Process

	// layers lists the layers for which the process has been counted.
	layers []event.LayerID
}

// procs holds the processes of all layers.
type procs struct {
	actors Actors
	list   []proc // [0] is not used
	free   []procID
	byID   map[event.ProcessID]procID
	epoch  uint64   // counts flushes
	made   []procID // those of which this flush has made a record
}

func newProcs(actors Actors) procs {
	return procs{actors: actors, list: make([]proc, 1), byID: make(map[event.ProcessID]procID), epoch: 1}
}

// obtain returns the place of a process, made if need be; 0 for the zero id.
func (ps *procs) obtain(id event.ProcessID) procID {
	if id == (event.ProcessID{}) {
		return 0
	}
	at, ok := ps.byID[id]
	if !ok {
		p := proc{id: id, rec: record.Process{PID: id.PID, StartTime: ps.actors.StartTime(id.Start).UTC()}}
		if n := len(ps.free); n > 0 {
			at = ps.free[n-1]
			ps.free = ps.free[:n-1]
			ps.list[at] = p
		} else {
			at = procID(len(ps.list))
			ps.list = append(ps.list, p)
		}
		ps.byID[id] = at
	}
	ps.list[at].used = ps.epoch
	return at
}

// learn takes what the kernel side knows of a process.
func (ps *procs) learn(e *event.Process) {
	at := ps.obtain(e.ID)
	if at == 0 {
		return
	}
	p := &ps.list[at]
	p.known = true
	p.cgroup = e.CgroupID
	p.rec.ParentPID = e.ParentPID
	p.rec.Name, p.rec.NameB64 = record.Text(e.Name)
	p.rec.Executable, p.rec.ExecutableB64 = record.Text(e.Executable)
	// Asked at once, while the cgroup is likely to be there still.
	p.actorKnown = false
	ps.container(at)
}

// container returns the id of the process's container, empty for the host's and
// for those that are not known.
func (ps *procs) container(at procID) string {
	p := &ps.list[at]
	if p.known && !p.actorKnown && p.cgroup != 0 {
		p.rec.ContainerID, p.actorKnown = ps.actors.Actor(p.cgroup)
	}
	return p.rec.ContainerID
}

// record returns the process as it is at this flush; nil for 0.
func (ps *procs) record(at procID) *record.Process {
	if at == 0 {
		return nil
	}
	p := &ps.list[at]
	if p.made != nil {
		return p.made
	}
	ps.container(at)
	p.dead = p.dead || !ps.actors.Alive(p.id.PID, p.id.Start)
	p.rec.Exited = p.dead
	r := p.rec
	p.made = &r
	ps.made = append(ps.made, at)
	return p.made
}

// next begins the next flush.
func (ps *procs) next() {
	ps.epoch++
	for _, at := range ps.made {
		ps.list[at].made = nil
	}
	ps.made = ps.made[:0]
}

// firstIn reports whether the process had not been counted for the layer.
func (ps *procs) firstIn(at procID, l event.LayerID) bool {
	p := &ps.list[at]
	if slices.Contains(p.layers, l) {
		return false
	}
	p.layers = append(p.layers, l)
	return true
}

// forgetLayer makes every process one that has not been counted for the layer.
func (ps *procs) forgetLayer(l event.LayerID) {
	for i := range ps.list {
		p := &ps.list[i]
		p.layers = slices.DeleteFunc(p.layers, func(x event.LayerID) bool { return x == l })
	}
}

// shrink forgets the longest idle of the processes that have ended, if there are
// too many. busy tells those that growth not yet reported refers to.
func (ps *procs) shrink(limit int, busy func(yield func(procID))) {
	if len(ps.byID) <= limit {
		return
	}
	keep := make(map[procID]struct{})
	busy(func(at procID) { keep[at] = struct{}{} })
	idle := make([]procID, 0, len(ps.byID))
	for _, at := range ps.byID {
		if _, ok := keep[at]; !ok && ps.list[at].used < ps.epoch {
			idle = append(idle, at)
		}
	}
	slices.SortFunc(idle, func(x, y procID) int {
		return cmp.Or(cmp.Compare(ps.list[x].used, ps.list[y].used), cmp.Compare(x, y))
	})
	// A batch at a time, so that the sort is rare.
	excess := len(ps.byID) - limit + limit/8
	for _, at := range idle {
		if excess == 0 {
			break
		}
		p := &ps.list[at]
		if !p.dead && ps.actors.Alive(p.id.PID, p.id.Start) {
			continue
		}
		delete(ps.byID, p.id)
		*p = proc{}
		ps.free = append(ps.free, at)
		excess--
	}
}
