package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sample() Checkpoint {
	return Checkpoint{
		Position:   Position{EventID: "event_01H", CreatedAt: time.Date(2026, 11, 23, 10, 20, 30, 123456789, time.UTC)},
		Generation: 3,
		Holder:     "h",
		Released:   true,
		Source:     Identity{Relay: "workos", Lane: "nats", Endpoint: "https://api.workos.com", Organization: "org_1", Destination: "nats stream WORKOS"},
		Mode:       AtLeastOnce,
		Events:     []string{"dsync.user.created", "user.created"},
		UpdatedAt:  time.Date(2026, 11, 23, 10, 20, 31, 0, time.UTC),
		Revision:   41,
	}
}

func TestEncodeIsOneLineOfJSON(t *testing.T) {
	document := Encode(sample())
	require.Equal(t, len(document)-1, bytes.IndexByte(document, '\n'))
	//nolint:testifylint // the bytes count
	require.Equal(t, `{"relay_checkpoint":1,"crc32c":"1cc0e30e","content":{"event_id":"event_01H","created_at":"2026-11-23T10:20:30.123456789Z",`+
		`"generation":3,"holder":"h","released":true,"source":{"relay":"workos","lane":"nats","endpoint":"https://api.workos.com",`+
		`"organization_id":"org_1","destination":"nats stream WORKOS"},"mode":"at_least_once",`+
		`"events":["dsync.user.created","user.created"],"updated_at":"2026-11-23T10:20:31Z","revision":41}}`+"\n", string(document))
	require.True(t, json.Valid(document))
	back, err := Decode(document)
	require.NoError(t, err)
	require.Equal(t, sample(), back)
}

// Every field of Checkpoint must survive, one that is added later too.
func TestEncodeKeepsEveryField(t *testing.T) {
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[time.Time]():
			v.Set(reflect.ValueOf(time.Unix(1_700_000_000, 1).UTC()))
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		case v.Kind() == reflect.String:
			v.SetString("x")
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		case v.Kind() == reflect.Uint64:
			v.SetUint(math.MaxUint64)
		case v.Kind() == reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0))
			fill(v.Index(1))
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		default:
			t.Fatalf("a field of type %s: teach this test, and raise FormatVersion", v.Type())
		}
	}
	var c Checkpoint
	fill(reflect.ValueOf(&c).Elem())
	back, err := Decode(Encode(c))
	require.NoError(t, err)
	require.Equal(t, c, back)
}

func TestDecodeRefuses(t *testing.T) {
	good := string(Encode(sample()))
	for name, tt := range map[string]struct{ document, says string }{
		"empty":               {"", "empty"},
		"zeros":               {strings.Repeat("\x00", 512), "not a checkpoint of relay"},
		"another file":        {"cursor: event_01H\n", "not a checkpoint of relay"},
		"no newline":          {strings.TrimSuffix(good, "\n"), "cut short"},
		"a second line":       {good + good, "follows its end"},
		"zeros after it":      {good + "\x00\x00", "follows its end"},
		"a space before":      {" " + good, "not a checkpoint of relay"},
		"another event":       {strings.Replace(good, "event_01H", "event_01J", 1), "checksum does not fit"},
		"another checksum":    {strings.Replace(good, `"crc32c":"1`, `"crc32c":"9`, 1), "checksum does not fit"},
		"upper case checksum": {strings.Replace(good, "1cc0", "1CC0", 1), "checksum does not fit"},
		"carriage return":     {strings.Replace(good, "\n", "\r\n", 1), "checksum does not fit"},
		"newer":               {strings.Replace(good, `_checkpoint":1`, `_checkpoint":12`, 1), "format version 12 and was written by a newer relay; this one reads up to version 3"},
		"version 0":           {strings.Replace(good, `_checkpoint":1`, `_checkpoint":0`, 1), "no format version 0"},
		"version 01":          {strings.Replace(good, `_checkpoint":1`, `_checkpoint":01`, 1), "checksum does not fit"},
		"no version":          {strings.Replace(good, `_checkpoint":1`, `_checkpoint":`, 1), "not a number"},
		"huge version":        {strings.Replace(good, `_checkpoint":1`, `_checkpoint":99999999999999999999`, 1), "not a number"},
		"almost nothing":      {versionPrefix + "1}\n", "parts are missing"},
		"too long":            {good + strings.Repeat("x", MaxEncoded), "longer than"},
		"unknown field":       {string(frame(1, []byte(`{"event_id":"e","more":1}`))), "unknown field"},
		"two values":          {string(frame(1, []byte(`{} {}`))), "more than one value"},
		"no object":           {string(frame(1, []byte(`[]`))), "cannot unmarshal"},
		"bad time":            {string(frame(1, []byte(`{"created_at":"yesterday"}`))), "created_at"},
		"bad update":          {string(frame(1, []byte(`{"updated_at":"2026-13-01T00:00:00Z"}`))), "updated_at"},
		"newer parts":         {string(frame(1, []byte(`{"seen":"2026-01-01T00:00:00Z"}`))), "parts of format 2"},
		"bad seen":            {string(frame(2, []byte(`{"seen":"now"}`))), "seen"},
		"bad recent":          {string(frame(2, []byte(`{"recent":[{"event_id":"e","created_at":"1"}]}`))), "recent"},
		"bad refused":         {string(frame(2, []byte(`{"refused":[{"type":"t","since":"1"}]}`))), "refused"},
		"bad refused after":   {string(frame(2, []byte(`{"refused":[{"type":"t","after":{"created_at":"1"}}]}`))), "refused"},
		"a newer snapshot":    {string(frame(2, []byte(`{"snapshot":{"run":"r"}}`))), "parts of format 3"},
		"bad snapshot tip":    {string(frame(3, []byte(`{"snapshot":{"tip":{"created_at":"1"}}}`))), "snapshot: tip"},
		"bad snapshot start":  {string(frame(3, []byte(`{"snapshot":{"started_at":"1"}}`))), "snapshot: started_at"},
		"bad snapshot end":    {string(frame(3, []byte(`{"snapshot":{"finished_at":"1"}}`))), "snapshot: finished_at"},
		"snapshot of another": {string(frame(3, []byte(`{"snapshot":{"runs":"r"}}`))), "unknown field"},
		"time past the years": {string(frame(1, []byte(`{"created_at":"9999-12-31T23:59:59-01:00"}`))), "outside the years"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(tt.document))
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, tt.says)
		})
	}
}

