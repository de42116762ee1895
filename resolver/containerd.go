package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// ContainerdSocket is where containerd listens unless told otherwise.
const ContainerdSocket = "/run/containerd/containerd.sock"

// snapshotKey is the entry of Details.DriverData with containerd's name for the
// layer.
const snapshotKey = "SnapshotKey"

// containerd is the Engine of a containerd daemon. It leaves out the namespaces
// that belong to Docker, which knows more of its containers.
//
// A container of containerd is named within its namespace only, so its ID is the
// one that containerd has if that is as long and random as other runtimes' are,
// and NAMESPACE/NAME otherwise.
type containerd struct {
	*containerdConn
	odd  oddities
	proc startTimes

	mu         sync.Mutex
	namespaces map[string]string // of containers whose IDs do not tell
}

// ContainerdConfig says where a containerd daemon is.
type ContainerdConfig struct {
	// Socket is where it listens, on the host; default ContainerdSocket.
	Socket string
	// HostRoot is as in Config.
	HostRoot string
	Log      zerolog.Logger
}

// NewContainerd returns the Engine of a containerd daemon. It does not connect.
func NewContainerd(cfg ContainerdConfig) (Engine, error) {
	conn, err := dialContainerd(cfg.HostRoot, cfg.Socket)
	if err != nil {
		return nil, err
	}
	clock, err := NewBootClock()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the containerd client: %w", err), conn.Close())
	}
	return &containerd{
		containerdConn: conn, odd: oddities{log: cfg.Log},
		proc: startTimes{clock: clock}, namespaces: make(map[string]string),
	}, nil
}

func (c *containerd) Info(ctx context.Context) (EngineInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	version, err := versionapi.NewVersionClient(c.conn).Version(ctx, &emptypb.Empty{})
	if err != nil {
		return EngineInfo{}, c.wrap("asking containerd what it is", err)
	}
	listed, err := c.List(ctx)
	return EngineInfo{
		Host: "unix://" + c.socket, Version: strings.TrimPrefix(version.Version, "v"),
		Driver: "overlayfs", Containers: len(listed),
	}, err
}

func (c *containerd) List(ctx context.Context) ([]Listed, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	namespaces, err := namespacesapi.NewNamespacesClient(c.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, c.wrap("listing namespaces", err)
	}
	var listed []Listed
	for _, n := range namespaces.Namespaces {
		if OfDocker(n.Name) {
			continue
		}
		within := inNamespace(ctx, n.Name)
		containers, err := containersapi.NewContainersClient(c.conn).List(within, &containersapi.ListContainersRequest{})
		if err != nil {
			return nil, c.wrap("listing containers of namespace "+n.Name, err)
		}
		tasks, err := tasksapi.NewTasksClient(c.conn).List(within, &tasksapi.ListTasksRequest{})
		if err != nil {
			return nil, c.wrap("listing tasks of namespace "+n.Name, err)
		}
		for _, item := range containers.Containers {
			i := slices.IndexFunc(tasks.Tasks, func(t *task.Process) bool { return t.ID == item.ID })
			var process *task.Process
			if i >= 0 {
				process = tasks.Tasks[i]
			}
			state, _ := taskState(process)
			listed = append(listed, Listed{ID: c.identify(n.Name, item.ID), Name: containerdName(item), State: state})
		}
	}
	return listed, nil
}

// OfDocker tells the namespaces that dockerd uses: moby, plugins.moby, and
// moby-UID.GID with remapped users.
func OfDocker(namespace string) bool {
	return namespace == "moby" || namespace == "plugins.moby" || strings.HasPrefix(namespace, "moby-")
}

// identify returns the ID of a container and remembers where it is.
func (c *containerd) identify(namespace, name string) string {
	if len(name) != idDigits || !isHex(name) {
		return namespace + "/" + name
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.namespaces[name] = namespace
	return name
}

// forget drops what identify remembered.
func (c *containerd) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.namespaces, id)
}

// locate is the inverse of identify.
func (c *containerd) locate(ctx context.Context, id string) (namespace, name string, err error) {
	if namespace, name, ok := strings.Cut(id, "/"); ok {
		return namespace, name, nil
	}
	for range 2 {
		c.mu.Lock()
		namespace, ok := c.namespaces[id]
		c.mu.Unlock()
		if ok {
			return namespace, id, nil
		}
		if _, err := c.List(ctx); err != nil {
			return "", "", err
		}
	}
	return "", "", &NotFoundError{Name: id}
}

