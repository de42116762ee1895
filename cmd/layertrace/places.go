package main

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/resolver"
)

// containerdPlaces are where containerd listens and keeps its state, and the program
// that runs it: by itself, and as a part of k3s, k0s and MicroK8s.
var containerdPlaces = []struct{ socket, state, program string }{
	{resolver.ContainerdSocket, "/var/lib/containerd", "containerd"},
	{"/run/k3s/containerd/containerd.sock", "/var/lib/rancher/k3s/agent/containerd", "k3s"},
	{"/run/k0s/containerd.sock", "/var/lib/k0s/containerd", "k0s"},
	{"/var/snap/microk8s/common/run/containerd.sock", "/var/snap/microk8s/common/var/lib/containerd", "microk8s"},
}

// candidate is a runtime that may be on the machine.
type candidate struct {
	runtime string
	// where are its socket or its directories, by any name that they are known by:
	// they tell it from others.
	where []string
	// expected: the user named it, or it belongs to the machine, running or not.
	expected bool
	owner    uint32 // the user whose it is
	open     func() (resolver.Engine, error)
}

// places is where runtimes are looked for.
type places struct {
	root   string // where the host's root directory is, as resolver.HostRoot says
	docker string // Docker's standard socket, as this process sees it
	path   string // directories of programs, as in $PATH
	stores func() []resolver.Store
}

func newPlaces(hostRoot, path string) places {
	return places{
		root: hostRoot, docker: strings.TrimPrefix(standardSocket, "unix://"), path: path,
		stores: func() []resolver.Store { return resolver.FindStores("/") },
	}
}

// find returns where this process reaches a path of the host, without symlinks; ok is
// false if there is nothing.
func (p *places) find(name string) (found string, ok bool) {
	var err error
	if p.root == "" {
		found, err = filepath.EvalSymlinks(name)
	} else {
		found, err = resolver.Reach(p.root, name)
	}
	return found, err == nil
}

// installed tells whether the host has a program.
func (p *places) installed(program string) bool {
	return slices.ContainsFunc(filepath.SplitList(p.path), func(dir string) bool {
		_, ok := p.find(filepath.Join("/", dir, program))
		return ok
	})
}

// dockers returns the daemons of Docker: the one that the user named, else that of the
// machine and those of users that have a socket.
func (p *places) dockers(choice runtimeChoice) []candidate {
	at := func(host string, expected bool) candidate {
		where := []string{strings.TrimPrefix(host, "unix://")}
		if socket, err := filepath.EvalSymlinks(where[0]); err == nil && socket != where[0] {
			where = append(where, socket)
		}
		return candidate{resolver.RuntimeDocker, where, expected, p.userOf(where[0]), func() (resolver.Engine, error) {
			return resolver.NewDocker(resolver.DockerConfig{Host: host, HostRoot: p.root})
		}}
	}
	if host := dockerHost(choice.dockerHost, choice.getenv); host != standardSocket {
		return []candidate{at(host, true)}
	}
	users, _ := filepath.Glob(p.root + usersSocket)
	socket, here := p.dockerSocket()
	// Where users have their own the machine's may well be installed and not be meant
	// to run.
	all := []candidate{at("unix://"+socket, here || len(users) == 0 && p.dockerInstalled())}
	for _, user := range users {
		all = append(all, at("unix://"+user, false))
	}
	return all
}

// usersSocket is where the daemons of users listen.
const usersSocket = "/run/user/*/docker.sock"

// userOf returns whose daemon listens on a socket, by where that is: root's if it is no
// user's.
func (p *places) userOf(socket string) uint32 {
	dir := filepath.Dir(socket)
	if match, err := filepath.Match(p.root+filepath.Dir(usersSocket), dir); err != nil || !match {
		return 0
	}
	uid, err := strconv.ParseUint(filepath.Base(dir), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(uid)
}

// dockerSocket returns the standard socket: ours, or else the host's.
func (p *places) dockerSocket() (socket string, here bool) {
	if _, err := os.Stat(p.docker); err == nil {
		return p.docker, true
	}
	if p.root == "" {
		return p.docker, false
	}
	if socket, ok := p.find(strings.TrimPrefix(standardSocket, "unix://")); ok {
		return socket, true
	}
	return p.docker, false
}

// dockerInstalled tells whether the machine has a daemon that has run, though it has
// left no socket: it removes that when it stops. Its client alone does not count.
func (p *places) dockerInstalled() bool {
	var config struct {
		DataRoot string `json:"data-root"`
	}
	if name, ok := p.find("/etc/docker/daemon.json"); ok {
		data, _ := os.ReadFile(name)
		_ = json.Unmarshal(data, &config) // the daemon will say what is wrong with it
	}
	_, ran := p.find(cmp.Or(config.DataRoot, "/var/lib/docker"))
	return ran && p.installed("dockerd")
}

// containerds returns the daemons of containerd: the one that the user named, else
// those at the usual places.
func (p *places) containerds(choice runtimeChoice, log zerolog.Logger) []candidate {
	if address := choice.getenv("CONTAINERD_ADDRESS"); address != "" {
		return []candidate{p.containerd(address, true, log)}
	}
	var all []candidate
	for _, place := range containerdPlaces {
		_, here := p.find(place.socket)
		expected := (here || p.installed(place.program)) && p.hasRun(place.state)
		if here || expected {
			all = append(all, p.containerd(place.socket, expected, log))
		}
	}
	return all
}

// containerd returns the daemon that listens on a socket of the host.
func (p *places) containerd(socket string, expected bool, log zerolog.Logger) candidate {
	where := []string{socket}
	if found, ok := p.find(socket); ok && found != socket {
		where = append(where, found)
	}
	return candidate{resolver.RuntimeContainerd, where, expected, 0, func() (resolver.Engine, error) {
		return resolver.NewContainerd(resolver.ContainerdConfig{Socket: socket, HostRoot: p.root, Log: log})
	}}
}

// hasRun tells by a containerd's state whether it has run containers that are not
// Docker's.
func (p *places) hasRun(state string) bool {
	dir, ok := p.find(state)
	if !ok {
		return false
	}
	namespaces, _ := filepath.Glob(dir + "/io.containerd.runtime.v*/*")
	return slices.ContainsFunc(namespaces, func(name string) bool { return !resolver.OfDocker(filepath.Base(name)) })
}
