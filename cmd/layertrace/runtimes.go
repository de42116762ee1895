package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/resolver"
)

// runtimeAuto is the value of --runtime that takes whatever answers.
const runtimeAuto = "auto"

// probeTimeout is how long a runtime that nobody named may take to answer.
const probeTimeout = 2 * time.Second

// containerdSockets are where containerd listens: by itself, and as a part of
// k3s, k0s and MicroK8s.
var containerdSockets = []string{
	resolver.ContainerdSocket, "/run/k3s/containerd/containerd.sock",
	"/run/k0s/containerd.sock", "/var/snap/microk8s/common/run/containerd.sock",
}

// runtimeFlags say which container runtimes are asked.
type runtimeFlags struct {
	name       string
	dockerHost string
	pids       []int
	cgroups    []string
}

func (r *runtimeFlags) register(f *pflag.FlagSet) {
	f.Var(newChoice(&r.name, runtimeAuto, runtimeAuto, resolver.RuntimeDocker, resolver.RuntimePodman, resolver.RuntimeContainerd, resolver.RuntimeNone),
		"runtime", "whose containers; auto is all that are found, podman includes CRI-O, none is any process whose root is an overlay")
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
	names    []string
	engines  []resolver.Engine
	hostRoot string      // see resolver.HostRoot
	ended    func()      // see runtimeChoice
	gone     atomic.Bool // no process of those in pids is left
}

// newRuntimes makes the engines that were chosen. With auto it asks those that the
// user did not name whether they are there.
func newRuntimes(ctx context.Context, choice runtimeChoice, log zerolog.Logger) (containerRuntime, error) {
	log = log.With().Str("component", "resolver").Logger()
	root, err := hostRoot()
	if err != nil {
		return nil, err
	}
	r := &runtimes{hostRoot: root, ended: choice.ended}
	if err := r.open(ctx, choice, log); err != nil {
		return nil, errors.Join(err, r.closeEngines())
	}
	var members []resolver.Member
	for i, engine := range r.engines {
		member, err := resolver.New(resolver.Config{Log: log, Engine: engine, HostRoot: root})
		if err != nil {
			return nil, errors.Join(err, resolver.NewGroup(members...).Close(), r.closeEngines())
		}
		members = append(members, resolver.Member{Runtime: r.names[i], Resolver: member})
	}
	r.Group = resolver.NewGroup(members...)
	return r, nil
}

// open makes the engines. Of --pid and --cgroup there is no more than one.
func (r *runtimes) open(ctx context.Context, choice runtimeChoice, log zerolog.Logger) error {
	name := choice.name
	if choice.ofProcesses() {
		name = resolver.RuntimeNone
	}
	wanted := func(runtime string) bool { return name == runtime || name == runtimeAuto }
	if wanted(resolver.RuntimeDocker) && (name != runtimeAuto || dockerExpected(choice)) {
		if err := r.add(resolver.RuntimeDocker)(resolver.NewDocker(resolver.DockerConfig{Host: choice.dockerHost, HostRoot: r.hostRoot})); err != nil {
			return err
		}
	}
	if name == runtimeAuto && dockerHost(choice.dockerHost, choice.getenv) == standardSocket {
		if err := r.addRootless(ctx, log); err != nil {
			return err
		}
	}
	if wanted(resolver.RuntimeContainerd) {
		engine, err := r.findContainerd(ctx, choice.getenv("CONTAINERD_ADDRESS"), name != runtimeAuto, log)
		if err != nil && name == runtimeAuto {
			log.Debug().Err(err).Msg("no containerd found")
		} else if err := r.add(resolver.RuntimeContainerd)(engine, err); err != nil {
			return err
		}
	}
	if wanted(resolver.RuntimePodman) {
		engine, err := resolver.NewStorage(resolver.StorageConfig{})
		if !errors.Is(err, fs.ErrNotExist) || name != runtimeAuto {
			if err := r.add(resolver.RuntimePodman)(engine, err); err != nil {
				return err
			}
		}
	}
	if name == resolver.RuntimeNone {
		return r.add(name)(resolver.NewProcesses(resolver.ProcessesConfig{
			PIDs: choice.pids, Cgroups: choice.cgroups, HostRoot: r.hostRoot, Ended: func() { r.gone.Store(true) },
		}))
	}
	if len(r.engines) > 0 {
		return nil
	}
	// Nothing is there. Most people mean Docker; why it cannot be reached is told
	// when it is asked.
	return r.add(resolver.RuntimeDocker)(resolver.NewDocker(resolver.DockerConfig{Host: choice.dockerHost, HostRoot: r.hostRoot}))
}

