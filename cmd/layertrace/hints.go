package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/session"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
)

// standardSocket is where Docker listens unless told otherwise.
const standardSocket = "unix:///var/run/docker.sock"

// runtimeFailure explains an error of the container runtime or of looking up a
// container. Nil stays nil.
func (w *watch) runtimeFailure(err error) error {
	return lookupFailure(err, dockerHost(w.flags.runtime.dockerHost, w.env.getenv), w.line, func(name string) string {
		return "layertrace watch --wait " + shellWord(name) + " waits for it; " + w.flags.runtime.listCommand() + " lists what there is"
	})
}

// lookupFailure is runtimeFailure for any command: host is the daemon's address,
// line the command line, and missing what to do about a container that does not
// exist and resembles none that does.
func lookupFailure(err error, host string, line []string, missing func(name string) string) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var (
		unknown   *resolver.NotFoundError
		ambiguous *resolver.AmbiguousError
	)
	switch {
	case errors.As(err, &unknown):
		hint := missing(unknown.Name)
		if unknown.Nearest != "" {
			hint = "did you mean " + shellWord(unknown.Nearest) + "?"
		}
		return fail(exitRuntime, hint, "container %s: no such container", unknown.Name)
	case errors.As(err, &ambiguous):
		return fail(exitRuntime, "give more digits of the id, or the name",
			"container %s: several ids begin so: %s", ambiguous.Prefix, strings.Join(shortIDs(ambiguous), ", "))
	}
	return runtimeFailure(err, host, "sudo "+shellLine(line))
}

const startContainerd = "sudo systemctl start containerd"

// runtimeFailure says why a runtime cannot be used, in words; host is the address
// of Docker, asRoot the command that would be allowed to use it.
func runtimeFailure(err error, host, asRoot string) error {
	var of *resolver.RuntimeError
	if !errors.As(err, &of) || of.Runtime == resolver.RuntimeDocker {
		if of != nil {
			err = of.Err
		}
		return dockerFailure(err, host, asRoot)
	}
	switch {
	case of.Runtime == resolver.RuntimeNone:
		return fail(exitRuntime, "cat /proc/PID/mountinfo shows a process's root", "%w", of.Err)
	case of.Runtime == resolver.RuntimePodman && errors.Is(err, fs.ErrNotExist):
		return fail(exitRuntime, "sudo podman info --format '{{.Store.GraphRoot}}' says where they would be", "podman: it keeps no containers on this machine")
	case errors.Is(err, fs.ErrNotExist):
		return fail(exitRuntime, startContainerd+", or say where it listens: CONTAINERD_ADDRESS=/path/to/containerd.sock", "%s: cannot be reached: there is no socket", of.Runtime)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(exitRuntime, startContainerd, "%s: cannot be reached: no daemon listens", of.Runtime)
	}
	return fail(exitRuntime, "layertrace doctor", "%s: %w", of.Runtime, of.Err)
}

// listCommand is what shows a person all containers.
func (r *runtimeFlags) listCommand() string {
	switch r.name {
	case resolver.RuntimePodman:
		return "podman ps -a"
	case resolver.RuntimeContainerd:
		return "ctr -n NAMESPACE containers ls"
	}
	return "docker ps -a"
}

// shortIDs returns the matches as Docker prints ids, with as many more digits as
// it takes to tell them apart from what was given.
func shortIDs(err *resolver.AmbiguousError) []string {
	length := max(12, len(err.Prefix)+4)
	ids := make([]string, len(err.Matches))
	for i, id := range err.Matches {
		ids[i] = id[:min(length, len(id))]
	}
	return ids
}

// dockerHost is the address that is used.
func dockerHost(flag string, getenv func(string) string) string {
	for _, host := range []string{flag, getenv("DOCKER_HOST")} {
		if host != "" {
			return host
		}
	}
	return standardSocket
}

