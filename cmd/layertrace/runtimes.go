package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/resolver"
)

// runtimeAuto is the value of --runtime that takes whatever answers.
const runtimeAuto = "auto"

const (
	// probeTimeout is how long a runtime that nobody named may take to answer.
	probeTimeout = 2 * time.Second
	// waitEvery is how often runtimes that were not there are looked for while the
	// run has to wait, watchEvery is how often they are while it goes on.
	waitEvery  = 2 * time.Second
	watchEvery = 30 * time.Second
)

// runtimeFlags say which container runtimes are asked.
type runtimeFlags struct {
	name       string
	dockerHost string
	pids       []int
	cgroups    []string
}

func (r *runtimeFlags) register(f *pflag.FlagSet) {
	f.Var(newChoice(&r.name, runtimeAuto, runtimeAuto, resolver.RuntimeDocker, resolver.RuntimePodman, resolver.RuntimeContainerd, resolver.RuntimeNone),
		"runtime", "whose containers; auto is all that are here or belong here, podman includes CRI-O, none is any process whose root is an overlay")
	f.StringVar(&r.dockerHost, "docker-host", "", "address of the Docker daemon (default $DOCKER_HOST, then the standard socket)")
}

// ofProcesses reports whether processes were named instead of containers.
func (r *runtimeFlags) ofProcesses() bool { return len(r.pids)+len(r.cgroups) > 0 }

// runtimeChoice is what newRuntime needs to know.
type runtimeChoice struct {
	runtimeFlags
	getenv func(string) string
	// ended is called when no process of those in pids is left.
	ended func()
}

// runtimes is the container runtimes of the machine.
type runtimes struct {
	*resolver.Group
	choice   runtimeChoice
	places   places
	hostRoot string // see resolver.HostRoot
	log      zerolog.Logger
	gone     atomic.Bool // no process of those in pids is left

	mu      sync.Mutex
	engines []engine
	have    map[string]bool // candidates that are members, by where they are
	silent  map[string]bool // those that do not answer, which was logged
	looked  time.Time       // when runtimes were last looked for
	// guessed: nothing was found, and the only member is what most people mean.
	guessed bool
}

// engine is the Engine of a member.
type engine struct {
	resolver.Engine
	member resolver.Member
}

// newRuntimes makes the engines that were chosen. With auto these are those of the
// runtimes that are expected here, and of others that answer.
func newRuntimes(ctx context.Context, choice runtimeChoice, log zerolog.Logger) (containerRuntime, error) {
	root, err := hostRoot()
	if err != nil {
		return nil, err
	}
	log = log.With().Str("component", "resolver").Logger()
	r := &runtimes{choice: choice, places: newPlaces(root, choice.getenv("PATH")), hostRoot: root, log: log}
	if err := r.start(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// start makes the first members, one at least.
func (r *runtimes) start(ctx context.Context) error {
	r.Group = resolver.NewGroup()
	r.have, r.silent = make(map[string]bool), make(map[string]bool)
	r.looked = time.Now()
	switch name := r.choice.name; {
	case r.choice.ofProcesses(), name == resolver.RuntimeNone:
		// Of --pid and --cgroup there is no more than one.
		return r.join(ctx, candidate{runtime: resolver.RuntimeNone, expected: true, open: func() (resolver.Engine, error) {
			return resolver.NewProcesses(resolver.ProcessesConfig{
				PIDs: r.choice.pids, Cgroups: r.choice.cgroups, HostRoot: r.places.root, Ended: func() { r.gone.Store(true) },
			})
		}})
	case name != runtimeAuto:
		return r.join(ctx, r.named())
	}
	for _, c := range r.candidates() {
		if err := r.join(ctx, c); err != nil && c.expected {
			return err
		}
	}
	if len(r.engines) > 0 {
		return nil
	}
	// Nothing is there. Most people mean Docker.
	r.guessed = true
	guess := r.places.dockers(r.choice)[0]
	guess.expected = true
	return r.join(ctx, guess)
}

// named is the runtime that --runtime names.
func (r *runtimes) named() candidate {
	var all []candidate
	switch r.choice.name {
	case resolver.RuntimePodman:
		return r.podman(nil)
	case resolver.RuntimeContainerd:
		all = append(r.places.containerds(r.choice, r.log), r.places.containerd(resolver.ContainerdSocket, true, r.log))
	default:
		all = r.places.dockers(r.choice)
	}
	all[0].expected = true
	return all[0]
}

// candidates returns the runtimes that may be on the machine and are no members yet.
func (r *runtimes) candidates() []candidate {
	all := append(r.places.dockers(r.choice), r.places.containerds(r.choice, r.log)...)
	all = slices.DeleteFunc(all, r.has)
	var stores []resolver.Store
	for _, s := range r.places.stores() {
		if !r.have[s.Graph] {
			stores = append(stores, s)
		}
	}
	if len(stores) > 0 {
		all = append(all, r.podman(stores))
	}
	return all
}

// podman is the containers of some stores, or of all that there are now if stores is
// nil.
func (r *runtimes) podman(stores []resolver.Store) candidate {
	c := candidate{runtime: resolver.RuntimePodman, expected: true, open: func() (resolver.Engine, error) {
		return resolver.NewStorage(resolver.StorageConfig{Stores: stores, Log: r.log})
	}}
	for _, s := range stores {
		c.where = append(c.where, s.Graph)
	}
	return c
}

// has tells whether a candidate is a member already.
func (r *runtimes) has(c candidate) bool {
	return slices.ContainsFunc(c.where, func(where string) bool { return r.have[where] })
}

// join makes a candidate a member. One that is not expected must answer; why another can
// not be reached is told when it is asked.
func (r *runtimes) join(ctx context.Context, c candidate) error {
	if r.has(c) {
		return nil
	}
	e, err := c.open()
	if err == nil && !c.expected {
		err = probe(ctx, e)
	}
	if err != nil {
		return r.refuse(c, &resolver.RuntimeError{Runtime: c.runtime, Err: err})
	}
	member, err := resolver.New(resolver.Config{
		Log: r.log.With().Str("runtime", c.runtime).Logger(), Engine: e, HostRoot: r.hostRoot, Owner: c.owner,
	})
	if err != nil {
		return errors.Join(err, e.Close())
	}
	m := resolver.Member{Runtime: c.runtime, Resolver: member}
	r.Join(m)
	r.engines = append(r.engines, engine{e, m})
	for _, where := range c.where {
		r.have[where] = true
	}
	return nil
}

// refuse logs, once, why a candidate is no member.
func (r *runtimes) refuse(c candidate, err error) error {
	if key := strings.Join(c.where, " "); !c.expected && !r.silent[key] {
		r.silent[key] = true
		r.log.Debug().Err(err).Str("where", key).Msg("no answer from a container runtime that may be there")
	}
	return err
}

// lookAgain takes in runtimes that have turned up since it last did, and logs that at
// the given level. Who asks more often than every so often is not served.
func (r *runtimes) lookAgain(ctx context.Context, every time.Duration, level zerolog.Level) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.choice.name != runtimeAuto || r.choice.ofProcesses() || time.Since(r.looked) < every {
		return
	}
	r.looked = time.Now()
	for _, c := range r.candidates() {
		c.expected = false // it will be looked for once more
		before := len(r.engines)
		if err := r.join(ctx, c); err == nil && len(r.engines) > before {
			r.log.WithLevel(level).Str("runtime", c.runtime).Strs("where", c.where).Msg("container runtime found")
		}
	}
	if r.guessed && len(r.engines) > 1 && probe(ctx, r.engines[0].Engine) != nil {
		r.unguess()
	}
}

// unguess drops the first member, which nobody must wait for: others have turned up.
func (r *runtimes) unguess() {
	r.guessed = false
	guess := r.engines[0]
	r.engines = r.engines[1:]
	r.Group = resolver.NewGroup()
	for _, e := range r.engines {
		r.Join(e.member)
	}
	_ = guess.member.Close() // of descriptors that were only read
	for _, where := range r.places.dockers(r.choice)[0].where {
		delete(r.have, where) // it may turn up yet
	}
}

// probe asks an engine whether it is there, and closes it if not.
func probe(ctx context.Context, engine resolver.Engine) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if _, err := engine.Info(ctx); err != nil {
		return errors.Join(err, engine.Close())
	}
	return nil
}

