package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/session"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
)

// doctorTimeout bounds the questions to the container runtime.
const doctorTimeout = 5 * time.Second

// Areas of checks.
const (
	areaKernel = "kernel"
	areaDocker = "docker"
	areaOthers = "runtimes" // the other ones
)

// check is one line of the diagnosis.
type check struct {
	Area     string `json:"area"`
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"`
	Detail   string `json:"detail,omitempty"`
	Hint     string `json:"hint,omitempty"`
}

// diagnosis is what doctor finds.
type diagnosis struct {
	OK       bool          `json:"ok"` // watch would work
	Checks   []check       `json:"checks"`
	Hooks    []record.Hook `json:"hooks"`
	Coverage string        `json:"coverage,omitempty"` // full, partial; empty if nothing can be attached
	Reasons  []string      `json:"coverage_reasons,omitempty"`
}

func newDoctor(env *env, global *globalFlags) *cobra.Command {
	var (
		asJSON bool
		host   string
	)
	c := &cobra.Command{
		Use:   "doctor",
		Short: "What this kernel, these privileges and this Docker allow",
		Long: `doctor checks whether watch would work here, says why not, and gives the command
that mends it. It attaches the hooks for a moment to see that they can be, and
changes nothing. It exits with 0 if watch would work, with 4 if the kernel or the
privileges do not allow it or the overlay module is not loaded yet, which watch does
by itself, and with 3 if neither Docker nor a container of containerd or podman is
found; watch --pid and --cgroup work without.`,
		Example: `  sudo layertrace doctor
  sudo layertrace doctor --json | jq '.checks[] | select(.ok | not)'`,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: runs(func(c *cobra.Command, _ []string) error {
			if host != "" {
				if err := checkHost(host); err != nil {
					return err
				}
			}
			d := diagnose(c.Context(), env, host)
			if err := d.write(env, asJSON, global.noColor); err != nil {
				return err
			}
			return d.failure()
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as a JSON object")
	c.Flags().StringVar(&host, "docker-host", "", "address of the Docker daemon (default $DOCKER_HOST, then the standard socket)")
	return c
}

// diagnose runs all checks.
func diagnose(ctx context.Context, env *env, host string) *diagnosis {
	d := &diagnosis{Hooks: []record.Hook{}}
	d.kernel(env)
	d.docker(ctx, env, host, !d.others(ctx, env))
	d.OK = !slices.ContainsFunc(d.Checks, func(c check) bool { return c.Required && !c.OK })
	return d
}

func (d *diagnosis) add(c check) { d.Checks = append(d.Checks, c) }

// missing reports whether a required check of the area failed.
func (d *diagnosis) missing(area string) bool {
	return slices.ContainsFunc(d.Checks, func(c check) bool { return c.Area == area && c.Required && !c.OK })
}

// kernel asks the tracer, and if it sees no obstacle has it attach.
func (d *diagnosis) kernel(env *env) {
	for _, c := range env.checks() {
		d.add(check{Area: areaKernel, Name: c.Name, OK: c.OK, Required: c.Required, Detail: c.Detail, Hint: c.Hint})
	}
	d.view(env)
	if d.missing(areaKernel) {
		// What would be attached may be known even if it cannot be.
		if planned, err := env.plannedHooks(); err == nil {
			d.Hooks = session.HookRecords(planned)
		}
		return
	}
	k, err := env.newKernel(tracer.Config{})
	if err != nil {
		f := failureOf(kernelFailure(err))
		hint := f.hint
		if strings.HasSuffix(hint, "doctor") {
			hint = "" // this is it
		}
		d.add(check{Area: areaKernel, Name: "attach hooks", Required: true,
			Detail: strings.TrimPrefix(f.Error(), "kernel: "), Hint: hint})
		return
	}
	defer k.Close()
	d.Hooks, d.Reasons, d.Coverage = session.HookRecords(k.Hooks()), k.Coverage(), "full"
	if len(d.Reasons) > 0 {
		d.Coverage = "partial"
	}
	d.add(check{Area: areaKernel, Name: "attach hooks", OK: true, Required: true,
		Detail: fmt.Sprintf("%d attached, coverage is %s", len(d.Hooks), d.Coverage)})
}

// view looks whether the host can be seen, from a container if need be.
func (d *diagnosis) view(env *env) {
	root, err := env.hostRoot()
	c := check{Area: areaKernel, Name: "view of the host", OK: err == nil, Required: true, Detail: "its own"}
	switch {
	case err != nil:
		f := failureOf(viewFailure(err, []string{"layertrace", "doctor"}))
		c.Detail, c.Hint = strings.TrimPrefix(f.Error(), "host: "), f.hint
	case root != "":
		c.Detail = "from a container, through " + root
	}
	d.add(c)
}

// docker asks the daemon who it is and how it stores layers.
func (d *diagnosis) docker(ctx context.Context, env *env, flag string, required bool) {
	host := dockerHost(flag, env.getenv)
	const daemon = "daemon"
	unreachable := func(err error) {
		f := failureOf(runtimeFailure(err, host, "sudo layertrace doctor"))
		d.add(check{Area: areaDocker, Name: daemon, Required: required,
			Detail: strings.TrimPrefix(f.Error(), "docker: "), Hint: f.hint})
	}
	info, controller, err := ask(ctx, env, runtimeFlags{name: resolver.RuntimeDocker, dockerHost: flag})
	if err != nil {
		unreachable(err)
		return
	}
	d.add(check{Area: areaDocker, Name: daemon, OK: true, Required: required,
		Detail: fmt.Sprintf("version %s (API %s) at %s, %d containers", info.Version, info.APIVersion, host, info.Containers)})
	d.driver(info.Driver)
	if info.Rootless {
		d.add(check{Area: areaDocker, Name: "rootful", Detail: "the daemon runs rootless: its layers are found only if its processes are seen from here"})
	}
	c := check{Area: areaDocker, Name: "control groups", OK: true, Detail: "cgroup v2"}
	if controller != "" {
		c.Detail = "cgroup v1, by the hierarchy of " + controller
	}
	d.add(c)
}

// ask makes the engine of one runtime and asks what it is. controller is the cgroup
// v1 controller by which containers are told apart; empty with v2.
func ask(ctx context.Context, env *env, flags runtimeFlags) (info resolver.EngineInfo, controller string, err error) {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	runtime, err := env.newRuntime(ctx, runtimeChoice{runtimeFlags: flags, getenv: env.getenv}, newLogger(io.Discard, "error", logJSON, false))
	if err != nil {
		return info, "", err
	}
	defer runtime.Close()
	infos, err := runtime.Info(ctx)
	if err != nil {
		return info, "", err
	}
	return infos[0], runtime.CgroupController(), nil
}

// others looks for the other runtimes and reports whether there is one. None of
// them has to be there.
func (d *diagnosis) others(ctx context.Context, env *env) bool {
	found := false
	for _, name := range []string{resolver.RuntimeContainerd, resolver.RuntimePodman} {
		info, _, err := ask(ctx, env, runtimeFlags{name: name})
		switch {
		case errors.Is(err, fs.ErrNotExist):
			d.add(check{Area: areaOthers, Name: name, OK: true, Detail: "not here"})
		case err != nil:
			f := failureOf(runtimeFailure(err, "", ""))
			d.add(check{Area: areaOthers, Name: name, Detail: f.Error(), Hint: "systemctl status " + name})
		default:
			found = found || info.Containers > 0
			detail := fmt.Sprintf("%d containers at %s", info.Containers, strings.TrimPrefix(info.Host, "unix://"))
			if info.Version != "" {
				detail = "version " + info.Version + ", " + detail
			}
			d.add(check{Area: areaOthers, Name: name, OK: true, Detail: detail})
		}
	}
	return found
}

// driver says whether layers are where they can be watched. It may do so for some containers
// and not for others, after a change of drivers, so it hinders nothing.
func (d *diagnosis) driver(name string) {
	c := check{Area: areaDocker, Name: "storage driver", OK: true, Detail: name}
	switch name {
	case "overlay2", "overlayfs", "overlay":
	case "vfs", "btrfs", "native":
		c.Detail = name + ": each layer has its image in it, and counts as a whole"
	case "fuse-overlayfs":
		c.Detail = name + ": processes of a container are not told apart, since fuse-overlayfs writes for them"
	case "zfs", "devicemapper", "aufs":
		c.OK = false
		c.Detail = name + " is not supported yet: its layers are neither overlays nor directories that containers write themselves"
		c.Hint = `set "storage-driver": "overlay2" in /etc/docker/daemon.json, then: sudo systemctl restart docker`
	}
	d.add(c)
}

// failure is the exit code that the diagnosis stands for.
func (d *diagnosis) failure() error {
	switch {
	case d.missing(areaKernel):
		return d.fail(exitKernel, areaKernel)
	case d.missing(areaDocker):
		return d.fail(exitRuntime, areaDocker)
	}
	return nil
}

func (d *diagnosis) fail(code int, area string) error {
	for _, c := range d.Checks {
		if c.Area == area && c.Required && !c.OK {
			return fail(code, c.Hint, "%s: %s: %w", area, c.Name, errors.New(c.Detail))
		}
	}
	return nil
}

// write prints the diagnosis.
func (d *diagnosis) write(env *env, asJSON, noColor bool) error {
	if asJSON {
		return writeJSON(env.stdout, d)
	}
	_, _, terminal := env.terminal(env.stdout)
	paint := output.ColorAllowed(noColor, terminal, env.getenv)
	var b strings.Builder
	for _, area := range []string{areaKernel, areaDocker, areaOthers} {
		title := map[string]string{areaKernel: "Kernel and privileges", areaDocker: "Docker", areaOthers: "Other runtimes"}[area]
		b.WriteString(title + "\n")
		for _, c := range d.Checks {
			if c.Area == area {
				c.write(&b, paint)
			}
		}
		b.WriteString("\n")
	}
	d.writeHooks(&b)
	_, err := io.WriteString(env.stdout, b.String())
	return err
}

func (c *check) write(b *strings.Builder, paint bool) {
	mark, color := "✓", "\x1b[32m"
	switch {
	case !c.OK && c.Required:
		mark, color = "✗", "\x1b[31m"
	case !c.OK:
		mark, color = "!", "\x1b[33m"
	}
	if paint {
		mark = color + mark + "\x1b[0m"
	}
	line := fmt.Sprintf("  %s %-18s %s", mark, output.Printable(c.Name), output.Printable(c.Detail))
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	if c.Hint != "" && !c.OK {
		fmt.Fprintf(b, "      hint: %s\n", output.Printable(c.Hint))
	}
}

func (d *diagnosis) writeHooks(b *strings.Builder) {
	switch {
	case len(d.Hooks) == 0:
		b.WriteString("Hooks: not known as long as something above is missing\n")
		return
	case d.Coverage == "":
		b.WriteString("Hooks that watch would use\n")
	default:
		fmt.Fprintf(b, "Hooks that watch would use (coverage: %s)\n", d.Coverage)
	}
	for _, reason := range d.Reasons {
		fmt.Fprintf(b, "  ! %s\n", output.Printable(reason))
	}
	for _, h := range d.Hooks {
		fmt.Fprintf(b, "  %-9s %-32s %s\n", h.Kind, h.Target, h.Name)
	}
}
