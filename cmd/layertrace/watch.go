package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/session"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
)

// abortGrace is how long an aborted run may take to put the terminal in order.
const abortGrace = 250 * time.Millisecond

// slowAnswer is after how long it is worth a word that there is no answer yet.
const slowAnswer = 10 * time.Second

// watch is one run of the command.
type watch struct {
	env     *env
	global  *globalFlags
	flags   watchFlags
	line    []string // the command line
	cmd     *cobra.Command
	log     zerolog.Logger
	mode    string
	runtime containerRuntime
}

func newWatch(env *env, global *globalFlags, line []string) *cobra.Command {
	w := &watch{env: env, global: global, line: line}
	c := &cobra.Command{
		Use:   "watch [CONTAINER…]",
		Short: "Live: which processes grow which paths of the writable layer",
		Long: `watch shows which processes make which paths of a container's writable layer grow.
A CONTAINER is a name, an id, or the beginning of an id that fits no other; in
Kubernetes its name is NAMESPACE/POD/CONTAINER. The containers of all runtimes that
are found count, unless --runtime names one.

Sizes are binary units, 10MiB, or decimal ones, 10MB. The limits of --limit-growth
and --limit-rate hold for each layer by itself and count what docker ps -s adds up
under overlay2, the files' apparent sizes.`,
		Example: `  # Who fills the layer of my-api?
  sudo layertrace watch my-api

  # Every container of the host, those started later included, into a log pipeline
  sudo layertrace watch --all --output ndjson >> growth.ndjson

  # A build in a sandbox that no runtime made
  sudo layertrace watch --pid "$(pgrep -n bwrap)"

  # By directory, two levels deep, without the noise
  sudo layertrace watch my-api --group dir --depth 2 --min-growth 1MiB

  # Everything that is written below /var, but to the logs, volumes included
  sudo layertrace watch my-api --path '/var/**' --exclude '*.log' --include-mounts

  # In CI: fail if the tests make the layer grow by more than 50 MiB
  sudo layertrace watch --wait it-db --duration 5m --limit-growth 50MiB`,
		ValidArgsFunction: w.complete,
		RunE:              runs(w.run),
	}
	w.cmd = c
	w.flags.register(c.Flags())
	w.completeFlags()
	return c
}

// run does one thing after the other that may fail for the user's sake, the
// cheapest to mend first, and then hands over to the session.
func (w *watch) run(c *cobra.Command, args []string) error {
	_, _, terminal := w.env.terminal(w.env.stdout)
	if err := w.flags.check(c.Flags(), args, terminal); err != nil {
		return err
	}
	if w.env.euid != 0 {
		return fail(exitKernel, "sudo "+shellLine(w.line), "watch: only root may look into the kernel")
	}
	if _, err := w.env.hostRoot(); err != nil {
		return viewFailure(err, w.line)
	}
	spareMemory()
	_, _, errTerminal := w.env.terminal(w.env.stderr)
	w.log = newLogger(w.env.stderr, w.global.logLevel, w.global.logFormat,
		output.ColorAllowed(w.global.noColor, errTerminal, w.env.getenv))
	w.mode = w.flags.mode(terminal, w.env.getenv)
	if w.mode == outputNDJSON && (c.Flags().Changed("group") || c.Flags().Changed("depth")) {
		w.log.Warn().Msg("--group and --depth have no effect on ndjson")
	}

	ctx, abort := context.WithCancelCause(c.Context())
	starting, started := context.WithCancel(ctx)
	stop := make(chan string, 3)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer abort(nil)
	helpers.Go(func() { w.env.handleSignals(ctx, w.mode == outputNDJSON, stop, started, abort) })
	helpers.Go(func() { w.watchReader(ctx, stop, started) })

	err := w.abortable(ctx, func() error { return w.watch(ctx, starting, stop, args) })
	if starting.Err() != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		return nil // stopped before there was anything to report
	}
	return err
}

