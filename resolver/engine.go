package resolver

import (
	"context"
	"time"
)

// Engine is what the resolver needs of a container runtime. NewDocker returns
// the one for Docker; tests have their own. Its methods may be called
// concurrently; they honour ctx and return errors that match ErrUnreachable
// where the runtime can not be reached.
type Engine interface {
	// Info describes the runtime.
	Info(ctx context.Context) (EngineInfo, error)
	// List returns every container, whatever its state.
	List(ctx context.Context) ([]Listed, error)
	// Inspect returns a container's details; errors match *NotFoundError too.
	Inspect(ctx context.Context, id string) (Details, error)
	// Events subscribes to the lifecycle of all containers and returns once that
	// is done or has failed. Nothing that happens after the call is left out.
	// When the subscription ends, which ctx brings about too, one error arrives
	// on the second channel. The first is never closed.
	Events(ctx context.Context) (<-chan Event, <-chan error)
	// Close frees the connections.
	Close() error
}

// layerFinder is implemented by engines that can find a layer by a call of its
// own, where neither Details nor the mount tables tell where it is: that of a
// container which does not run.
type layerFinder interface {
	FindLayer(ctx context.Context, d Details) (foundLayer, error)
}

// foundLayer is what a runtime says of a layer; the fields are as in Container. All are
// empty if there is none to be known.
type foundLayer struct {
	upperDir  string
	plain     bool
	lowerDirs []string
}

// Runtimes, as Container.Runtime tells them.
const (
	RuntimeDocker     = "docker"
	RuntimeContainerd = "containerd"
	RuntimePodman     = "podman"
	RuntimeCRIO       = "crio"
	RuntimeNone       = "none" // processes whose root is an overlay, whoever made it
)

// EngineInfo describes a runtime.
type EngineInfo struct {
	Runtime       string // a Runtime… word; whoever knows it sets it
	Host          string // the address in use, as a URL
	Version       string
	APIVersion    string // as negotiated
	Driver        string // storage driver
	RootDir       string // where it keeps its data, on the host
	CgroupVersion string // "1" or "2"; empty if it does not say
	CgroupDriver  string // cgroupfs or systemd
	Rootless      bool
	Containers    int
}

// Listed is an entry of a runtime's list.
type Listed struct {
	ID    string
	Name  string // without leading slash
	State State
}

// Details is what a runtime says of one container.
type Details struct {
	ID         string
	Name       string // without leading slash
	Image      string // as the user named it
	Runtime    string // a Runtime… word
	State      State
	PID        int       // of the init process; 0 if it does not run
	CreatedAt  time.Time // of its layer, where the runtime tells the two apart; zero if not known
	StartedAt  time.Time // zero if it never ran
	Driver     string
	DriverData map[string]string // nil if the driver tells nothing
	// Within is the directory that the layer has to be in, where whoever tells of the
	// container may not be believed about the files of others; empty if he may.
	Within string
	Labels map[string]string
	Mounts []DeclaredMount
	Tmpfs  []string // destinations of tmpfs mounts that Mounts does not have
	// Files on the host that the runtime mounts over the image's /etc/hostname,
	// /etc/hosts and /etc/resolv.conf; empty where it does not.
	HostnamePath, HostsPath, ResolvConfPath string
	LogDriver                               string // json-file, local, journald …
	LogPath                                 string // on the host; empty unless it is a file
	// AutoRemove tells that the runtime removes the container when it stops.
	AutoRemove bool
	// ReadOnlyRoot tells that the root file system is mounted read-only.
	ReadOnlyRoot bool
}

// DeclaredMount is a mount as the user asked for it.
type DeclaredMount struct {
	Type        string // bind, volume, tmpfs, image …
	Name        string // of a volume
	Source      string
	Destination string // may lead through symlinks of the image
	ReadOnly    bool
	// Anonymous tells of a volume that nobody named: it is removed with the
	// container where that is asked for (docker rm -v, docker run --rm).
	Anonymous bool
	// Subpath is the part of the volume or image that is mounted; empty for all.
	Subpath string
}

// Event is a change that a runtime announces: a hint to look, since it may have
// been overtaken by others.
type Event struct {
	ID     string
	Action string // create, start, die, pause, unpause, rename, destroy
	Time   time.Time
	// The container's runtime, its name, without leading slash, and its image, as
	// far as the event tells: the container itself may be gone when it is looked
	// at.
	Runtime, Name, Image string
	// Of create: the storage driver and the upper directory, if the engine knows
	// them without asking the runtime, which may be busy with the container.
	Driver, UpperDir string
}
