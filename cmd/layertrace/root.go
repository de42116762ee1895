package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot builds the tree of commands. It is made anew for each run, so that
// nothing is global.
func newRoot(env *env, args []string) *cobra.Command {
	global := &globalFlags{}
	line := append([]string{"layertrace"}, args...)
	root := &cobra.Command{
		Use:   "layertrace",
		Short: "Which process makes which path of a container's writable layer grow",
		Long: `layertrace shows, live and to the byte, which processes make which paths of a
container's writable layer grow: what dies with the container and fills the host's
disk while it lives. It needs root on a Linux host.`,
		Example: `  sudo layertrace watch my-api
  sudo layertrace watch --all --output ndjson >> growth.ndjson
  sudo layertrace explain my-api /var/log/app.log
  sudo layertrace doctor`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          noCommand,
	}
	root.SetArgs(args)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetUsageTemplate(usageTemplate)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return flagError(c.Flags(), err) })
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	global.register(root.PersistentFlags())
	root.AddCommand(newWatch(env, global, line), newExplain(env, global, line), newDoctor(env, global), newVersion(env))
	root.SetHelpCommand(newHelp(root))
	refuseUnknownShells(root, args)
	return root
}

// refuseUnknownShells makes an error of what cobra's completion command answers
// with its help text.
func refuseUnknownShells(root *cobra.Command, args []string) {
	root.InitDefaultCompletionCmd(args...)
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			return usage("layertrace completion --help", "completion: it needs one of %s", strings.Join(commandNames(c), ", "))
		}
	}
}

// noCommand says what a command line without a (known) command lacks.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage("layertrace --help", "no command given: one of %s", strings.Join(commandNames(c), ", "))
	}
	hint := "layertrace --help"
	if name := nearest(args[0], commandNames(c)); name != "" {
		hint = "did you mean layertrace " + name + "?"
	}
	return usage(hint, "command %s: no such command", args[0])
}

func commandNames(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// newHelp is cobra's help command, but for the form of its errors.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Help about a command",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || c == nil || len(rest) > 0 {
				return noCommand(root, args)
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// runs adapts a command's function: whatever it fails with is a failure of its
// own, not one of the command line.
func runs(f func(c *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error { return commandError(f(c, args)) }
}

// noArgs refuses arguments.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage(c.CommandPath()+" --help", "%s: it takes no arguments, but got %s", c.Name(), fmt.Sprintf("%q", args[0]))
}

// usageTemplate ends with the examples: they are what is on the screen after a
// long list of flags.
const usageTemplate = `Usage:{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{else}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if or .IsAvailableCommand (eq .Name "help")}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Global flags:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}
`
