package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var (
		missing   *resolver.NotFoundError
		ambiguous *resolver.AmbiguousError
	)
	switch {
	case errors.As(err, &missing):
		hint := "layertrace watch --wait " + shellWord(missing.Name) + " waits for it; docker ps -a lists what there is"
		if missing.Nearest != "" {
			hint = "did you mean " + shellWord(missing.Nearest) + "?"
		}
		return fail(exitRuntime, hint, "container %s: no such container", missing.Name)
	case errors.As(err, &ambiguous):
		return fail(exitRuntime, "give more digits of the id, or the name",
			"container %s: several ids begin so: %s", ambiguous.Prefix, strings.Join(shortIDs(ambiguous), ", "))
	}
	return dockerFailure(err, dockerHost(w.flags.dockerHost, w.env.getenv), "sudo "+shellLine(w.line))
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
		return fail(exitFailed, "docker info --format '{{.Driver}}' should say overlay2 or overlayfs", "watch: %w", driver)
	case errors.Is(err, tracer.ErrTableFull):
		return fail(exitFailed, "watch fewer containers at a time", "watch: %w", err)
	case errors.Is(err, tracer.ErrNotPermitted), errors.Is(err, tracer.ErrUnsupported):
		return kernelFailure(err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fail(exitFailed, "df -h", "watch: the output cannot be written: no space left where it goes")
	case errors.Is(err, errAborted):
		return fail(exitFailed, "", "watch: %w", err)
	}
	return fail(exitFailed, "", "watch: %w", err)
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