func (c *containerd) Inspect(ctx context.Context, id string) (Details, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	namespace, name, err := c.locate(ctx, id)
	if err != nil {
		return Details{}, err
	}
	within := inNamespace(ctx, namespace)
	got, err := containersapi.NewContainersClient(c.conn).Get(within, &containersapi.GetContainerRequest{ID: name})
	if status.Code(err) == codes.NotFound {
		return Details{}, &NotFoundError{Name: id}
	}
	if err != nil {
		return Details{}, c.wrap("inspecting container "+id, err)
	}
	if got.Container == nil {
		return Details{}, fmt.Errorf("inspecting container %s: the answer is empty", id)
	}
	var process *task.Process
	answer, err := tasksapi.NewTasksClient(c.conn).Get(within, &tasksapi.GetRequest{ContainerID: name})
	switch {
	case err == nil:
		process = answer.Process
	case status.Code(err) != codes.NotFound:
		return Details{}, c.wrap("inspecting the task of container "+id, err)
	}
	d := c.details(id, got.Container, process)
	// A container may be made over a layer that is older than itself.
	d.CreatedAt, err = c.snapshotTime(within, d.Driver, d.DriverData[snapshotKey])
	if err != nil {
		// The daemon may have another program keep the layers. While that is away
		// the container can be watched all the same.
		if _, away := versionapi.NewVersionClient(c.conn).Version(ctx, &emptypb.Empty{}); away != nil {
			return Details{}, err
		}
		c.odd.note("when the layer was made is not known", id, err)
	}
	return d, nil
}

// details puts together what containerd says of a container and its task, which
// may be nil.
func (c *containerd) details(id string, item *containersapi.Container, process *task.Process) Details {
	d := Details{
		ID: id, Name: containerdName(item), Image: item.Image, Runtime: RuntimeContainerd,
		Driver: item.Snapshotter, DriverData: map[string]string{snapshotKey: item.SnapshotKey}, Labels: item.Labels,
	}
	d.State, d.PID = taskState(process)
	if d.PID != 0 {
		d.StartedAt = c.proc.of(d.PID)
	}
	if item.Spec == nil {
		return d
	}
	var spec runtimeSpec
	if err := json.Unmarshal(item.Spec.Value, &spec); err != nil {
		c.odd.note("specification of a container not read", id, err)
		return d
	}
	spec.apply(&d)
	return d
}

// containerdName is what a person calls a container: in Kubernetes
// NAMESPACE/POD/CONTAINER, without the last one for a pod's sandbox.
func containerdName(item *containersapi.Container) string {
	if k := kubernetesOf(item.Labels); k != nil {
		return k.String()
	}
	if name := item.Labels["nerdctl/name"]; name != "" {
		return name
	}
	return item.ID
}

// taskState translates a task's state. A task that has ended keeps its pid until
// it is deleted, though that may belong to somebody else by then.
func taskState(process *task.Process) (State, int) {
	if process == nil {
		return StateCreated, 0
	}
	pid := int(process.Pid)
	switch process.Status {
	case task.Status_RUNNING:
		return StateRunning, pid
	case task.Status_PAUSED, task.Status_PAUSING:
		return StatePaused, pid
	case task.Status_CREATED:
		// Its init process is there and waits to be told to start.
		return StateCreated, pid
	}
	return StateExited, 0
}

// FindLayer asks for a layer that no mount table shows.
func (c *containerd) FindLayer(ctx context.Context, d Details) (foundLayer, error) {
	namespace, _, err := c.locate(ctx, d.ID)
	if err != nil || d.DriverData[snapshotKey] == "" {
		return foundLayer{}, err
	}
	return c.layer(ctx, namespace, d.Driver, d.DriverData[snapshotKey])
}

// runtimeSpec is what is of interest in a container's config.json, whose form is
// that of the Open Container Initiative.
type runtimeSpec struct {
	Root struct {
		Path     string `json:"path"`
		Readonly bool   `json:"readonly"`
	} `json:"root"`
	Mounts []struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Source      string   `json:"source"`
		Options     []string `json:"options"`
	} `json:"mounts"`
	Annotations map[string]string `json:"annotations"`
}

