package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
)

func TestDoctor(t *testing.T) {
	broken := []tracer.Check{
		{Name: "kernel", OK: true, Required: true, Detail: "Linux 6.1"},
		{Name: "BTF", Required: true, Detail: "not there", Hint: "use a kernel with CONFIG_DEBUG_INFO_BTF"},
		{Name: "quota", Detail: "not exact on xfs"},
	}
	tests := []struct {
		name   string
		set    func(*world)
		code   int
		stderr []string
		stdout []string // lines that must be there
	}{
		{
			name: "all is well", code: exitDone,
			stdout: []string{"  ✓ BTF                there", "  ✓ attach hooks       1 attached, coverage is full",
				"  ✓ daemon             version 29.0.0 (API 1.51) at unix:///var/run/docker.sock, 0 containers",
				"  ✓ storage driver     overlay2", "  fexit     vfs_iter_write                   write_exit"},
		},
		{
			name: "kernel", code: exitKernel, set: func(w *world) { w.env.checks = func() []tracer.Check { return broken } },
			stderr: []string{"layertrace: kernel: BTF: not there", "hint: use a kernel with CONFIG_DEBUG_INFO_BTF"},
			stdout: []string{"  ✓ kernel             Linux 6.1", "  ✗ BTF                not there",
				"      hint: use a kernel with CONFIG_DEBUG_INFO_BTF", "  ! quota              not exact on xfs", "Hooks that watch would use"},
		},
		{
			name: "attaching fails", code: exitKernel, set: func(w *world) { w.kernelErrs = []error{fmt.Errorf("attaching: %w", tracer.ErrUnsupported)} },
			stderr: []string{"layertrace: kernel: attach hooks: attaching: the kernel does not support it"},
		},
		{
			name: "in a container", code: exitKernel,
			set: func(w *world) { w.view = &resolver.ViewError{Missing: "--privileged", Cause: "it may not"} },
			stderr: []string{"layertrace: kernel: view of the host: it cannot be seen without --privileged: it may not",
				"hint: docker run --rm -it --privileged --pid=host --cgroupns=host -v /var/run/docker.sock:/var/run/docker.sock layertrace doctor"},
			stdout: []string{"  ✗ view of the host   it cannot be seen without --privileged: it may not"},
		},
		{
			name: "docker", code: exitRuntime, set: func(w *world) { w.containers.Err = unreachable(syscall.ECONNREFUSED) },
			stderr: []string{"layertrace: docker: daemon: cannot be reached: no daemon listens at /var/run/docker.sock", "hint: sudo systemctl start docker"},
			stdout: []string{"  ✗ daemon             cannot be reached: no daemon listens at /var/run/docker.sock", "      hint: sudo systemctl start docker"},
		},
		{
			name: "podman, no docker", code: exitDone,
			set: func(w *world) {
				other, docker := sessiontest.NewContainers(sessiontest.NewContainer(w.T, "api", nil)), w.env.newRuntime
				w.containers.Err = unreachable(syscall.ENOENT)
				w.env.newRuntime = func(ctx context.Context, choice runtimeChoice, log zerolog.Logger) (containerRuntime, error) {
					if choice.name == resolver.RuntimePodman {
						return other, nil
					}
					return docker(ctx, choice, log)
				}
			},
			stdout: []string{"  ! daemon             cannot be reached: there is no socket /var/run/docker.sock", "  ✓ containerd         not here",
				"  ✓ podman             version 29.0.0, 1 containers at"},
		},
		{
			name: "both", code: exitKernel,
			set: func(w *world) {
				w.env.checks = func() []tracer.Check { return broken }
				w.containers.Err = unreachable(syscall.ENOENT)
			},
			stderr: []string{"layertrace: kernel: BTF: not there", "hint: use a kernel with CONFIG_DEBUG_INFO_BTF"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.set != nil {
				test.set(w)
			}
			w.expect(w.run("doctor"), test.code, test.stderr...)
			for _, line := range test.stdout {
				if !strings.Contains(w.stdout.String(), line+"\n") && !strings.Contains(w.stdout.String(), line+" (") {
					t.Errorf("no line %q in:\n%s", line, w.stdout)
				}
			}

			w = newWorld(t)
			if test.set != nil {
				test.set(w)
			}
			code := w.run("doctor", "--json")
			var d diagnosis
			if err := json.Unmarshal([]byte(w.stdout.String()), &d); err != nil || code != test.code || d.OK != (test.code == exitDone) {
				t.Errorf("as JSON: exit code %d, ok %v, %v", code, d.OK, err)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	w := newWorld(t)
	w.expect(w.run("version"), exitDone)
	if got := w.stdout.String(); !strings.HasPrefix(got, "layertrace ") || !strings.Contains(got, "\nkernel 6.1.0\n") {
		t.Errorf("stdout: %s", got)
	}
	w = newWorld(t)
	w.expect(w.run("version", "--json"), exitDone)
	var b build
	if err := json.Unmarshal([]byte(w.stdout.String()), &b); err != nil || b.Kernel != "6.1.0" || b.Go == "" || b.Version == "" || b.Commit == "" {
		t.Errorf("as JSON: %+v, %v", b, err)
	}
}
