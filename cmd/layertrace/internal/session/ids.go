package session

import (
	"errors"

	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// rest is how many collections after a layer's removal nothing of it can come any
// more: the kernel side counts into two tables in turn, and each collection reads
// one.
const rest = 2

// layerIDs gives out the ids of layers: new ones as long as there are any, then
// those of removed layers, the longest removed first.
type layerIDs struct {
	last    event.LayerID
	freed   []freedID // the longest removed first
	collect uint64    // collections so far
}

type freedID struct {
	id event.LayerID
	at uint64 // the collection after which it was freed
}

// free takes back the id of a layer that the kernel side has forgotten.
func (l *layerIDs) free(id event.LayerID) { l.freed = append(l.freed, freedID{id, l.collect}) }

// collected counts a collection.
func (l *layerIDs) collected() { l.collect++ }

// take returns an id, 0 if there is none now; wait says that there will be one
// after at most two collections.
func (l *layerIDs) take() (id event.LayerID, wait bool) {
	switch {
	case l.last < tracer.MaxLayers:
		l.last++
		return l.last, false
	case len(l.freed) == 0:
		return 0, false
	case l.collect-l.freed[0].at < rest:
		return 0, true
	}
	id = l.freed[0].id
	l.freed = l.freed[1:]
	return id, false
}

// newID returns an id for a layer.
func (s *Session) newID() (event.LayerID, error) {
	for {
		id, wait := s.ids.take()
		if id != 0 {
			return id, nil
		}
		if !wait {
			return 0, errors.New("as many layers as possible are watched already")
		}
		if err := s.collect(); err != nil {
			return 0, err
		}
	}
}
