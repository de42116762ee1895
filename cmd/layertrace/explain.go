package main

import (
	"errors"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/explain"
	"github.com/layertrace/layertrace/internal/inside"
	"github.com/layertrace/layertrace/internal/output"
)

// Values of explain's --output.
const (
	outputText = "text"
	outputJSON = "json"
)

// explaining is one run of the command.
type explaining struct {
	env     *env
	global  *globalFlags
	line    []string // the command line
	output  string
	runtime runtimeFlags
}

func newExplain(env *env, global *globalFlags, line []string) *cobra.Command {
	x := &explaining{env: env, global: global, line: line}
	c := &cobra.Command{
		Use:   "explain CONTAINER PATH",
		Short: "Where the bytes of a path are, and what becomes of them",
		Long: `explain says whether a path of a container is in its writable layer or covered by a
mount, and by which; how large it is there; and what becomes of it on docker stop,
restart, rm, commit, and when the container is made anew. The container may run or
not; nothing is run in it.

PATH is one inside the container and taken from its root. Symlinks are followed as
the container's processes would follow them. A path that does not exist is answered
for the place where it would be made.`,
		Example: `  # Does this survive docker rm?
  sudo layertrace explain my-api /var/lib/my-api/state.db

  # For a script
  sudo layertrace explain my-api /data -o json | jq -r .fate.rm.outcome`,
		ValidArgsFunction: func(c *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(given) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp // the path is none of the host
			}
			return completeNames(c, env, x.runtime, nil)
		},
		RunE: runs(x.run),
	}
	form := newChoice(&x.output, outputText, outputText, outputJSON)
	c.Flags().VarP(form, "output", "o", "form of the output")
	x.runtime.register(c.Flags())
	// The only error is that of a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(form.allowed, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// check refuses command lines that can not be meant.
func (x *explaining) check(args []string) error {
	switch {
	case len(args) == 0:
		return usage("layertrace explain CONTAINER PATH", "explain: it needs a container and a path")
	case len(args) == 1:
		return usage("layertrace explain "+shellWord(args[0])+" PATH", "explain: it needs a container and a path")
	case len(args) > 2:
		return usage("layertrace explain "+shellLine(args[:2]), "explain: it takes one container and one path, but got %q as well", args[2])
	case args[0] == "":
		return usage("docker ps -a", "explain: the name of a container cannot be empty")
	case args[1] == "":
		return usage("layertrace explain "+shellWord(args[0])+" /", "explain: the path cannot be empty")
	}
	if x.runtime.dockerHost != "" {
		return checkHost(x.runtime.dockerHost)
	}
	return nil
}

func (x *explaining) run(c *cobra.Command, args []string) error {
	if err := x.check(args); err != nil {
		return err
	}
	if x.env.euid != 0 {
		return fail(exitKernel, "sudo "+shellLine(x.line), "explain: only root may look into layers and mounts")
	}
	if root, err := x.env.hostRoot(); err != nil || root != "" {
		return fail(exitKernel, "run it on the host itself", "explain: it cannot follow paths of the host from a container")
	}
	_, _, errTerminal := x.env.terminal(x.env.stderr)
	log := newLogger(x.env.stderr, x.global.logLevel, x.global.logFormat,
		output.ColorAllowed(x.global.noColor, errTerminal, x.env.getenv))
	runtime, err := x.env.newRuntime(c.Context(), runtimeChoice{runtimeFlags: x.runtime, getenv: x.env.getenv}, log)
	if err != nil {
		return x.runtimeFailure(err)
	}
	defer runtime.Close()
	found, err := runtime.Find(c.Context(), args[0])
	if err != nil {
		return x.runtimeFailure(err)
	}
	answer, err := explain.Explain(c.Context(), explain.Config{
		Container: found, Path: args[1], Now: x.env.clock.Now(), HostPath: runtime.HostPath,
	})
	if err != nil {
		return explainFailure(args[1], err)
	}
	return x.write(answer)
}

func (x *explaining) write(a *explain.Answer) error {
	var err error
	if x.output == outputJSON {
		err = writeJSON(x.env.stdout, a)
	} else {
		_, _, terminal := x.env.terminal(x.env.stdout)
		_, err = io.WriteString(x.env.stdout, a.Text(output.ColorAllowed(x.global.noColor, terminal, x.env.getenv)))
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil // nobody reads on
	}
	return err
}

func (x *explaining) runtimeFailure(err error) error {
	return lookupFailure(err, dockerHost(x.runtime.dockerHost, x.env.getenv), x.line, func(string) string {
		return x.runtime.listCommand() + " lists what there is"
	})
}

// explainFailure says why a path has no answer.
func explainFailure(path string, err error) error {
	var (
		notDir *inside.NotDirError
		loop   *inside.LoopError
	)
	switch {
	case errors.As(err, &notDir):
		return fail(exitFailed, "", "path %s: %w", path, notDir)
	case errors.As(err, &loop):
		return fail(exitFailed, "", "path %s: %w", path, loop)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return fail(exitFailed, "", "path %.60s…: a name in it is too long to exist", path)
	}
	return fail(exitFailed, "", "explain: %w", err)
}
