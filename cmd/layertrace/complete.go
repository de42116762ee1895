package main

import (
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

// completeTimeout is how long a person who pressed tab will wait.
const completeTimeout = 500 * time.Millisecond

// complete lists the names of containers that are not on the command line yet.
func (w *watch) complete(c *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return completeNames(c, w.env, w.flags.runtime, given)
}

// completeNames lists the names of containers that are not given yet. Where that
// does not work there are none: a shell has no place for errors.
func completeNames(c *cobra.Command, env *env, flags runtimeFlags, given []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	runtime, err := env.newRuntime(c.Context(), runtimeChoice{runtimeFlags: flags, getenv: env.getenv}, zerolog.Nop())
	if err != nil {
		return nil, none
	}
	defer runtime.Close()
	ctx, cancel := context.WithTimeout(c.Context(), completeTimeout)
	defer cancel()
	listed, _ := runtime.Names(ctx)
	var names []cobra.Completion
	for _, l := range listed {
		if l.Name != "" && !slices.Contains(given, l.Name) {
			names = append(names, cobra.CompletionWithDesc(l.Name, string(l.State)))
		}
	}
	slices.Sort(names)
	return names, none
}

// completeFlags offers the allowed words of flags that take one.
func (w *watch) completeFlags() {
	for _, name := range []string{"output", "group", "runtime"} {
		flag, ok := w.cmd.Flags().Lookup(name).Value.(*choice)
		if !ok {
			continue
		}
		// The only error is that of a flag that does not exist.
		_ = w.cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(flag.allowed, cobra.ShellCompDirectiveNoFileComp))
	}
}
