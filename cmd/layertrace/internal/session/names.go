package session

import (
	"time"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// names answers the aggregator's questions about processes and mounts.
type names struct{ s *Session }

// Actor implements aggregate.Actors. A cgroup of no container may still become
// known as one of a container, so the answer for those is never final.
func (n names) Actor(cgroupID uint64) (string, bool) {
	return n.s.cfg.Containers.Actor(cgroupID)
}

// Alive implements aggregate.Actors.
func (n names) Alive(pid uint32, startNS uint64) bool {
	return n.s.cfg.Containers.ProcessAlive(pid, startNS)
}

// StartTime implements aggregate.Actors.
func (n names) StartTime(startNS uint64) time.Time { return n.s.cfg.StartTime(startNS) }

// Classify implements aggregate.Mounts. A process of the container, or the host,
// may have mounted something since, also where a mount is known already, so the
// mount table is read again for the first covered file of an interval. What was
// unmounted meanwhile is known from before.
func (n names) Classify(layer event.LayerID, device uint64, path string) record.Storage {
	w := n.s.byLayer[layer]
	if w == nil {
		return record.Storage{Class: record.ClassOther}
	}
	if !w.remapped {
		w.remapped, w.former = true, w.facts.Mounts
		w.facts = n.s.cfg.Containers.RefreshMounts(w.facts)
	}
	class := w.facts.Classify(device, path)
	if class.Class == record.ClassOther {
		former := w.facts
		former.Mounts = w.former
		class = former.Classify(device, path)
	}
	return class
}
