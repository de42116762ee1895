package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/layertrace/layertrace/internal/output"
)

// Exit codes, as promised to scripts.
const (
	exitDone    = 0
	exitFailed  = 1 // failed while running
	exitUsage   = 2 // wrong usage
	exitRuntime = 3 // no such container, or the runtime cannot be reached
	exitKernel  = 4 // the kernel or the privileges do not allow it
	exitLimit   = 5 // a limit was exceeded
)

// failure is an error as the user gets to see it: one line that says what failed
// and why, and where a person can mend it a second one that says how.
type failure struct {
	code int
	err  error
	hint string // with the exact command; empty if nobody knows
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// fail makes a failure; format is as in fmt.Errorf.
func fail(code int, hint, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...), hint: hint}
}

// usage makes the failure of a command line that cannot be meant.
func usage(hint, format string, args ...any) error {
	return fail(exitUsage, hint, format, args...)
}

// failureOf returns the failure that err is. Errors of the commands are told
// apart by [commandError]; what remains was found by the parsing of the command
// line.
func failureOf(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{code: exitUsage, err: err, hint: "layertrace --help"}
}

// commandError makes a failure of any error with which a command ends.
func commandError(err error) error {
	var f *failure
	if err == nil || errors.As(err, &f) {
		return err
	}
	return &failure{code: exitFailed, err: err}
}

// print writes the failure in the form that is the contract for errors.
func (f *failure) print(w io.Writer) {
	fmt.Fprintf(w, "layertrace: %s\n", oneLine(f.Error()))
	if f.hint != "" {
		fmt.Fprintf(w, "hint: %s\n", oneLine(f.hint))
	}
}

// oneLine joins the lines of texts that come from elsewhere and keeps control
// characters, which names may contain, off the terminal.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	return output.Printable(strings.Join(lines, "; "))
}
