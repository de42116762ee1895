package main

import (
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/resolver"
)

// Values of --output.
const (
	outputAuto   = "auto"
	outputLive   = "live"
	outputTable  = "table"
	outputNDJSON = "ndjson"
)

// Values of --log-format.
const (
	logConsole = "console"
	logJSON    = "json"
)

// globalFlags are those of every command.
type globalFlags struct {
	logLevel  string
	logFormat string
	noColor   bool
}

func (g *globalFlags) register(f *pflag.FlagSet) {
	f.Var(newChoice(&g.logLevel, "warn", "trace", "debug", "info", "warn", "error"), "log-level", "least severe log messages that are written to stderr")
	f.Var(newChoice(&g.logFormat, logConsole, logConsole, logJSON), "log-format", "form of log messages")
	f.BoolVar(&g.noColor, "no-color", false, "no colours (nor if NO_COLOR is set)")
}

// watchFlags are the flags of watch.
type watchFlags struct {
	output        string
	interval      time.Duration
	duration      time.Duration
	all           bool
	wait          bool
	includeMounts bool
	path, exclude []string
	group         string
	depth         int
	minGrowth     int64
	runtime       runtimeFlags
	limitGrowth   *int64
	limitRate     *int64
	maxFiles      int
}

const (
	// shortestInterval keeps the work of an interval small beside the interval.
	shortestInterval = 10 * time.Millisecond
	// Fewer files than fewestFiles would save no memory to speak of; the kernel
	// makes no table for more than mostFiles.
	fewestFiles  = 1 << 10
	mostFiles    = 1 << 27
	defaultFiles = 1 << 20
)

func (w *watchFlags) register(f *pflag.FlagSet) {
	f.VarP(newChoice(&w.output, outputAuto, outputAuto, outputLive, outputTable, outputNDJSON), "output", "o", "form of the output; auto is live on a terminal (table if TERM is dumb), ndjson otherwise")
	f.VarP(newSpan(&w.interval, time.Second, shortestInterval, false), "interval", "i", "how often growth is reported")
	f.VarP(newSpan(&w.duration, 0, time.Millisecond, true), "duration", "d", "end after this time; 0 is never")
	f.BoolVar(&w.all, "all", false, "watch every container of the host, those started later, and those of runtimes that come up later, included")
	f.BoolVar(&w.wait, "wait", false, "wait for containers that do not exist yet, and at the start for runtimes that belong here and are down; go on when all are removed")
	f.BoolVar(&w.includeMounts, "include-mounts", false, "report covered paths too (volumes, binds, tmpfs …), with their class")
	f.Var(&globs{&w.path}, "path", "report only paths that match, repeatable")
	f.Var(&globs{&w.exclude}, "exclude", "leave out paths that match, repeatable")
	f.Var(newChoice(&w.group, "", string(output.GroupProcess), string(output.GroupPath), string(output.GroupDir)), "group", "what a row stands for, in live and table output")
	f.Var(newCount(&w.depth, 0, 0, math.MaxInt), "depth", "directory levels that rows tell apart, in live and table output; 0 is all")
	f.Var(&size{&w.minGrowth}, "min-growth", "leave out what grew less in an interval")
	w.runtime.register(f)
	f.Var(&pids{&w.runtime.pids}, "pid", "watch this process and all others on the same root, instead of a container; repeatable")
	f.Var(&cgroups{&w.runtime.cgroups}, "cgroup", "watch the processes of this control group, instead of a container; repeatable")
	f.Var(&limit{value: &w.limitGrowth}, "limit-growth", "end with exit code 5 once a layer grew by more than this")
	f.Var(&limit{value: &w.limitRate, rate: true}, "limit-rate", "end with exit code 5 once a layer grew faster than this")
	f.Var(newCount(&w.maxFiles, defaultFiles, fewestFiles, mostFiles), "max-files", "room for the files and directories of all layers; takes 16 bytes of kernel memory for each, and some 170 more for each that there is")
}

// check refuses flags and arguments that contradict each other.
func (w *watchFlags) check(f *pflag.FlagSet, args []string, terminal bool) error {
	human := f.Changed("group") || f.Changed("depth")
	processes := w.runtime.ofProcesses()
	switch {
	case processes && (w.all || len(args) > 0):
		return usage("layertrace watch --pid PID", "watch: --pid and --cgroup stand instead of containers")
	case processes && w.runtime.name != runtimeAuto && w.runtime.name != resolver.RuntimeNone:
		return usage("--runtime none", "flag --runtime: no runtime is asked for --pid and --cgroup")
	case !processes && !w.all && w.runtime.name == resolver.RuntimeNone && len(args) == 0:
		return usage("layertrace watch --runtime none --all", "watch: neither a process nor a control group given")
	case w.all && len(args) > 0:
		return usage("layertrace watch "+strings.Join(args, " "), "watch: --all and the name of a container contradict each other")
	case !w.all && !processes && len(args) == 0:
		return usage("layertrace watch --all", "watch: no container given")
	case slices.Contains(args, ""):
		return usage("docker ps -a", "watch: the name of a container cannot be empty")
	case w.output == outputLive && !terminal:
		return usage("layertrace watch --output table", "flag --output: live needs a terminal to write to")
	case w.output == outputNDJSON && human:
		return usage("layertrace watch --output table", "flags --group and --depth: ndjson records are never grouped")
	case f.Changed("depth") && w.group == string(output.GroupProcess):
		return usage("--group dir", "flag --depth: processes have no depth")
	}
	if w.runtime.dockerHost != "" {
		return checkHost(w.runtime.dockerHost)
	}
	return nil
}

func checkHost(host string) error {
	u, err := url.Parse(host)
	if err == nil && slices.Contains([]string{"unix", "tcp", "http", "https"}, u.Scheme) && u.Host+u.Path != "" {
		return nil
	}
	return usage("such as unix:///var/run/docker.sock or tcp://127.0.0.1:2376", "flag --docker-host: %q: no address of a Docker daemon", host)
}

// mode is the form of output that is meant.
func (w *watchFlags) mode(terminal bool, getenv func(string) string) string {
	switch {
	case w.output != outputAuto:
		return w.output
	case !terminal:
		return outputNDJSON
	case getenv("TERM") == "dumb":
		return outputTable // it has no cursor to move
	}
	return outputLive
}

// grouping is what rows stand for: levels of directories are asked for by
// --depth alone as well.
func (w *watchFlags) grouping(f *pflag.FlagSet) output.Group {
	if w.group == "" && f.Changed("depth") {
		return output.GroupDir
	}
	return output.Group(w.group)
}

// writer makes the output of a run.
func (w *watchFlags) writer(f *pflag.FlagSet, env *env, mode string, noColor bool) output.Writer {
	if mode == outputNDJSON {
		return output.NewNDJSON(env.stdout)
	}
	_, _, terminal := env.terminal(env.stdout)
	options := output.TableOptions{
		Group:  w.grouping(f),
		Depth:  w.depth,
		Width:  func() int { width, _, _ := env.terminal(env.stdout); return width },
		Height: func() int { _, height, _ := env.terminal(env.stdout); return height },
		Color:  output.ColorAllowed(noColor, terminal, env.getenv),
	}
	if mode == outputLive {
		return output.NewLive(env.stdout, options)
	}
	return output.NewTable(env.stdout, options)
}