// Find is the Group's, of all runtimes that are there by now.
func (r *runtimes) Find(ctx context.Context, ref string) (resolver.Container, error) {
	r.lookAgain(ctx, waitEvery, zerolog.InfoLevel)
	return r.Group.Find(ctx, ref)
}

// Watch is the Group's, and takes in runtimes that turn up. The end of the processes
// that --pid named is told once what happened to them has been.
func (r *runtimes) Watch(ctx context.Context, sel resolver.Selection, fn func(resolver.Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel()
	r.mu.Lock()
	r.guessed = false // it has been found, or nothing else was
	r.mu.Unlock()
	looking.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(watchEvery):
				r.lookAgain(ctx, watchEvery, zerolog.WarnLevel)
			}
		}
	})
	return r.Group.Watch(ctx, sel, func(c resolver.Change) {
		fn(c)
		if c.Kind == resolver.Stopped && r.choice.ended != nil && r.gone.Load() {
			r.choice.ended()
		}
	})
}

// all returns the engines that there are now.
func (r *runtimes) all() []engine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engines
}

// Info asks the engines what they are.
func (r *runtimes) Info(ctx context.Context) ([]resolver.EngineInfo, error) {
	var all []resolver.EngineInfo
	for _, e := range r.all() {
		info, err := e.Info(ctx)
		if err != nil {
			return nil, &resolver.RuntimeError{Runtime: e.member.Runtime, Err: err}
		}
		info.Runtime = e.member.Runtime
		all = append(all, info)
	}
	return all, nil
}

// Names lists the containers without asking for any details. With an error it returns
// those of the runtimes that have answered.
func (r *runtimes) Names(ctx context.Context) ([]resolver.Listed, error) {
	r.lookAgain(ctx, waitEvery, zerolog.InfoLevel)
	var (
		all    []resolver.Listed
		failed error
	)
	for _, e := range r.all() {
		listed, err := e.List(ctx)
		if err != nil {
			failed = errors.Join(failed, &resolver.RuntimeError{Runtime: e.member.Runtime, Err: err})
		}
		all = append(all, listed...)
	}
	return all, failed
}

// Close frees resolvers and engines.
func (r *runtimes) Close() error {
	all := r.Group.Close()
	for _, e := range r.all() {
		all = errors.Join(all, e.Close())
	}
	return all
}
