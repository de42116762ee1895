package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

const (
	// dockerTimeout bounds every call but the stream of events. A daemon that
	// starts many containers may well answer only after half a minute.
	dockerTimeout = time.Minute
	// dockerBacklog is how many events wait for a slow reader before they wait
	// in the daemon.
	dockerBacklog = 256
)

// docker is the Engine of a Docker daemon, and the only place that knows its
// client library.
type docker struct {
	api      *client.Client
	hostRoot string
	runtime  string                     // a Runtime… word
	info     atomic.Pointer[EngineInfo] // as last told

	mu         sync.Mutex
	containerd *containerdConn // where it keeps its layers; nil until that was asked for
	namespace  string          // of its containers there
}

// DockerConfig says where a Docker daemon is.
type DockerConfig struct {
	// Host is its address in the form of DOCKER_HOST (unix:///run/docker.sock,
	// tcp://…), as this process reaches it; if it is empty, the environment's
	// DOCKER_HOST counts, then the standard socket.
	Host string
	// HostRoot is as in Config: below it is what the daemon tells paths of.
	HostRoot string
}

// NewDocker returns the Engine of a Docker daemon. TLS settings and
// DOCKER_API_VERSION are taken from the environment; without the latter the API
// version is negotiated at the first call. NewDocker does not connect: it fails
// only if address or TLS settings are unusable.
func NewDocker(cfg DockerConfig) (Engine, error) {
	options := []client.Opt{
		client.WithTLSClientConfigFromEnv(),
		client.WithHostFromEnv(),
		client.WithVersionFromEnv(),
		client.WithAPIVersionNegotiation(),
		client.WithUserAgent("layertrace"),
	}
	if cfg.Host != "" {
		options[1] = client.WithHost(cfg.Host)
	}
	api, err := client.NewClientWithOpts(options...)
	if err != nil {
		return nil, fmt.Errorf("setting up the docker client: %w", err)
	}
	return &docker{api: api, hostRoot: cfg.HostRoot, runtime: RuntimeDocker}, nil
}

func (d *docker) Close() error {
	err := d.api.Close()
	if d.containerd != nil {
		err = errors.Join(err, d.containerd.Close())
	}
	return err
}

func (d *docker) Info(ctx context.Context) (EngineInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	info, err := d.api.Info(ctx)
	if err != nil {
		return EngineInfo{}, d.wrap("asking docker what it is", err)
	}
	told := EngineInfo{
		Host:          d.api.DaemonHost(),
		Version:       info.ServerVersion,
		APIVersion:    d.api.ClientVersion(),
		Driver:        info.Driver,
		RootDir:       info.DockerRootDir,
		CgroupVersion: info.CgroupVersion,
		CgroupDriver:  info.CgroupDriver,
		Rootless: slices.ContainsFunc(info.SecurityOptions, func(o string) bool {
			return strings.Contains(o, "name=rootless")
		}),
		Containers: info.Containers,
	}
	d.info.Store(&told)
	return told, nil
}

func (d *docker) List(ctx context.Context) ([]Listed, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	summaries, err := d.api.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, d.wrap("listing containers", err)
	}
	listed := make([]Listed, 0, len(summaries))
	for _, s := range summaries {
		listed = append(listed, Listed{ID: s.ID, Name: ownName(s.Names), State: State(s.State)})
	}
	return listed, nil
}

// ownName picks a container's name from a list that has its names as a link
// target, /other/alias, as well.
func ownName(names []string) string {
	for _, name := range names {
		if name = strings.TrimPrefix(name, "/"); name != "" && !strings.Contains(name, "/") {
			return name
		}
	}
	return ""
}

func (d *docker) Inspect(ctx context.Context, id string) (Details, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	c, err := d.api.ContainerInspect(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return Details{}, &NotFoundError{Name: id}
	}
	if err != nil {
		return Details{}, d.wrap("inspecting container "+id, err)
	}
	if c.ContainerJSONBase == nil {
		return Details{}, fmt.Errorf("inspecting container %s: the answer is empty", id)
	}
	details := Details{
		ID:             c.ID,
		Name:           strings.TrimPrefix(c.Name, "/"),
		Image:          c.Image,
		Runtime:        d.runtime,
		Driver:         c.GraphDriver.Name,
		DriverData:     c.GraphDriver.Data,
		HostnamePath:   c.HostnamePath,
		HostsPath:      c.HostsPath,
		ResolvConfPath: c.ResolvConfPath,
		LogPath:        c.LogPath,
	}
	if details.Driver == "" {
		details.Driver = c.Driver
	}
	if c.Config != nil {
		details.Labels = c.Config.Labels
		if c.Config.Image != "" {
			details.Image = c.Config.Image
		}
	}
	details.CreatedAt, _ = time.Parse(time.RFC3339Nano, c.Created)
	if c.State != nil {
		details.State = State(c.State.Status)
		details.PID = c.State.Pid
		// The time of a container that never ran is the year 1: the zero value.
		details.StartedAt, _ = time.Parse(time.RFC3339Nano, c.State.StartedAt)
	}
	if c.HostConfig != nil {
		details.Tmpfs = slices.Sorted(maps.Keys(c.HostConfig.Tmpfs))
		details.LogDriver = c.HostConfig.LogConfig.Type
		details.AutoRemove = c.HostConfig.AutoRemove
		details.ReadOnlyRoot = c.HostConfig.ReadonlyRootfs
	}
	for _, m := range c.Mounts {
		details.Mounts = append(details.Mounts, declaredMount(m, c.HostConfig))
	}
	if c.HostConfig != nil && c.HostConfig.IpcMode.IsHost() {
		// Not a tmpfs of its own, as other containers have.
		const shm = "/dev/shm"
		details.Mounts = append(details.Mounts, DeclaredMount{Type: "bind", Source: shm, Destination: shm})
	}
	return details, nil
}

