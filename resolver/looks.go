package resolver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// looksAtOnce bounds how many containers the runtime is asked about at a time.
	looksAtOnce = 8
	// looksAtMost bounds how often a question is put again whose answer was cut
	// off or made no sense, before that is taken for an answer.
	looksAtMost = 3
	lookPause   = 50 * time.Millisecond // before the second time
)

// compared is the action of an event of our own making: the container is to be
// compared with what was reported of it.
const compared = "compared"

// looks asks the runtime about containers, several at a time, so that one question
// that takes long keeps nobody from the answers to others. A container's events
// wait until the runtime was asked about it after they came, and are then handled in
// their order. All but the goroutines that ask belongs to one goroutine.
type looks struct {
	ask     func(ctx context.Context, id string) (*Container, error)
	slots   int
	answers chan answer
	group   sync.WaitGroup

	waiting map[string][]Event // by container: to be asked about
	asked   map[string][]Event // being asked about
	// In which order to ask. Who may write before long comes first.
	urgent, queue []string
}

// answer is what the runtime says of a container; fresh is nil if it is gone.
type answer struct {
	id    string
	fresh *Container
	err   error
}

func newLooks(slots int, ask func(context.Context, string) (*Container, error)) *looks {
	return &looks{
		ask: ask, slots: slots, answers: make(chan answer, slots),
		waiting: make(map[string][]Event), asked: make(map[string][]Event),
	}
}

// busy tells whether events of the container wait.
func (l *looks) busy(id string) bool {
	return len(l.waiting[id])+len(l.asked[id]) > 0
}

// add makes an event wait.
func (l *looks) add(e Event) {
	first := len(l.waiting[e.ID]) == 0
	l.waiting[e.ID] = append(l.waiting[e.ID], e)
	switch {
	case e.Action == "create", e.Action == "start":
		// They tell more.
		l.waiting[e.ID] = slices.DeleteFunc(l.waiting[e.ID], func(e Event) bool { return e.Action == compared })
		if !slices.Contains(l.urgent, e.ID) {
			l.urgent = append(l.urgent, e.ID)
		}
	case first:
		l.queue = append(l.queue, e.ID)
	}
}

// next returns a container to ask about, "" if there is none now. One that is
// being asked about is left until that is done.
func (l *looks) next() string {
	for _, list := range []*[]string{&l.urgent, &l.queue} {
		*list = slices.DeleteFunc(*list, func(id string) bool { return len(l.waiting[id]) == 0 })
		for i, id := range *list {
			if l.asked[id] == nil {
				*list = slices.Delete(*list, i, i+1)
				return id
			}
		}
	}
	return ""
}

// start asks about as many containers as possible. Of one that was removed there is
// nothing to ask: its events are returned, to be handled at once.
func (l *looks) start(ctx context.Context) (id string, events []Event) {
	for len(l.asked) < l.slots {
		id := l.next()
		if id == "" {
			break
		}
		events := l.waiting[id]
		delete(l.waiting, id)
		if events[len(events)-1].Action == "destroy" {
			return id, events
		}
		l.asked[id] = events
		l.group.Go(func() {
			fresh, err := l.ask(ctx, id)
			l.answers <- answer{id, fresh, err}
		})
	}
	return "", nil
}

// done returns the events that an answer is for.
func (l *looks) done(a answer) []Event {
	events := l.asked[a.id]
	delete(l.asked, a.id)
	return events
}

// again makes the events that an answer was for wait once more.
func (l *looks) again(a answer) {
	l.waiting[a.id] = append(l.asked[a.id], l.waiting[a.id]...)
	delete(l.asked, a.id)
	l.queue = append(l.queue, a.id)
}

// abandon waits for the questions that are under way, whose context has ended,
// and lets all events wait for the next subscription.
func (l *looks) abandon() {
	l.group.Wait()
	for len(l.answers) > 0 {
		<-l.answers
	}
	for _, id := range slices.Sorted(maps.Keys(l.asked)) {
		l.again(answer{id: id})
	}
}

// look inspects a container; nil if it is gone.
func (r *Resolver) look(ctx context.Context, id string) (*Container, error) {
	var c Container
	err := r.insist(ctx, func() (err error) {
		c, err = r.inspect(ctx, id, r.readHost())
		return err
	})
	var gone *NotFoundError
	switch {
	case errors.As(err, &gone):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &c, nil
}

// insist puts a question again if its answer was cut off or made no sense.
func (r *Resolver) insist(ctx context.Context, ask func() error) error {
	pause := lookPause
	for try := 1; ; try++ {
		err := ask()
		var gone *NotFoundError
		switch {
		case err == nil, errors.As(err, &gone), errors.Is(err, context.DeadlineExceeded),
			ctx.Err() != nil, try == looksAtMost:
			return err
		}
		r.log.Debug().Err(err).Msg("no usable answer, asking again")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause *= 2
	}
}
