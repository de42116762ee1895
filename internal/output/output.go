// Package output writes records: as NDJSON for pipelines, as tables for people.
//
// Writers are not safe for concurrent use.
package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/layertrace/layertrace/internal/record"
)

// ErrClosed is returned (wrapped) once nobody reads the output any more. It is
// the quiet end of a run, as in `layertrace watch … | head`. For it to be seen on
// standard output, SIGPIPE must be ignored: by default it ends a Go program.
var ErrClosed = errors.New("output closed by its reader")

// Writer takes the records of a run in order. Write may buffer; Flush ends an
// interval and returns when everything is written. Errors of either wrap
// ErrClosed if the reader is gone, and otherwise name the cause.
type Writer interface {
	Write(rec record.Record) error
	Flush() error
}

var (
	_ Writer = (*NDJSON)(nil)
	_ Writer = (*Table)(nil)
	_ Writer = (*Live)(nil)
)

// wrap says what an error of the underlying writer means.
func wrap(err error) error {
	for _, closed := range []error{syscall.EPIPE, syscall.ECONNRESET, io.ErrClosedPipe, os.ErrClosed} {
		if errors.Is(err, closed) {
			return fmt.Errorf("%w: %w", ErrClosed, err)
		}
	}
	return fmt.Errorf("writing records: %w", err)
}

// writeAll writes b and returns how much of it was written. A writer that took a
// part is asked again for the rest, so that a line is left unfinished only if
// nothing more fits.
func writeAll(w io.Writer, b []byte) (done int, err error) {
	for done < len(b) {
		n, err := w.Write(b[done:])
		done += n
		switch {
		case n > 0 || errors.Is(err, syscall.EINTR):
		case err == nil:
			return done, wrap(io.ErrShortWrite)
		default:
			return done, wrap(err)
		}
	}
	return done, nil
}

func isClosed(err error) bool { return errors.Is(err, ErrClosed) }
