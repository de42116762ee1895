package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// containerdConn is a connection to a containerd daemon. Its methods may be called
// concurrently.
type containerdConn struct {
	hostRoot, socket string
	conn             *grpc.ClientConn
}

// dialContainerd prepares a connection to a socket of the host, which is made at the
// first call.
func dialContainerd(hostRoot, socket string) (*containerdConn, error) {
	c := &containerdConn{hostRoot: hostRoot, socket: strings.TrimPrefix(cmp.Or(socket, ContainerdSocket), "unix://")}
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = minPause, maxPause
	var err error
	c.conn, err = grpc.NewClient("passthrough:///containerd",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // it is a local socket
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: dockerTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)), // lists of containers with their specifications
		grpc.WithUserAgent("layertrace"))
	if err != nil {
		return nil, fmt.Errorf("setting up the containerd client: %w", err)
	}
	return c, nil
}

// dial connects to the socket. It may have been made since the last time.
func (c *containerdConn) dial(ctx context.Context) (net.Conn, error) {
	socket, err := Reach(c.hostRoot, c.socket)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}

// Close frees the connection.
func (c *containerdConn) Close() error { return c.conn.Close() }

// inNamespace addresses a call to one of containerd's namespaces.
func inNamespace(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

// layer returns the layer that an active snapshot is: the upper directory of the
// overlay that it is going to be, or its only directory. It returns an empty one if
// there is no such snapshot or it is made otherwise.
func (c *containerdConn) layer(ctx context.Context, namespace, snapshotter, key string) (foundLayer, error) {
	ctx, cancel := context.WithTimeout(inNamespace(ctx, namespace), dockerTimeout)
	defer cancel()
	answer, err := snapshotsapi.NewSnapshotsClient(c.conn).Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: snapshotter, Key: key})
	switch status.Code(err) {
	case codes.OK:
		return layerOf(answer.Mounts), nil
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition:
		return foundLayer{}, nil
	}
	return foundLayer{}, c.wrap("asking for the mounts of snapshot "+key, err)
}

// snapshotTime returns when a snapshot was made, and no time if there is none. ctx
// addresses its namespace.
func (c *containerdConn) snapshotTime(ctx context.Context, snapshotter, key string) (time.Time, error) {
	if key == "" {
		return time.Time{}, nil
	}
	answer, err := snapshotsapi.NewSnapshotsClient(c.conn).Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
	switch status.Code(err) {
	case codes.OK:
		if made := answer.GetInfo().GetCreatedAt(); made.IsValid() {
			return made.AsTime(), nil
		}
		return time.Time{}, nil
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		return time.Time{}, nil
	}
	return time.Time{}, c.wrap("asking for snapshot "+key, err)
}

// layerOf returns the layer that mounts of a snapshot make.
func layerOf(mounts []*types.Mount) foundLayer {
	for _, m := range mounts {
		switch m.GetType() {
		case "overlay":
			for _, option := range m.Options {
				if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
					return foundLayer{upperDir: dir, lowerDirs: lowerNames(strings.Join(m.Options, ","))}
				}
			}
		case "bind":
			if slices.Contains(m.Options, "rw") {
				return foundLayer{upperDir: m.Source, plain: true}
			}
		}
	}
	return foundLayer{}
}

// wrap says what failed, and marks errors that mean that the daemon can not be
// reached.
func (c *containerdConn) wrap(doing string, err error) error {
	switch code := status.Code(err); {
	case errors.Is(err, context.Canceled), code == codes.Canceled:
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w: no answer from %s in time: %w", doing, ErrUnreachable, c.socket, context.DeadlineExceeded)
	case code == codes.Unavailable, code == codes.Internal, code == codes.Unknown:
		// A daemon that breaks off, or says what no daemon says, has ended or is
		// about to.
		return fmt.Errorf("%s: %w: %w", doing, ErrUnreachable, c.dialReason(err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// dialReason finds out why there is no connection, since libraries hide it in a text.
// If there is one now, err is all that is known.
func (c *containerdConn) dialReason(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, dialErr := c.dial(ctx)
	if dialErr == nil {
		conn.Close()
		return fmt.Errorf("%s: %w", c.socket, err)
	}
	return fmt.Errorf("connecting to %s: %w", c.socket, systemReason(dialErr))
}
