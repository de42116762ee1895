package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/layertrace/layertrace/internal/record"
)

// bufferSize is how much is gathered before it is passed on without a Flush.
const bufferSize = 64 << 10

// NDJSON writes one JSON object a line.
type NDJSON struct {
	w    io.Writer
	buf  bytes.Buffer // whole lines, but for a first one that was begun (torn)
	enc  *json.Encoder
	fast growthEncoder
	seq  uint64
	gone error // why nobody reads any more
	torn bool  // the beginning of a line is written, its rest is in buf
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
// full disk, what could not be written is kept, for a later Flush to continue. The
// beginning of a line that was written by then is taken back out of a file;
// elsewhere the later Flush continues at the very byte.
func (n *NDJSON) Flush() error {
	if n.gone != nil {
		return n.gone
	}
	if n.buf.Len() == 0 {
		return nil
	}
	b := n.buf.Bytes()
	done, err := writeAll(n.w, b)
	if isClosed(err) {
		n.gone = err
	}
	whole := bytes.LastIndexByte(b[:done], '\n') + 1
	if whole > 0 {
		n.torn = false // what was begun before has its end
	}
	if whole < done && !n.torn {
		if takeBack(n.w, b[whole:done]) {
			done = whole
		} else {
			n.torn = true
		}
	}
	n.buf.Next(done)
	return err
}

// takeBack removes what was just written from the end of a file. It reports false, and
// does nothing, if w is none or somebody else has written to it since.
func takeBack(w io.Writer, written []byte) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	// The file may be open for writing only.
	again, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
	if err != nil {
		return false
	}
	defer again.Close()
	end, tail := info.Size()-int64(len(written)), make([]byte, len(written))
	if _, err := again.ReadAt(tail, end); err != nil || !bytes.Equal(tail, written) {
		return false
	}
	if file.Truncate(end) != nil {
		return false
	}
	_, err = file.Seek(end, io.SeekStart) // not where the next write goes if it appends
	return err == nil
}
