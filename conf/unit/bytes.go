// Package unit holds the quantities that the configuration writes with a unit.
package unit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size, written as 4096, 512KiB, 64MiB, 1.5GiB, or with the decimal units kB, MB and GB.
type Bytes int64

// The binary multiples, for defaults in code.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

var suffixes = []struct {
	name string
	size float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	number, factor := s, 1.0
	for _, u := range suffixes {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.size
			break
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f*factor > math.MaxInt64/2 {
		return fmt.Errorf("%q is not a size: write a number with B, KiB, MiB or GiB, such as 64MiB", s)
	}
	*b = Bytes(f * factor)
	return nil
}

// String writes the size with the largest binary unit that keeps it exact.
func (b Bytes) String() string {
	for _, u := range []struct {
		name string
		size Bytes
	}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
