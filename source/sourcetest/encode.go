package sourcetest

import "time"

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const ulidLen = 26

// appendULID appends a ULID made of a Unix time in milliseconds and 80 further bits. Ids compare
// like (ms, hi, lo).
func appendULID(b []byte, ms int64, hi uint16, lo uint64) []byte {
	var s [ulidLen]byte
	t := uint64(ms)
	for i := 9; i >= 0; i-- {
		s[i] = crockford[t&31]
		t >>= 5
	}
	for i := ulidLen - 1; i >= 14; i-- { // the lower 60 bits of lo
		s[i] = crockford[lo&31]
		lo >>= 5
	}
	rest := uint64(hi)<<4 | lo // 20 bits
	for i := 13; i >= 10; i-- {
		s[i] = crockford[rest&31]
		rest >>= 5
	}
	return append(b, s[:]...)
}

var crockfordValue = func() (v [256]int8) {
	for i := range v {
		v[i] = -1
	}
	for i := range len(crockford) {
		v[crockford[i]] = int8(i)
	}
	return v
}()

// parseULID undoes appendULID.
func parseULID(s string) (ms int64, hi uint16, lo uint64, ok bool) {
	if len(s) != ulidLen || s[0] > '7' {
		return 0, 0, 0, false
	}
	var v [ulidLen]uint64
	for i := range s {
		d := crockfordValue[s[i]]
		if d < 0 {
			return 0, 0, 0, false
		}
		v[i] = uint64(d)
	}
	var t, rest uint64
	for _, d := range v[:10] {
		t = t<<5 | d
	}
	for _, d := range v[10:14] {
		rest = rest<<5 | d
	}
	lo = rest & 15
	for _, d := range v[14:] {
		lo = lo<<5 | d
	}
	return int64(t), uint16(rest >> 4), lo, true
}

// appendTime appends a Unix time in milliseconds as WorkOS writes it: 2026-01-02T15:04:05.678Z. By
// hand, since a page holds hundreds of them and time.AppendFormat would be its largest cost.
func appendTime(b []byte, ms int64) []byte {
	const dayMS = 24 * 60 * 60 * 1000
	days := ms / dayMS
	if ms < days*dayMS {
		days--
	}
	rest := int(ms - days*dayMS)
	year, month, day := civil(days)
	var s [24]byte
	put2(s[0:2], year/100)
	put2(s[2:4], year%100)
	put2(s[5:7], month)
	put2(s[8:10], day)
	put2(s[11:13], rest/3_600_000)
	put2(s[14:16], rest/60_000%60)
	put2(s[17:19], rest/1000%60)
	put2(s[21:23], rest%100)
	s[20] = '0' + byte(rest%1000/100)
	s[4], s[7], s[10], s[13], s[16], s[19], s[23] = '-', '-', 'T', ':', ':', '.', 'Z'
	return append(b, s[:]...)
}

func put2(b []byte, v int) { b[0], b[1] = '0'+byte(v/10), '0'+byte(v%10) }

// civil turns days since 1970-01-01 into a Gregorian date. It counts in years that begin in March,
// so that the leap day comes last, within eras of 400 years.
func civil(days int64) (year, month, day int) {
	const eraDays = 146097
	z := days + 719468 // since 0000-03-01
	era := z / eraDays
	if z < 0 {
		era = (z - eraDays + 1) / eraDays
	}
	ofEra := z - era*eraDays
	yearOfEra := (ofEra - ofEra/1460 + ofEra/36524 - ofEra/(eraDays-1)) / 365
	ofYear := ofEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	m := (5*ofYear + 2) / 153
	day = int(ofYear - (153*m+2)/5 + 1)
	month = int(m) + 3
	year = int(yearOfEra + era*400)
	if month > 12 {
		month -= 12
		year++
	}
	return year, month, day
}

// parseTime reads a created_at: ISO 8601, with the space in place of the T and the missing zone
// (UTC) that one of WorkOS's own samples has.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// mix is a hash of its arguments: the randomness of everything generated, so that event n needs
// none of its predecessors.
func mix(seed, a, b uint64) uint64 {
	x := seed ^ a*0x9E3779B97F4A7C15 ^ b*0xC2B2AE3D27D4EB4F
	x ^= x >> 30
	x *= 0xBF58476D1CE4E5B9
	x ^= x >> 27
	x *= 0x94D049BB133111EB
	return x ^ x>>31
}

// rng is a SplitMix64 sequence: cheap to start, good enough for test data.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9E3779B97F4A7C15
	return mix(uint64(*r), 0, 0)
}

// intn returns a number from 0 to n-1.
func (r *rng) intn(n int) int { return int(r.next() % uint64(n)) }

// float returns a number in [0,1).
func (r *rng) float() float64 { return float64(r.next()>>11) / (1 << 53) }

func pick[T any](r *rng, from []T) T { return from[r.intn(len(from))] }
