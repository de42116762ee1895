package resolver

import (
	"sync"

	"github.com/rs/zerolog"
)

const (
	// maxOddities bounds of how many pieces of input is told.
	maxOddities = 256
	// oddityLength bounds how much of a piece is.
	oddityLength = 256
)

// oddities tells, at debug level, of input that makes no sense and was left out: of
// each piece once, however often it is read. A nil one tells of nothing. Safe for
// concurrent use.
type oddities struct {
	log zerolog.Logger

	mu   sync.Mutex
	told map[string]bool
}

// note tells of a piece of input, and why it makes no sense if err is not nil.
func (o *oddities) note(what, input string, err error) {
	if o == nil {
		return
	}
	input = input[:min(oddityLength, len(input))]
	o.mu.Lock()
	again := o.told[what+input] || len(o.told) >= maxOddities
	if !again {
		if o.told == nil {
			o.told = make(map[string]bool)
		}
		o.told[what+input] = true
	}
	o.mu.Unlock()
	if !again {
		o.log.Debug().AnErr("cause", err).Str("input", input).Msg(what)
	}
}