// apply adds what the specification says to a container's details.
func (s *runtimeSpec) apply(d *Details) {
	d.ReadOnlyRoot = s.Root.Readonly
	files := map[string]*string{
		"/etc/hostname": &d.HostnamePath, "/etc/hosts": &d.HostsPath, "/etc/resolv.conf": &d.ResolvConfPath,
	}
	for _, m := range s.Mounts {
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		file := files[path.Clean(m.Destination)]
		switch {
		case bind && file != nil:
			*file = m.Source
		case bind:
			d.Mounts = append(d.Mounts, declaredBind(m.Source, m.Destination, slices.Contains(m.Options, "ro")))
		case m.Type == "tmpfs":
			d.Tmpfs = append(d.Tmpfs, m.Destination)
		}
	}
}

// declaredBind tells volumes from other binds by the places where kubelet, podman
// and nerdctl keep them. Volumes that nobody named have names as Docker makes them up.
func declaredBind(source, destination string, readOnly bool) DeclaredMount {
	m := DeclaredMount{Type: "bind", Source: source, Destination: destination, ReadOnly: readOnly}
	parts := strings.Split(path.Clean(source), "/")
	for i := range parts {
		switch {
		// …/pods/UID/volumes/kubernetes.io~empty-dir/NAME
		case i+2 < len(parts) && parts[i] == "volumes" && strings.Contains(parts[i+1], "~"):
			m.Type, m.Name = "volume", parts[i+2]
		// …/volumes/NAME/_data, with further directories in between for nerdctl
		case i > 1 && parts[i] == "_data" && slices.Contains(parts[:i-1], "volumes"):
			m.Type, m.Name = "volume", parts[i-1]
			m.Anonymous = isMadeUp(m.Name)
		}
	}
	return m
}

func (c *containerd) Events(ctx context.Context) (<-chan Event, <-chan error) {
	out, failed := make(chan Event, dockerBacklog), make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	stream, err := eventsapi.NewEventsClient(c.conn).Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{
		`topic~="^/containers/(create|update|delete)$"`, `topic~="^/tasks/(start|exit|paused|resumed)$"`,
	}})
	if err == nil {
		// The daemon does not say when it has subscribed us. It takes requests in
		// order, so with the answer to a later one that is under way; a change
		// in between is found by the next comparison.
		limited, done := context.WithTimeout(ctx, dockerTimeout)
		_, err = versionapi.NewVersionClient(c.conn).Version(limited, &emptypb.Empty{})
		done()
	}
	if err != nil {
		cancel(nil)
		failed <- c.wrap("subscribing to events", err)
		return out, failed
	}
	go func() {
		defer cancel(nil)
		for {
			envelope, err := stream.Recv()
			if err != nil {
				if cause := context.Cause(ctx); cause != nil {
					err = cause
				}
				failed <- c.wrap("following events", err)
				return
			}
			event, ok := c.translate(envelope)
			if !ok {
				continue
			}
			select {
			case out <- event:
			case <-ctx.Done():
			}
		}
	}()
	return out, failed
}

// translate turns an event of containerd into ours. What cannot be read is left
// out: events are hints, and the next comparison finds what they were about.
func (c *containerd) translate(e *types.Envelope) (Event, bool) {
	if e == nil || e.Event == nil || OfDocker(e.Namespace) {
		return Event{}, false
	}
	event := Event{Time: time.Now()}
	if e.Timestamp.IsValid() {
		event.Time = e.Timestamp.AsTime()
	}
	name, action, err := taskEvent(e.Event)
	if err != nil {
		c.odd.note("event of containerd not read", e.Topic+" "+e.Event.TypeUrl, err)
	}
	if name == "" {
		return Event{}, false
	}
	event.ID, event.Action = c.identify(e.Namespace, name), action
	if action == "destroy" {
		c.forget(event.ID)
	}
	return event, true
}

// taskEvent decodes the event types that matter. An exit of a process beside the
// first one is none of them.
func taskEvent(value *anypb.Any) (name, action string, err error) {
	message, err := value.UnmarshalNew()
	if err != nil {
		return "", "", err
	}
	switch m := message.(type) {
	case *eventtypes.ContainerCreate:
		return m.ID, "create", nil
	case *eventtypes.ContainerUpdate:
		return m.ID, "rename", nil
	case *eventtypes.ContainerDelete:
		return m.ID, "destroy", nil
	case *eventtypes.TaskStart:
		return m.ContainerID, "start", nil
	case *eventtypes.TaskExit:
		if m.ID == m.ContainerID {
			return m.ContainerID, "die", nil
		}
	case *eventtypes.TaskPaused:
		return m.ContainerID, "pause", nil
	case *eventtypes.TaskResumed:
		return m.ContainerID, "unpause", nil
	}
	return "", "", nil
}
