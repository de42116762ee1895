package resolver

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
)

// Group is several Resolvers, one for each runtime, as one. Each follows its
// runtime by itself: that one of them can not be reached does not keep the others
// from being reported. Its methods may be called concurrently, except Close.
type Group struct {
	mu      sync.RWMutex
	members []Member     // only ever more
	follow  func(Member) // takes a member into the Watch that runs; nil if none does
}

// Member is the Resolver of one runtime.
type Member struct {
	Runtime string // a Runtime… word
	*Resolver
}

// NewGroup returns the Group of some Resolvers, which it closes when it is closed.
// Before there is at least one, nothing but Join and Close may be called.
func NewGroup(members ...Member) *Group { return &Group{members: members} }

// Join adds a member. A Watch that runs follows it from now on.
func (g *Group) Join(m Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = append(g.members, m)
	if g.follow != nil {
		g.follow(m)
	}
}

// all returns the members that there are now.
func (g *Group) all() []Member {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.members
}

// first returns the member that answers for the host.
func (g *Group) first() *Resolver { return g.all()[0].Resolver }

// Close closes all members.
func (g *Group) Close() error {
	var all error
	for _, r := range g.all() {
		all = errors.Join(all, r.Close())
	}
	return all
}

// Find is as Resolver.Find. If a name, or the beginning of an id, fits containers of
// several runtimes, the error matches *AmbiguousError.
func (g *Group) Find(ctx context.Context, ref string) (Container, error) {
	var (
		found   []Container
		missing *NotFoundError
		failed  error
	)
	for _, r := range g.all() {
		c, err := r.Find(ctx, ref)
		var none *NotFoundError
		switch {
		case err == nil:
			found = append(found, c)
		case errors.As(err, &none):
			if missing == nil || missing.Nearest == "" {
				missing = none
			}
		default:
			failed = errors.Join(failed, &RuntimeError{Runtime: r.Runtime, Err: err})
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		err := &AmbiguousError{Prefix: ref}
		for _, c := range found {
			err.Matches = append(err.Matches, c.ID)
		}
		return Container{}, err
	case failed != nil:
		return Container{}, failed
	}
	return Container{}, missing
}

// List returns the containers of all runtimes, ordered by name.
func (g *Group) List(ctx context.Context) ([]Container, error) {
	var all []Container
	for _, r := range g.all() {
		list, err := r.List(ctx)
		if err != nil {
			return nil, &RuntimeError{Runtime: r.Runtime, Err: err}
		}
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// HostPath is as Resolver.HostPath: all members have the host's mount table.
func (g *Group) HostPath(m Mount) string { return g.first().HostPath(m) }

// Watch is as Resolver.Watch, for all runtimes, those included that join later.
// sel.Synced is called when all that were there at the beginning and can be reached
// have reported what there is.
func (g *Group) Watch(ctx context.Context, sel Selection, fn func(Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	members := g.members
	var (
		mu     sync.Mutex
		left   = len(members)
		ready  = sel.Synced
		failed error
		all    sync.WaitGroup
	)
	sel.Synced = func() {
		mu.Lock()
		left--
		last := left == 0
		mu.Unlock()
		if last && ready != nil {
			ready()
		}
	}
	one := func(c Change) {
		mu.Lock()
		defer mu.Unlock()
		fn(c)
	}
	follow := func(r Member, sel Selection) {
		// Watch fails only because of sel, which is the same for all.
		if err := r.Watch(ctx, sel, one); err != nil {
			mu.Lock()
			failed = err
			mu.Unlock()
			cancel()
		}
	}
	for _, r := range members {
		all.Go(func() {
			sel := sel
			if _, err := r.engine.List(ctx); errors.Is(err, ErrUnreachable) && len(members) > 1 {
				sel.Synced() // the others must not wait for it
				sel.Synced = nil
			}
			follow(r, sel)
		})
	}
	late := sel
	late.Synced = nil
	g.follow = func(r Member) { all.Go(func() { follow(r, late) }) }
	g.mu.Unlock()
	<-ctx.Done()
	g.mu.Lock()
	g.follow = nil
	g.mu.Unlock()
	all.Wait()
	return failed
}

// RefreshMounts is as Resolver.RefreshMounts. It asks the kernel only.
func (g *Group) RefreshMounts(c Container) Container { return g.first().RefreshMounts(c) }

// CgroupController is as Resolver.CgroupController: it is a matter of the host.
func (g *Group) CgroupController() string { return g.first().CgroupController() }

// LayerMounted is as Resolver.LayerMounted. It asks the kernel only.
func (g *Group) LayerMounted(c *Container) bool { return g.first().LayerMounted(c) }

// ProcessAlive is as Resolver.ProcessAlive. It asks the kernel only.
func (g *Group) ProcessAlive(pid uint32, startNS uint64) bool {
	return g.first().ProcessAlive(pid, startNS)
}

// Known is as Resolver.Known.
func (g *Group) Known(id string) (Container, bool) {
	for _, r := range g.all() {
		if c, ok := r.Known(id); ok {
			return c, true
		}
	}
	return Container{}, false
}

// Actor is as Resolver.Actor.
func (g *Group) Actor(cgroupID uint64) (containerID string, ok bool) {
	for _, r := range g.all() {
		if id, ok := r.actors.own(cgroupID); ok {
			return id, true
		}
	}
	return g.first().actors.find(cgroupID, func(id string) bool {
		_, ok := g.Known(id)
		return ok
	})
}
