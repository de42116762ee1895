package output

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// units are the suffixes of sizes, in lower case.
var units = map[string]int64{
	"": 1, "b": 1,
	"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50, "eib": 1 << 60,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15, "eb": 1e18,
}

// ParseSize reads a size in bytes: "4096", "10MiB" (binary units), "10MB"
// (decimal: 10,000,000), "1.5GiB", "10M" and "10K" (binary, as coreutils do).
// Upper and lower case are the same. Negative sizes, fractions of a byte and
// sizes beyond an int64 are errors.
func ParseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	at := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if at < 0 {
		at = len(text)
	}
	unit, ok := units[strings.ToLower(strings.TrimSpace(text[at:]))]
	if !ok || at == 0 {
		return 0, fmt.Errorf("size %q: want a number of bytes with an optional unit, such as 4096, 10MiB or 10MB", s)
	}
	if n, err := strconv.ParseInt(text[:at], 10, 64); err == nil {
		if n > math.MaxInt64/unit {
			return 0, fmt.Errorf("size %q: too large", s)
		}
		return n * unit, nil
	}
	f, err := strconv.ParseFloat(text[:at], 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: want a number of bytes with an optional unit, such as 4096, 10MiB or 10MB", s)
	}
	f *= float64(unit)
	if f >= math.MaxInt64 {
		return 0, fmt.Errorf("size %q: too large", s)
	}
	if unit == 1 && f != math.Trunc(f) {
		return 0, fmt.Errorf("size %q: no whole number of bytes", s)
	}
	return int64(math.Round(f)), nil
}

// ParseRate reads a size per second, "5MiB/s", in bytes per second.
func ParseRate(s string) (int64, error) {
	size, ok := strings.CutSuffix(strings.TrimSpace(s), "/s")
	if !ok {
		return 0, fmt.Errorf("rate %q: want a size per second, such as 5MiB/s", s)
	}
	n, err := ParseSize(size)
	if err != nil {
		return 0, fmt.Errorf("rate %q: want a size per second, such as 5MiB/s", s)
	}
	return n, nil
}

// FormatSize prints bytes in binary units: "1.0 MiB".
func FormatSize(n int64) string {
	if n < 0 {
		return "-" + humanize.IBytes(uint64(-n))
	}
	return humanize.IBytes(uint64(n))
}

// FormatGrowth is FormatSize with a sign: "+1.0 MiB", "-4.0 KiB", "0 B".
func FormatGrowth(n int64) string {
	if n > 0 {
		return "+" + FormatSize(n)
	}
	return FormatSize(n)
}
