//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

// serve listens on a unix socket and runs one process for each connection. The
// connection is the process's standard input and output; what it writes to
// standard error comes back in its Exit. Both the socket and the links that give
// processes their names must lie outside the container's layer, so that serving
// leaves no trace in it.
//
// Operations in boot are run first, by this very process: what a service does
// the moment it starts.
func serve(socket, links string, boot []string) error {
	if len(boot) > 0 {
		if err := runAll(boot); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Blocking descriptors throughout: a child that got one of the runtime's
	// non-blocking ones would see EAGAIN.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return fmt.Errorf("binding %s: %w", socket, err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		return err
	}
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		f := os.NewFile(uintptr(conn), "connection")
		go func() {
			defer f.Close()
			exit := handle(f, self, links)
			// Nobody may be listening any more; then nobody cares.
			_, _ = f.Write(proto.Line{Exit: &exit}.Encode())
		}()
	}
}

func handle(conn *os.File, self, links string) proto.Exit {
	req, err := readRequest(conn)
	if err != nil {
		return proto.Exit{Code: -1, Error: err.Error()}
	}
	if req.Exe == "" {
		req.Exe = self
	}
	path := req.Exe
	if len(req.Name) > 0 {
		path = filepath.Join(links, string(req.Name))
		if err := os.Symlink(req.Exe, path); err != nil && !errors.Is(err, os.ErrExist) {
			return proto.Exit{Code: -1, Error: err.Error()}
		}
	}
	argv := []string{path}
	for _, arg := range req.Args {
		argv = append(argv, string(arg))
	}
	var stderr bytes.Buffer
	cmd := &exec.Cmd{Path: path, Args: argv, Stdin: conn, Stdout: conn, Stderr: &stderr, Dir: "/"}
	runErr := cmd.Run()
	exit := proto.Exit{Code: -1, Error: stderr.String()}
	if cmd.ProcessState == nil {
		exit.Error = runErr.Error()
		return exit
	}
	exit.PID, exit.Code = cmd.ProcessState.Pid(), cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		exit.Signal = ws.Signal().String()
	}
	return exit
}

// readRequest reads exactly one line: what follows belongs to the process.
func readRequest(conn *os.File) (*proto.Request, error) {
	var line []byte
	one := make([]byte, 1)
	for {
		n, err := conn.Read(one)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	var req proto.Request
	if err := json.Unmarshal(line, &req); err != nil {
		return nil, fmt.Errorf("request %q: %w", line, err)
	}
	return &req, nil
}
