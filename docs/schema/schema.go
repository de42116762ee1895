// Package schema holds the JSON Schema (draft 2020-12) of the NDJSON stream.
package schema

import "embed"

// FS holds v1/record.schema.json, which describes any record, one file for each
// record type beside it, and common.schema.json with the parts that they share.
// The schemas refer to each other by relative addresses.
//
//go:embed v1/*.schema.json
var FS embed.FS
