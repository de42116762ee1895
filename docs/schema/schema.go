// Package schema holds the JSON Schema (draft 2020-12) of the NDJSON stream.
package schema

import "embed"

// FS holds v1/record.schema.json, which describes any record, one file for each
// record type beside it, common.schema.json with the parts that they share, and
// explanation.schema.json, which describes what explain says in JSON. The schemas refer to each other by relative addresses.
//
//go:embed v1/*.schema.json
var FS embed.FS