// dockerFailure says why the daemon at host cannot be used, in words; asRoot is
// the command that would be allowed to.
func dockerFailure(err error, host, asRoot string) error {
	const start = "sudo systemctl start docker"
	at := strings.TrimPrefix(host, "unix://")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(exitRuntime, start+", or say where it listens: --docker-host unix:///path/to/docker.sock",
			"docker: cannot be reached: there is no socket %s", at)
	case errors.Is(err, fs.ErrPermission):
		return fail(exitRuntime, asRoot, "docker: cannot be reached: no permission to use %s", at)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(exitRuntime, start, "docker: cannot be reached: no daemon listens at %s", at)
	case errors.Is(err, context.DeadlineExceeded):
		return fail(exitRuntime, "systemctl status docker", "docker: the daemon at %s does not answer", at)
	case errors.Is(err, resolver.ErrUnreachable):
		return fail(exitRuntime, start, "docker: %w", err)
	}
	return fail(exitRuntime, "layertrace doctor", "docker: %w", err)
}

// inContainer is how to start layertrace in a container of its own.
const inContainer = "docker run --rm -it --privileged --pid=host --cgroupns=host -v /var/run/docker.sock:/var/run/docker.sock layertrace"

// viewFailure explains why the host is not seen. line is the command line.
func viewFailure(err error, line []string) error {
	var view *resolver.ViewError
	if !errors.As(err, &view) {
		return fail(exitKernel, "", "host: %w", err)
	}
	return fail(exitKernel, strings.TrimSpace(inContainer+" "+shellLine(line[min(1, len(line)):])),
		"host: it cannot be seen without %s: %w", view.Missing, view)
}

// kernelFailure explains an error of the kernel side. Nil stays nil.
func kernelFailure(err error) error {
	const doctor = "sudo layertrace doctor"
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tracer.ErrNoOverlay):
		return fail(exitKernel, "sudo modprobe overlay", "kernel: the overlay module is not loaded, and loading it did not work")
	case errors.Is(err, tracer.ErrNoBTF):
		return fail(exitKernel, doctor, "kernel: it does not describe its own types (CONFIG_DEBUG_INFO_BTF)")
	}
	return fail(exitKernel, doctor, "kernel: %w", err)
}

// sessionFailure explains an error with which a session ended. Nil stays nil.
func (w *watch) sessionFailure(err error) error {
	var (
		limit  *session.LimitError
		driver *session.DriverError
	)
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, output.ErrClosed):
		return nil
	case errors.As(err, &limit):
		return fail(exitLimit, "", "limit exceeded: %w", limit)
	case errors.As(err, &driver):
		return driverFailure(driver)
	case errors.Is(err, tracer.ErrTableFull):
		return fail(exitFailed, w.roomHint(), "watch: %w", err)
	case errors.Is(err, tracer.ErrNotPermitted), errors.Is(err, tracer.ErrUnsupported):
		return kernelFailure(err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fail(exitFailed, "df -h", "watch: the output cannot be written: no space left where it goes")
	case errors.Is(err, errAborted):
		return fail(exitFailed, "", "watch: %w", err)
	}
	return fail(exitFailed, "", "watch: %w", err)
}

// driverFailure explains why a container's layer cannot be watched.
func driverFailure(err *session.DriverError) error {
	if err.Driver == resolver.DriverRootfs {
		return fail(exitFailed, "podman run --rootfs DIR:O puts a layer above it", "watch: container %s has no writable layer, it runs in a directory of the host", err.Container)
	}
	return fail(exitFailed, "docker info --format '{{.Driver}}' should say overlay2, overlayfs, fuse-overlayfs, vfs or btrfs", "watch: %w", err)
}

// roomHint is how to make room for more files: the command line with a fourfold
// --max-files.
func (w *watch) roomHint() string {
	if w.flags.maxFiles == mostFiles {
		return "watch fewer containers at a time"
	}
	const flag = "--max-files"
	var line []string
	for i := 0; i < len(w.line); i++ {
		switch word := w.line[i]; {
		case word == flag:
			i++ // its value
		case strings.HasPrefix(word, flag+"="):
		default:
			line = append(line, word)
		}
	}
	behind := slices.Index(line, w.cmd.Name()) + 1
	return "sudo " + shellLine(slices.Insert(line, behind, flag, strconv.Itoa(min(4*w.flags.maxFiles, mostFiles))))
}

// shellLine quotes a command line so that a shell takes it as it is.
func shellLine(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = shellWord(word)
	}
	return strings.Join(quoted, " ")
}

func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return fmt.Sprintf("'%s'", strings.ReplaceAll(s, "'", `'\''`))
}
