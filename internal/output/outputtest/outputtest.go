// Package outputtest checks NDJSON against the published schema, for tests.
package outputtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/layertrace/layertrace/docs/schema"
)

// Compiled at the first use; they never change afterwards.
var (
	records      = sync.OnceValues(func() (*jsonschema.Schema, error) { return compile("record.schema.json") })
	explanations = sync.OnceValues(func() (*jsonschema.Schema, error) { return compile("explanation.schema.json") })
)

func compile(which string) (*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	files, err := fs.Glob(schema.FS, "v1/*.json")
	if err != nil {
		return nil, err
	}
	var root string
	for _, name := range files {
		text, err := schema.FS.ReadFile(name)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		id, _ := doc.(map[string]any)["$id"].(string)
		if path.Base(id) != path.Base(name) {
			return nil, fmt.Errorf("%s: its $id is %q", name, id)
		}
		if err := c.AddResource(id, doc); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if path.Base(name) == which {
			root = id
		}
	}
	return c.Compile(root)
}

// Validate checks one line of the stream, with or without its newline, against
// docs/schema: that it is one JSON object that fits the schema of its type, and
// of no other. It is safe for concurrent use.
func Validate(line []byte) error {
	line = bytes.TrimSuffix(line, []byte("\n"))
	if bytes.ContainsRune(line, '\n') {
		return errors.New("more than one line")
	}
	return validate(records, line)
}

// ValidateExplanation checks what explain says in JSON.
func ValidateExplanation(text []byte) error { return validate(explanations, text) }

func validate(schema func() (*jsonschema.Schema, error), text []byte) error {
	s, err := schema()
	if err != nil {
		return fmt.Errorf("the schema itself: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("line %q: %w", text, err)
	}
	if err := s.Validate(doc); err != nil {
		return fmt.Errorf("line %q: %w", text, err)
	}
	return nil
}
