package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/layertrace/layertrace/internal/record"
)

// bufferSize is how much is gathered before it is passed on without a Flush.
const bufferSize = 64 << 10

// NDJSON writes one JSON object a line.
type NDJSON struct {
	w    io.Writer
	buf  bytes.Buffer // whole lines, but for a first one that was begun
	enc  *json.Encoder
	fast growthEncoder
	seq  uint64
	gone error // why nobody reads any more
}

// NewNDJSON returns a writer of the stream to w. It numbers the records: the
// first gets seq 1.
func NewNDJSON(w io.Writer) *NDJSON {
	n := &NDJSON{w: w}
	n.enc = json.NewEncoder(&n.buf)
	n.enc.SetEscapeHTML(false)
	return n
}

// Write numbers and encodes rec into the buffer, which is passed on when it is
// large or at Flush, always in whole lines. rec is not kept; its Seq is set. Once
// Write has returned an error of the underlying writer the record is in the
// buffer all the same; after one of encoding it is not, and its number is free.
func (n *NDJSON) Write(rec record.Record) error {
	if n.gone != nil {
		return n.gone
	}
	rec.Head().Seq = n.seq + 1
	if g, ok := rec.(*record.Growth); ok {
		n.buf.Write(n.fast.append(n.buf.AvailableBuffer(), g))
	} else if err := n.encode(rec); err != nil {
		return err
	}
	n.seq++
	if n.buf.Len() < bufferSize {
		return nil
	}
	return n.Flush()
}

func (n *NDJSON) encode(rec record.Record) error {
	size := n.buf.Len()
	if err := n.enc.Encode(rec); err != nil {
		n.buf.Truncate(size)
		return fmt.Errorf("encoding a record of type %q: %w", rec.Head().Type, err)
	}
	return nil
}

// Flush writes what is buffered. After an error that is not ErrClosed, such as a
// full disk, what could not be written is kept, and a later Flush continues at
// the very byte, so that no half line stays behind once there is room again.
func (n *NDJSON) Flush() error {
	if n.gone != nil {
		return n.gone
	}
	if n.buf.Len() == 0 {
		return nil
	}
	done, err := writeAll(n.w, n.buf.Bytes())
	n.buf.Next(done)
	if isClosed(err) {
		n.gone = err
	}
	return err
}
