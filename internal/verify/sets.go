package verify

import (
	"hash/maphash"
	"math/bits"
)

const (
	filterBits  = 16 // for each event: about one stranger in 2,000 passes
	filterLeast = 1 << 16
	filterMost  = 64 << 20 << 3
	filterTests = 5
)

// filter is a bloom filter over ids: it never denies one that was added.
type filter struct {
	seed  maphash.Seed
	words []uint64
	mask  uint64
}

func newFilter(events uint64) *filter {
	n := uint64(filterLeast)
	for n < events*filterBits && n < filterMost {
		n *= 2
	}
	return &filter{seed: maphash.MakeSeed(), words: make([]uint64, n/64), mask: n - 1}
}

// hash is also what divides ids among the parts.
func (f *filter) hash(id string) uint64 { return maphash.String(f.seed, id) }

func (f *filter) add(hash uint64) {
	step := bits.RotateLeft64(hash, 32) | 1
	for range filterTests {
		f.words[hash&f.mask/64] |= 1 << (hash & 63)
		hash += step
	}
}

func (f *filter) has(hash uint64) bool {
	step := bits.RotateLeft64(hash, 32) | 1
	for range filterTests {
		if f.words[hash&f.mask/64]&(1<<(hash&63)) == 0 {
			return false
		}
		hash += step
	}
	return true
}

// bitset is a set of numbers below its length.
type bitset []uint64

func newBits(n uint64) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i uint64) { b[i/64] |= 1 << (i % 64) }

// next returns the first number in the set from i on; noEvent if there is none.
func (b bitset) next(i uint64) uint64 {
	for ; i < uint64(len(b))*64; i++ {
		word := b[i/64] >> (i % 64)
		if word != 0 {
			return i + uint64(bits.TrailingZeros64(word)) //nolint:gosec // below 64
		}
		i |= 63
	}
	return noEvent
}

func (b bitset) has(i uint64) bool { return b[i/64]&(1<<(i%64)) != 0 }
