package record

import (
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"
)

// Text splits raw bytes, as the kernel and file systems know names, into what a
// record carries: readable text, in which every byte that is not part of valid
// UTF-8 is U+FFFD, and, only if there was such a byte, all the raw bytes in
// standard base64 for the field's "…_b64" sibling.
func Text(raw string) (text, b64 string) {
	if utf8.ValidString(raw) {
		return raw, ""
	}
	var b strings.Builder
	b.Grow(len(raw) + 8)
	for _, r := range raw { // range yields U+FFFD for each invalid byte
		b.WriteRune(r)
	}
	return b.String(), base64.StdEncoding.EncodeToString([]byte(raw))
}

// Texts is Text of several. b64 holds all of them, or is nil if no text has invalid
// bytes.
func Texts(raw []string) (texts, b64 []string) {
	texts = make([]string, len(raw))
	for i, r := range raw {
		var coded string
		if texts[i], coded = Text(r); coded != "" && b64 == nil {
			b64 = make([]string, len(raw))
		}
	}
	for i := range b64 {
		b64[i] = base64.StdEncoding.EncodeToString([]byte(raw[i]))
	}
	return texts, b64
}

// Raw is the inverse of Text. A b64 that is not base64 is ignored.
func Raw(text, b64 string) string {
	if b64 == "" {
		return text
	}
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return text
	}
	return string(raw)
}

// Time is an instant that is written as RFC 3339 in UTC with all nine digits of
// its nanoseconds, so that the times of a stream sort as text.
type Time struct{ time.Time }

// At wraps t.
func At(t time.Time) Time { return Time{t} }

const timeLayout = "2006-01-02T15:04:05.000000000Z07:00"

// AppendText appends the written form to b. It never fails.
func (t Time) AppendText(b []byte) ([]byte, error) {
	return t.UTC().AppendFormat(b, timeLayout), nil
}

// MarshalJSON implements json.Marshaler. It never fails.
func (t Time) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, len(timeLayout)+2)
	b = append(b, '"')
	b, _ = t.AppendText(b)
	return append(b, '"'), nil
}
