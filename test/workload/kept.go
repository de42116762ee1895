//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

// kept holds the files that "keep" left open, by the path they were opened by.
var kept = map[string]*os.File{}

// openOp opens for writing and closes again, without a write.
func openOp(a *opArgs, _ *proto.Result) error {
	f, err := open(a.path("path"), unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func keepOp(a *opArgs, _ *proto.Result) error {
	path := a.path("path")
	f, err := open(path, unix.O_RDWR|unix.O_CREAT|a.flags(openFlags), 0o644)
	if err != nil {
		return err
	}
	kept[path] = f
	return nil
}

func keptFile(a *opArgs) (*os.File, error) {
	path := a.path("path")
	f := kept[path]
	if f == nil {
		return nil, fmt.Errorf("%q is not kept open", path)
	}
	return f, nil
}

func releaseOp(a *opArgs, _ *proto.Result) error {
	f, err := keptFile(a)
	if err != nil {
		return err
	}
	delete(kept, f.Name())
	return f.Close()
}

func keptWriteOp(a *opArgs, res *proto.Result) error {
	f, err := keptFile(a)
	if err != nil {
		return err
	}
	every := a.duration("every")
	return writeAll(res, a.number("size", 0), a.number("chunk", 64<<10), every, func(p []byte, _ int64) (int, error) {
		return unix.Write(int(f.Fd()), p)
	})
}

func keptAllocateOp(a *opArgs, _ *proto.Result) error {
	f, err := keptFile(a)
	if err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), 0, 0, a.number("size", 0))
}

// adoptOp keeps the descriptor that the process was started with (start pass=).
func adoptOp(a *opArgs, _ *proto.Result) error {
	path := a.path("path")
	kept[path] = os.NewFile(passedDescriptor, path)
	return nil
}

// listeners are the sockets that "listen" made, by their path.
var listeners = map[string]int{}

// listenOp makes a socket to which others may send descriptors.
func listenOp(a *opArgs, _ *proto.Result) error {
	at := a.path("at")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	listeners[at] = fd
	return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: at}), unix.Listen(fd, 1))
}

// sendFDOp sends the kept descriptor of path= to the socket at= and does not wait
// for anybody to receive it.
func sendFDOp(a *opArgs, _ *proto.Result) error {
	f, err := keptFile(a)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: a.path("at")}); err != nil {
		return err
	}
	return unix.Sendmsg(fd, []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
}

// receiveFDOp receives a descriptor at the socket at= and keeps it as path=.
func receiveFDOp(a *opArgs, _ *proto.Result) error {
	path := a.path("path")
	conn, _, err := unix.Accept4(listeners[a.path("at")], unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(conn)
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(conn, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("received %d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("received descriptors %v: %w", fds, err)
	}
	kept[path] = os.NewFile(uintptr(fds[0]), path)
	return nil
}