// No prefix of a document is a document, and none with one byte changed.
func TestDecodeRefusesEveryCutAndEveryChange(t *testing.T) {
	good := Encode(sample())
	for n := range good {
		_, err := Decode(good[:n])
		require.ErrorIsf(t, err, ErrCorrupt, "cut after %d bytes", n)
		changed := bytes.Clone(good)
		for _, flip := range []byte{0x01, 0x20, 0x80, 0xff} {
			changed[n] = good[n] ^ flip
			_, err := Decode(changed)
			require.ErrorIsf(t, err, ErrCorrupt, "byte %d changed from %q to %q", n, good[n], changed[n])
		}
	}
}

func TestCommitRefusesWhatCouldNotBeReadAgain(t *testing.T) {
	m := NewMemory(sample().Source)
	c := sample()
	c.CreatedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	_, err := m.Commit(t.Context(), Checkpoint{}, c)
	require.ErrorContains(t, err, "could not be read again")
	require.NotErrorIs(t, err, ErrCorrupt, "the current checkpoint is not corrupt")
	_, err = m.Load(t.Context())
	require.ErrorIs(t, err, ErrNotFound)
}

// full is sample with everything that format version 2 adds.
func full() Checkpoint {
	c := sample()
	c.Seen = c.CreatedAt.Add(time.Hour)
	c.Recent = Recent{Events: []Position{{EventID: "event_01G", CreatedAt: c.CreatedAt}, c.Position}, From: c.CreatedAt.Add(-time.Second)}
	c.Refused = []Refused{{Type: "vault.data.read", Since: c.Seen, Position: c.Position}, {Type: "vault.kek.created", Position: Position{EventID: "event_01F"}}}
	return c
}

// withSnapshot is full with what format version 3 adds.
func withSnapshot() Checkpoint {
	c := full()
	c.Snapshot = &Snapshot{
		Run: "run_1", Entities: []string{"organization", "directory_user"}, Earlier: []string{"user"}, Tip: Position{CreatedAt: c.CreatedAt},
		StartedAt: c.CreatedAt.Add(time.Minute), Entity: "directory_user", Fresh: true, Walk: []SnapshotStep{{After: "directory_1", ID: "directory_3"}},
		Open:    []SnapshotList{{Parents: []string{"directory_2"}, After: "directory_user_9"}, {Parents: []string{"directory_3"}}},
		Counts:  []SnapshotCount{{Entity: "organization", Objects: 7, Removed: 1, Skipped: 2}, {Entity: "directory_user", Objects: 900, Dropped: 3, Lists: 5, Parents: 8}},
		Refused: []SnapshotRefusal{{Entity: "role", Reason: "WorkOS answered 403"}},
		Before:  []SnapshotCount{{Entity: "directory_user", Objects: 800, Lists: 7}},
	}
	c.StateFromStart = true
	return c
}

