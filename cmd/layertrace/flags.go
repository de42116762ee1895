package main

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/internal/output"
)

// hinted is an error of a flag's value that knows what to write instead.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// choice is a flag that takes one of a few words.
type choice struct {
	value   *string
	allowed []string
}

func newChoice(p *string, value string, allowed ...string) *choice {
	*p = value
	return &choice{value: p, allowed: allowed}
}

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return strings.Join(c.allowed, "|") }

func (c *choice) Set(s string) error {
	if slices.Contains(c.allowed, s) {
		*c.value = s
		return nil
	}
	return &hinted{errors.New("not one of the allowed values"), "allowed: " + strings.Join(c.allowed, ", ")}
}

// span is a flag that takes a length of time.
type span struct {
	value *time.Duration
	least time.Duration // the shortest one that makes sense, beside 0 if zero
	zero  bool
}

func newSpan(p *time.Duration, value, least time.Duration, zero bool) *span {
	*p = value
	return &span{value: p, least: least, zero: zero}
}

func (d *span) String() string {
	if *d.value == 0 {
		return "0"
	}
	return d.value.String()
}

func (*span) Type() string { return "duration" }

func (d *span) Set(s string) error {
	v, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return &hinted{errors.New("no length of time"), "a number and a unit, such as 500ms, 1s, 5m or 1h"}
	case v == 0 && d.zero, v >= d.least:
		*d.value = v
		return nil
	}
	return &hinted{errors.New("too short"), fmt.Sprintf("at least %s", d.least)}
}

// count is a flag that takes a number within bounds, of which the upper one may be
// math.MaxInt for none.
type count struct {
	value       *int
	least, most int
}

func newCount(p *int, value, least, most int) *count {
	*p = value
	return &count{value: p, least: least, most: most}
}

func (n *count) String() string { return strconv.Itoa(*n.value) }
func (*count) Type() string     { return "number" }

func (n *count) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err == nil && v >= n.least && v <= n.most {
		*n.value = v
		return nil
	}
	hint := fmt.Sprintf("%d to %d", n.least, n.most)
	if n.most == math.MaxInt {
		hint = fmt.Sprintf("%d, %d, %d …", n.least, n.least+1, n.least+2)
	}
	return &hinted{errors.New("no number of that kind"), hint}
}

// size is a flag that takes a number of bytes.
type size struct{ value *int64 }

func (b *size) String() string {
	if *b.value == 0 {
		return "0"
	}
	return output.FormatSize(*b.value)
}

func (*size) Type() string { return "size" }

func (b *size) Set(s string) error {
	v, err := output.ParseSize(s)
	if err != nil {
		return &hinted{errors.New("no size"), "a number of bytes, such as 4096, 64KiB, 10MiB, 1.5GiB (binary) or 10MB (decimal)"}
	}
	*b.value = v
	return nil
}

// limit is a size, or with rate a size per second, that is not set by default.
type limit struct {
	value **int64
	text  string
	rate  bool
}

func (l *limit) String() string { return l.text }

func (l *limit) Type() string {
	if l.rate {
		return "size/s"
	}
	return "size"
}

func (l *limit) Set(s string) error {
	parse, hint := output.ParseSize, "a number of bytes, such as 4096, 64KiB, 10MiB, 1.5GiB (binary) or 10MB (decimal)"
	if l.rate {
		parse, hint = output.ParseRate, "a number of bytes per second, such as 64KiB/s, 5MiB/s or 10MB/s"
	}
	v, err := parse(s)
	if err != nil {
		return &hinted{fmt.Errorf("no %s", strings.Replace(l.Type(), "/s", " per second", 1)), hint}
	}
	*l.value, l.text = &v, s
	return nil
}

// globs is a repeatable flag that takes patterns of container paths.
type globs struct{ value *[]string }

func (g *globs) String() string { return strings.Join(*g.value, ",") }
func (*globs) Type() string     { return "glob" }

func (g *globs) Set(s string) error {
	if s == "" || !doublestar.ValidatePattern(s) {
		return &hinted{errors.New("no pattern"), `patterns are like '/var/log/**', '*.log' or '/srv/{a,b}/*'; quote them from the shell`}
	}
	*g.value = append(*g.value, s)
	return nil
}

// pids is a repeatable flag that takes process numbers.
type pids struct{ value *[]int }

func (p *pids) String() string { return strings.Trim(fmt.Sprint(*p.value), "[]") }
func (*pids) Type() string     { return "pid" }

func (p *pids) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil || v <= 0 {
		return &hinted{errors.New("no number of a process"), "pgrep -f COMMAND"}
	}
	*p.value = append(*p.value, v)
	return nil
}

// cgroups is a repeatable flag that takes paths of control groups.
type cgroups struct{ value *[]string }

func (c *cgroups) String() string { return strings.Join(*c.value, ",") }
func (*cgroups) Type() string     { return "path" }

func (c *cgroups) Set(s string) error {
	if !strings.HasPrefix(s, "/") || slices.Contains(strings.Split(s, "/"), "..") {
		return &hinted{errors.New("no path of a control group"), "such as /system.slice/my.service, or below /sys/fs/cgroup; cat /proc/PID/cgroup tells it"}
	}
	*c.value = append(*c.value, path.Clean(s))
	return nil
}

// flagError turns what the parsing of flags found into a usage failure, with
// what was probably meant.
func flagError(flags *pflag.FlagSet, err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		return unknownFlag(flags, unknown)
	case errors.As(err, &missing):
		f := missing.GetFlag()
		return usage(fmt.Sprintf("--%s %s", f.Name, strings.ToUpper(f.Value.Type())), "flag --%s: it needs a value", f.Name)
	case errors.As(err, &invalid):
		f, cause := invalid.GetFlag(), invalid.Unwrap()
		var h *hinted
		if errors.As(cause, &h) {
			return usage(h.hint, "flag --%s: %q: %w", f.Name, invalid.GetValue(), h.err)
		}
		return usage(fmt.Sprintf("--%s takes a %s", f.Name, f.Value.Type()), "flag --%s: %q: no %s", f.Name, invalid.GetValue(), f.Value.Type())
	}
	return usage("", "flags: %w", err)
}

func unknownFlag(flags *pflag.FlagSet, err *pflag.NotExistError) error {
	given := err.GetSpecifiedName()
	if err.GetSpecifiedShortnames() != "" {
		return usage("layertrace --help", "flag -%s: no such flag", given)
	}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	hint := "layertrace --help"
	if name := nearest(given, names); name != "" {
		hint = "did you mean --" + name + "?"
	}
	return usage(hint, "flag --%s: no such flag", given)
}