// addRootless adds the Docker daemons of users, those that answer.
func (r *runtimes) addRootless(ctx context.Context, log zerolog.Logger) error {
	sockets, _ := filepath.Glob("/run/user/*/docker.sock")
	for _, socket := range sockets {
		engine, err := resolver.NewDocker(resolver.DockerConfig{Host: "unix://" + socket, HostRoot: r.hostRoot})
		if err == nil {
			err = probe(ctx, engine)
		}
		if err != nil {
			log.Debug().Err(err).Str("socket", socket).Msg("a user's docker does not answer")
			continue
		}
		if err := r.add(resolver.RuntimeDocker)(engine, nil); err != nil {
			return err
		}
	}
	return nil
}

// add takes over an engine as it was made.
func (r *runtimes) add(name string) func(resolver.Engine, error) error {
	return func(engine resolver.Engine, err error) error {
		if err != nil {
			return &resolver.RuntimeError{Runtime: name, Err: err}
		}
		r.names, r.engines = append(r.names, name), append(r.engines, engine)
		return nil
	}
}

// dockerExpected reports whether the user has said where Docker is, or it left a
// socket.
func dockerExpected(choice runtimeChoice) bool {
	host := dockerHost(choice.dockerHost, choice.getenv)
	if host != standardSocket {
		return true
	}
	_, err := os.Stat(strings.TrimPrefix(host, "unix://"))
	return err == nil
}

// onHost tells whether the host has a file.
func onHost(hostRoot, name string) bool {
	found, err := resolver.Reach(hostRoot, name)
	if err == nil {
		_, err = os.Stat(found)
	}
	return err == nil
}

// findContainerd returns the engine of the containerd at an address, or of the first
// one at its usual places. If sure is unset, it must be there and answer.
func (r *runtimes) findContainerd(ctx context.Context, address string, sure bool, log zerolog.Logger) (resolver.Engine, error) {
	if address == "" {
		i := slices.IndexFunc(containerdSockets, func(name string) bool {
			return onHost(r.hostRoot, name)
		})
		if i < 0 && !sure {
			return nil, fmt.Errorf("looking for containerd's socket: %w", fs.ErrNotExist)
		}
		address = containerdSockets[max(i, 0)]
	}
	engine, err := resolver.NewContainerd(resolver.ContainerdConfig{Socket: address, HostRoot: r.hostRoot, Log: log})
	if err != nil || sure {
		return engine, err
	}
	return engine, probe(ctx, engine)
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

// Watch is the Group's. The end of the processes that --pid named is told once what
// happened to them has been.
func (r *runtimes) Watch(ctx context.Context, sel resolver.Selection, fn func(resolver.Change)) error {
	return r.Group.Watch(ctx, sel, func(c resolver.Change) {
		fn(c)
		if c.Kind == resolver.Stopped && r.ended != nil && r.gone.Load() {
			r.ended()
		}
	})
}

// Info asks the engines what they are.
func (r *runtimes) Info(ctx context.Context) ([]resolver.EngineInfo, error) {
	var all []resolver.EngineInfo
	for i, engine := range r.engines {
		info, err := engine.Info(ctx)
		if err != nil {
			return nil, &resolver.RuntimeError{Runtime: r.names[i], Err: err}
		}
		info.Runtime = r.names[i]
		all = append(all, info)
	}
	return all, nil
}

// Names lists the containers without asking for any details.
func (r *runtimes) Names(ctx context.Context) ([]resolver.Listed, error) {
	var all []resolver.Listed
	for i, engine := range r.engines {
		listed, err := engine.List(ctx)
		if err != nil {
			return nil, &resolver.RuntimeError{Runtime: r.names[i], Err: err}
		}
		all = append(all, listed...)
	}
	return all, nil
}

// Close frees resolvers and engines.
func (r *runtimes) Close() error { return errors.Join(r.Group.Close(), r.closeEngines()) }

func (r *runtimes) closeEngines() error {
	var all error
	for _, engine := range r.engines {
		all = errors.Join(all, engine.Close())
	}
	return all
}