// watchReader ends the run, or its start-up, when nobody reads the output any more.
func (w *watch) watchReader(ctx context.Context, stop chan<- string, started context.CancelFunc) {
	gone, err := awaitNoReader(w.env.stdout, ctx.Done())
	if err != nil {
		w.log.Debug().Err(err).Msg("cannot see whether the output is read")
	}
	if gone {
		started()
		tell(stop, record.EndedOutputClosed)
	}
}

// abortable runs f, but does not wait for it once ctx has ended: it may be stuck
// in a write to an output that nobody reads on, or in detaching from the kernel,
// which takes seconds on a slow machine. The end of the process ends both.
func (w *watch) abortable(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-w.env.clock.After(abortGrace):
		return w.sessionFailure(context.Cause(ctx))
	}
}

// watch sets up kernel side, runtime and output, in the order in which they are
// needed, and runs the session. starting ends with the first signal.
func (w *watch) watch(ctx, starting context.Context, stop chan string, args []string) error {
	var err error
	choice := runtimeChoice{runtimeFlags: w.flags.runtime, getenv: w.env.getenv}
	choice.ended = func() { tell(stop, record.EndedContainersGone) }
	if w.runtime, err = w.env.newRuntime(starting, choice, w.log); err != nil {
		return w.runtimeFailure(err)
	}
	defer w.runtime.Close()
	selection, err := w.find(starting, args)
	wait := w.flags.wait && mayCome(err)
	if err != nil && !wait {
		return w.findFailure(err)
	}

	k, err := w.openKernel(starting)
	if err != nil {
		return err
	}
	defer k.Close()
	returnMemory()
	if wait {
		if selection, err = w.findLater(starting, args); err != nil {
			return w.findFailure(err)
		}
	}
	startTime, err := w.env.startTime()
	if err != nil {
		return err
	}
	out := w.flags.writer(w.cmd.Flags(), w.env, w.mode, w.global.noColor)
	if terminal, ok := out.(io.Closer); ok {
		defer terminal.Close()
	}
	cfg := w.sessionConfig(k, out, selection, startTime)
	if alarm, err := w.env.newLogAlarm(); err == nil {
		defer alarm.Close()
		cfg.LogAlarm = alarm
	} else {
		w.log.Debug().Err(err).Msg("logs are looked at in each interval")
	}
	s, err := session.New(cfg)
	if err != nil {
		return usage("layertrace watch --help", "watch: %w", err)
	}

	return w.sessionFailure(s.Run(ctx, stop))
}

// find looks the containers up, so that what cannot work fails before anything
// is attached.
func (w *watch) find(ctx context.Context, refs []string) (resolver.Selection, error) {
	defer w.sayIfSlow()()
	if w.flags.runtime.ofProcesses() {
		return resolver.Selection{All: true}, w.checkProcesses(ctx)
	}
	if w.flags.all {
		_, err := w.runtime.Names(ctx)
		return resolver.Selection{All: true}, err
	}
	var sel resolver.Selection
	for _, ref := range refs {
		c, err := w.runtime.Find(ctx, ref)
		var missing *resolver.NotFoundError
		switch {
		case w.flags.wait && errors.As(err, &missing):
			sel.Refs = append(sel.Refs, ref)
			continue
		case err != nil:
			return sel, err
		}
		if err := session.Watchable(&c); err != nil {
			return sel, w.sessionFailure(err)
		}
		if ref != c.Name {
			// The beginning of an id may fit a further container soon.
			ref = c.ID
		}
		sel.Refs = append(sel.Refs, ref)
	}
	return sel, nil
}

// sayIfSlow says so if done is not called soon.
func (w *watch) sayIfSlow() (done func()) {
	answered, said := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(said)
		select {
		case <-w.env.clock.After(slowAnswer):
			w.log.Warn().Msg("container runtime takes long to answer")
		case <-answered:
		}
	}()
	return func() {
		close(answered)
		<-said
	}
}