func TestEncodeWritesTheVersionThatIsNeeded(t *testing.T) {
	require.Contains(t, string(Encode(sample())), versionPrefix+"1,", "relays of the version before can read it")
	document := Encode(full())
	require.Contains(t, string(document), versionPrefix+"2,")
	back, err := Decode(document)
	require.NoError(t, err)
	require.Equal(t, full(), back)

	document = Encode(withSnapshot())
	require.Contains(t, string(document), versionPrefix+"3,", "a relay that does not know state topics must not go on")
	back, err = Decode(document)
	require.NoError(t, err)
	require.Equal(t, withSnapshot(), back)

	begins := sample()
	begins.StateFromStart = true
	require.Contains(t, string(Encode(begins)), versionPrefix+"3,", "nor before the first snapshot")
}

func TestASnapshotIsComparedAsAWhole(t *testing.T) {
	a, b := withSnapshot().Snapshot, withSnapshot().Snapshot
	require.True(t, a.Equal(b))
	b.Open[1].After = "x"
	require.False(t, a.Equal(b))
	require.False(t, a.Equal(nil))
	require.True(t, (*Snapshot)(nil).Equal(nil))

	counts := a.Add(SnapshotCount{Entity: "directory_user", Objects: 100})
	require.Equal(t, uint64(900), a.Count("directory_user").Objects, "nothing is changed in place")
	a.Counts = counts
	require.Equal(t, uint64(1000), a.Count("directory_user").Objects)
	require.Equal(t, SnapshotCount{Entity: "role", Objects: 1}, a.Add(SnapshotCount{Entity: "role", Objects: 1})[2])
}

// TestACheckpointInTheMiddleOfASnapshotIsSmall: a snapshot of every entity, with as many lists open
// as are read at once.
func TestACheckpointInTheMiddleOfASnapshotIsSmall(t *testing.T) {
	c := withSnapshot()
	const id = "directory_group_01JDXW0000000000000000000"
	c.Snapshot.Entities, c.Snapshot.Open, c.Snapshot.Counts = nil, nil, nil
	for i := range 60 {
		name := fmt.Sprintf("an_entity_with_a_long_name_%d", i)
		c.Snapshot.Entities = append(c.Snapshot.Entities, name)
		c.Snapshot.Counts = append(c.Snapshot.Counts, SnapshotCount{Entity: name, Objects: math.MaxUint64, Removed: math.MaxUint64})
		c.Snapshot.Before = append(c.Snapshot.Before, SnapshotCount{Entity: name, Objects: math.MaxUint64, Lists: math.MaxUint64})
		c.Snapshot.Refused = append(c.Snapshot.Refused, SnapshotRefusal{Entity: name, Reason: strings.Repeat("x", 300)})
	}
	for range 32 {
		c.Snapshot.Open = append(c.Snapshot.Open, SnapshotList{Parents: []string{id, id}, After: id})
	}
	require.Less(t, len(Encode(c)), 50<<10)
}

func TestACheckpointOfEveryTypeRefusedIsSmall(t *testing.T) {
	c := full()
	c.Events, c.Refused = nil, nil
	for i := range 140 {
		name := fmt.Sprintf("a_domain_of_some_length.event_with_a_name.n%05d", i)
		c.Events = append(c.Events, name)
		c.Refused = append(c.Refused, Refused{Type: name, Since: c.Seen, Position: Position{EventID: "event_01JDXW0000000000000000000", CreatedAt: c.CreatedAt}})
	}
	require.Less(t, len(Encode(c)), 40<<10)
}

func FuzzDecode(f *testing.F) {
	good := Encode(sample())
	f.Add(good, 0)
	f.Add(Encode(full()), 0)
	f.Add(Encode(withSnapshot()), 0)
	f.Add(Encode(Checkpoint{}), 0)
	f.Add(good[:len(good)/2], 0)
	f.Add(bytes.Replace(good, []byte(":1,"), []byte(":2,"), 1), 0)
	f.Add([]byte(`{"created_at":"2026-01-01T00:00:00+05:30","events":["\ud800",""],"revision":18446744073709551615}`), 1)
	f.Add([]byte(`{"Created_At":"0001-01-01T00:00:00Z","mode":null,"events":null}`), 1)
	f.Add([]byte("{\"holder\":\"\xff\\u0000\"}"), 1)
	f.Add([]byte(`{"seen":"2026-01-01T00:00:00Z","recent_from":"","recent":[{"event_id":"e"}],"refused":[{"type":"t","after":{}}]}`), 2)
	f.Add([]byte(`{"snapshot":{"run":"r","entities":[],"tip":{},"open":[{"parents":[]},{}],"walk":[{}],"counts":[{}]}}`), 3)
	f.Fuzz(func(t *testing.T, data []byte, version int) {
		if version > 0 { // so that the content is reached behind its checksum
			data = frame(version, data)
		}
		c, err := Decode(data)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		again, err := Decode(Encode(c))
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

func BenchmarkEncodeDecode(b *testing.B) {
	c := sample()
	c.Events = nil
	for i := range 93 {
		c.Events = append(c.Events, fmt.Sprintf("some.event.type.number_%d", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(Encode(c)); err != nil {
			b.Fatal(err)
		}
	}
}
