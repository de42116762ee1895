package output

import (
	"bytes"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

func TestLogIsShownAsNotInTheLayer(t *testing.T) {
	for name, open := range map[string]func(*bytes.Buffer) Writer{
		"table": func(b *bytes.Buffer) Writer { return NewTable(b, TableOptions{}) },
		"live":  func(b *bytes.Buffer) Writer { return NewLive(b, TableOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := open(&b)
			s := summary()
			s.Containers[0].Log = &logOf(api).LogTotals
			for _, r := range []record.Record{layerTotals(api, 4096, 8192, 0, 0), logOf(api), logOf(db), s} {
				if err := w.Write(r); err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range []string{
				"log 5.0 MiB, +3.0 MiB (json-file, not in the layer)",
				"db (postgres:17)  log 5.0 MiB", // without a layer record in the interval
				"Beside the layer, its log grew by 3.0 MiB to 5.0 MiB: /var/lib/docker/containers/x/x-json.log.",
			} {
				if !strings.Contains(b.String(), want) {
					t.Errorf("no %q in:\n%s", want, b.String())
				}
			}
		})
	}
}