// findLater looks the containers up once the runtime can be reached.
func (w *watch) findLater(ctx context.Context, refs []string) (resolver.Selection, error) {
	const longest = 2 * time.Second
	said := false
	for pause := longest / 16; ; pause = min(2*pause, longest) {
		sel, err := w.find(ctx, refs)
		switch {
		case !mayCome(err):
			if said && err == nil {
				w.log.Warn().Msg("container runtime is there")
			}
			return sel, err
		case !said:
			said = true
			w.log.Warn().Err(err).Msg("container runtime unreachable, waiting for it")
		}
		select {
		case <-w.env.clock.After(pause):
		case <-ctx.Done():
			return sel, ctx.Err()
		}
	}
}

// mayCome tells whether an error means that there is no runtime, but may be one
// later.
func mayCome(err error) bool {
	return errors.Is(err, resolver.ErrUnreachable) && !errors.Is(err, fs.ErrPermission)
}

// findFailure explains an error of find. Nil stays nil.
func (w *watch) findFailure(err error) error {
	var f *failure
	if errors.As(err, &f) {
		return err
	}
	return w.runtimeFailure(err)
}

// checkProcesses makes sure that what --pid and --cgroup name can be watched.
func (w *watch) checkProcesses(ctx context.Context) error {
	found, err := w.runtime.List(ctx)
	if err != nil {
		return w.runtimeFailure(err)
	}
	for i := range found {
		if err := session.Watchable(&found[i]); err != nil {
			return w.sessionFailure(err)
		}
	}
	return nil
}

// openKernel loads and attaches the kernel side. The overlay module may not be
// loaded before the first container runs, so it is loaded if need be.
func (w *watch) openKernel(ctx context.Context) (kernel, error) {
	cfg := tracer.Config{
		Log:              w.log.With().Str("component", "tracer").Logger(),
		IncludeCovered:   w.flags.includeMounts,
		CgroupController: w.runtime.CgroupController(),
		MaxFiles:         uint32(w.flags.maxFiles),
	}
	k, err := w.env.newKernel(cfg)
	if errors.Is(err, tracer.ErrNoOverlay) {
		if loadErr := w.env.loadModule(ctx, "overlay"); loadErr != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			w.log.Info().Err(loadErr).Msg("overlay module not loaded")
			return nil, kernelFailure(err)
		}
		k, err = w.env.newKernel(cfg)
	}
	if err != nil {
		return nil, kernelFailure(err)
	}
	w.log.Info().Int("hooks", len(k.Hooks())).Strs("missing", k.Coverage()).Msg("attached")
	for _, h := range k.Hooks() {
		w.log.Debug().Str("kind", h.Kind).Str("target", h.Target).Str("program", h.Name).Msg("hook attached")
	}
	return k, nil
}

func (w *watch) sessionConfig(k kernel, out output.Writer, sel resolver.Selection, startTime func(uint64) time.Time) session.Config {
	about := record.Session{Version: readBuild().Version, Host: w.env.hostname(), Kernel: w.env.kernelRelease()}
	about.Command, about.CommandB64 = record.Texts(w.line)
	return session.Config{
		Log:            w.log.With().Str("component", "session").Logger(),
		Clock:          w.env.clock,
		Kernel:         k,
		Containers:     w.runtime,
		Output:         out,
		StartTime:      startTime,
		About:          about,
		Select:         sel,
		Keep:           w.flags.all || w.flags.wait || len(w.flags.runtime.cgroups) > 0,
		RoomHint:       w.roomHint(),
		Interval:       w.flags.interval,
		Duration:       w.flags.duration,
		Limits:         session.Limits{Growth: w.flags.limitGrowth, Rate: w.flags.limitRate},
		IncludeCovered: w.flags.includeMounts,
		Include:        w.flags.path,
		Exclude:        w.flags.exclude,
		MinGrowth:      w.flags.minGrowth,
	}
}
