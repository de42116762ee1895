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

// Classify implements aggregate.Mounts. A device that the known mounts do not
// explain may have been mounted since, so the mount table is read again, at most
// once an interval: a container may well write to what no mount shows.
func (n names) Classify(layer event.LayerID, device uint64, path string) record.Storage {
	w := n.s.byLayer[layer]
	if w == nil {
		return record.Storage{Class: record.ClassOther}
	}
	class := w.facts.Classify(device, path)
	if class.Class != record.ClassOther || w.remapped {
		return class
	}
	w.remapped = true
	w.facts = n.s.cfg.Containers.RefreshMounts(w.facts)
	return w.facts.Classify(device, path)
}
