package main

import (
	"io"
	"time"

	"github.com/rs/zerolog"
)

// newLogger returns the logger of a run. Logs go to stderr: stdout is for data.
func newLogger(w io.Writer, level, format string, color bool) zerolog.Logger {
	parsed, err := zerolog.ParseLevel(level)
	if err != nil {
		parsed = zerolog.WarnLevel // the flag lets none but known ones pass
	}
	if format == logConsole {
		w = zerolog.ConsoleWriter{Out: w, NoColor: !color, TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(parsed).With().Timestamp().Logger()
}