func (d *docker) Events(ctx context.Context) (<-chan Event, <-chan error) {
	out, failed := make(chan Event, dockerBacklog), make(chan error, 1)

	filter := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)))
	for _, action := range []events.Action{
		events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionPause,
		events.ActionUnPause, events.ActionRename, events.ActionDestroy,
	} {
		filter.Add("event", string(action))
	}
	// The daemon answers before it has subscribed us. What happens in between
	// is in its history, which "since" asks for.
	now := time.Now()
	since := fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond())

	// The stream has no time limit, its beginning has.
	ctx, cancel := context.WithCancelCause(ctx)
	limit := time.AfterFunc(dockerTimeout, func() { cancel(context.DeadlineExceeded) })
	messages, errs := d.api.Events(ctx, events.ListOptions{Since: since, Filters: filter})
	limit.Stop()

	// Without this nobody can say where the layer of a new container is before the
	// daemon does, so that the first events wait for it, in the stream. Later it
	// may have changed, which is not likely.
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = d.Info(ctx)
	}()
	if d.info.Load() == nil {
		<-asked
	}
	go func() {
		defer func() {
			cancel(nil)
			<-asked
		}()
		for {
			select {
			case m := <-messages:
				event := Event{
					ID: m.Actor.ID, Action: string(m.Action), Time: time.Unix(0, m.TimeNano),
					Runtime: d.runtime, Name: m.Actor.Attributes["name"], Image: m.Actor.Attributes["image"],
				}
				if info := d.info.Load(); m.Action == events.ActionCreate && info != nil {
					event.Driver, event.UpperDir = info.Driver, dockerUpperDir(info, d.hostRoot, m.Actor.ID)
				}
				if m.TimeNano == 0 {
					event.Time = time.Unix(m.Time, 0)
				}
				select {
				case out <- event:
				case <-ctx.Done():
				}
			case err := <-errs:
				if err == nil {
					err = io.ErrUnexpectedEOF
				}
				if cause := context.Cause(ctx); cause != nil {
					err = cause
				}
				failed <- d.wrap("following events", err)
				return
			}
		}
	}()
	return out, failed
}

// wrap says what failed, and marks errors that mean that the daemon can not be
// reached.
func (d *docker) wrap(doing string, err error) error {
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: no answer from %s in time: %w", doing, ErrUnreachable, d.api.DaemonHost(), err)
	case client.IsErrConnectionFailed(err):
		return fmt.Errorf("%s: %w: %w", doing, ErrUnreachable, d.reason(err))
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%s: %w: %s hung up: %w", doing, ErrUnreachable, d.api.DaemonHost(), err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// reason finds out why there is no connection: the client library says only
// that there is none.
func (d *docker) reason(err error) error {
	host := d.api.DaemonHost()
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return fmt.Errorf("%s: %w", host, err)
	}
	conn, dialErr := net.DialTimeout("unix", path, time.Second)
	if dialErr == nil {
		conn.Close()
		return fmt.Errorf("%s: %w", host, err)
	}
	return fmt.Errorf("connecting to %s: %w", host, systemReason(dialErr))
}

// systemReason returns the kernel's answer alone.
func systemReason(err error) error {
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call.Err
	}
	return err
}

// FindLayer asks containerd, where the daemon keeps its layers there (driver
// overlayfs and other snapshotters), since the daemon's own API does not tell.
func (d *docker) FindLayer(ctx context.Context, c Details) (foundLayer, error) {
	if c.DriverData != nil || c.Driver == "" {
		return foundLayer{}, nil
	}
	switch c.Driver {
	case "overlay2", "vfs", "btrfs", "zfs", "fuse-overlayfs", "overlay", "aufs", "devicemapper":
		return foundLayer{}, nil // a driver of Docker's own
	}
	snapshots, err := d.snapshots(ctx)
	if err != nil || snapshots == nil {
		return foundLayer{}, err
	}
	return snapshots.layer(ctx, d.namespace, c.Driver, c.ID)
}

// snapshots returns the connection to the daemon's containerd, nil if the daemon
// names none (before Docker 27).
func (d *docker) snapshots(ctx context.Context) (*containerdConn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.containerd != nil {
		return d.containerd, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	info, err := d.api.Info(ctx)
	if err != nil {
		return nil, d.wrap("asking docker for its containerd", err)
	}
	if info.Containerd == nil || info.Containerd.Address == "" {
		return nil, nil
	}
	conn, err := dialContainerd(d.hostRoot, info.Containerd.Address)
	if err != nil {
		return nil, err
	}
	d.containerd, d.namespace = conn, info.Containerd.Namespaces.Containers
	return conn, nil
}
