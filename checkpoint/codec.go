package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"time"
)

// FormatVersion is the newest version of the format that Encode writes and Decode reads. Encode
// writes the oldest version that has what the checkpoint needs, so that older relays can read it. A
// relay that cannot read a version stops with a NewerError: it does not know the state topics, and
// would leave them behind the events.
const FormatVersion = 3

const (
	firstVersion  = 1 // has none of Seen, Recent, Refused, WaitedSeconds, Snapshot and StateFromStart
	recordVersion = 2 // has all of them but Snapshot and StateFromStart
)

// MaxEncoded bounds the size in bytes of an encoded checkpoint. One with every known event type
// takes under 6 KiB, and under 30 KiB if all of them are refused.
const MaxEncoded = 1 << 20

// The document is a JSON object whose first two members have fixed positions, so that no byte of it
// can change unnoticed:
//
//	{"relay_checkpoint":1,"crc32c":"1a2b3c4d","content":{…}}
//
// The checksum is the CRC-32C of the bytes of the content.
const (
	versionPrefix = `{"relay_checkpoint":`
	sumPrefix     = `,"crc32c":"`
	contentPrefix = `","content":`
	documentEnd   = "}\n"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// content is what FormatVersion records. A change to it needs a new version.
type content struct {
	EventID    string          `json:"event_id"`
	CreatedAt  string          `json:"created_at"` // RFC 3339, UTC; empty for the zero time
	Generation uint64          `json:"generation"`
	Holder     string          `json:"holder"`
	Released   bool            `json:"released"`
	Source     contentIdentity `json:"source"`
	Mode       Mode            `json:"mode"`
	Events     []string        `json:"events"`
	UpdatedAt  string          `json:"updated_at"`
	Revision   uint64          `json:"revision"`

	Seen       string            `json:"seen,omitempty"`
	RecentFrom string            `json:"recent_from,omitempty"`
	Recent     []contentPosition `json:"recent,omitempty"`
	Refused    []contentRefused  `json:"refused,omitempty"`
	Waited     uint64            `json:"waited_seconds,omitempty"`
	Snapshot   *contentSnapshot  `json:"snapshot,omitempty"`
	StateFrom  bool              `json:"state_from_start,omitempty"`
}

// version returns the version of the format that the content needs.
func (c *content) version() int {
	switch {
	case c.Snapshot != nil, c.StateFrom:
		return FormatVersion
	case c.Seen == "" && c.RecentFrom == "" && len(c.Recent) == 0 && len(c.Refused) == 0 && c.Waited == 0:
		return firstVersion
	default:
		return recordVersion
	}
}

type contentPosition struct {
	EventID   string `json:"event_id"`
	CreatedAt string `json:"created_at"`
}

type contentRefused struct {
	Type  string          `json:"type"`
	Since string          `json:"since"`
	After contentPosition `json:"after"`
}

type contentIdentity struct {
	Relay        string `json:"relay"`
	Lane         string `json:"lane"`
	Endpoint     string `json:"endpoint"`
	Organization string `json:"organization_id"`
	Destination  string `json:"destination"`
}

// Encode writes c as one line of JSON with the version of the format and a checksum, ending in a
// newline. Times are kept to the nanosecond, in UTC. Strings are UTF-8; bytes that are not come
// back as U+FFFD. A time outside the years 0 to 9999 cannot be read back.
func Encode(c Checkpoint) []byte {
	events := c.Events
	if events == nil {
		events = []string{}
	}
	out := content{
		EventID:    c.EventID,
		CreatedAt:  formatTime(c.CreatedAt),
		Generation: c.Generation,
		Holder:     c.Holder,
		Released:   c.Released,
		Source:     contentIdentity(c.Source),
		Mode:       c.Mode,
		Events:     events,
		UpdatedAt:  formatTime(c.UpdatedAt),
		Revision:   c.Revision,
		Seen:       formatTime(c.Seen),
		RecentFrom: formatTime(c.Recent.From),
		Waited:     c.WaitedSeconds,
		Snapshot:   formatSnapshot(c.Snapshot),
		StateFrom:  c.StateFromStart,
	}
	for _, p := range c.Recent.Events {
		out.Recent = append(out.Recent, formatPosition(p))
	}
	for _, r := range c.Refused {
		out.Refused = append(out.Refused, contentRefused{Type: r.Type, Since: formatTime(r.Since), After: formatPosition(r.Position)})
	}
	body, err := json.Marshal(out)
	if err != nil {
		panic("checkpoint: strings and numbers cannot fail to encode: " + err.Error())
	}
	return frame(out.version(), body)
}

func frame(version int, body []byte) []byte {
	b := make([]byte, 0, len(body)+64)
	b = append(b, versionPrefix...)
	b = strconv.AppendInt(b, int64(version), 10)
	b = append(b, sumPrefix...)
	b = fmt.Appendf(b, "%08x", crc32.Checksum(body, castagnoli))
	b = append(b, contentPrefix...)
	b = append(b, body...)
	return append(b, documentEnd...)
}

// Decode reads what Encode wrote. It rejects anything else with an error that matches ErrCorrupt
// and says what is wrong: truncated, altered, data after the end, or written by a newer relay. If
// Decode accepts data, then Encode and Decode of the result give an equal Checkpoint.
func Decode(data []byte) (Checkpoint, error) {
	version, body, err := unframe(data)
	if err != nil {
		// P3: what cannot be read is never taken for nothing.
		if newer := (*NewerError)(nil); errors.As(err, &newer) {
			return Checkpoint{}, newer
		}
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	c, err := decodeContent(version, body)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: its checksum holds but its content is not that of format %d: %w", ErrCorrupt, version, err)
	}
	return c, nil
}

// NewerError says that a newer relay has written the checkpoint, so that this one cannot read it.
// It matches ErrCorrupt. Nothing is wrong with the checkpoint, so an operator must not replace it.
type NewerError struct{ Version uint64 }

// Error implements error.
func (e *NewerError) Error() string {
	return fmt.Sprintf("the checkpoint has format version %d and was written by a newer relay; this one reads up to version %d", e.Version, FormatVersion)
}

// Is reports whether target is ErrCorrupt.
func (*NewerError) Is(target error) bool { return target == ErrCorrupt }

// OperatorAction says what an operator has to do.
func (*NewerError) OperatorAction() string { return "run the newer relay again" }

// unframe returns the version of the format and the content, whose checksum holds.
func unframe(data []byte) (version int, body []byte, err error) {
	if len(data) == 0 {
		return 0, nil, errors.New("it is empty")
	}
	if len(data) > MaxEncoded {
		return 0, nil, fmt.Errorf("it is longer than %d bytes", MaxEncoded)
	}
	rest, ok := bytes.CutPrefix(data, []byte(versionPrefix))
	if !ok {
		if bytes.HasPrefix([]byte(versionPrefix), data) {
			return 0, nil, cutShort(data)
		}
		return 0, nil, errors.New("it is not a checkpoint of relay")
	}
	if version, err = checkVersion(rest); err != nil {
		return 0, nil, err
	}
	sumAt := len(strconv.Itoa(version)) + len(sumPrefix)
	contentAt := sumAt + 8 + len(contentPrefix)
	switch {
	case !bytes.HasSuffix(rest, []byte("\n")) && !bytes.Contains(rest, []byte("\n")):
		return 0, nil, cutShort(data)
	case bytes.IndexByte(rest, '\n') != len(rest)-1:
		return 0, nil, errors.New("something follows its end")
	case len(rest) < contentAt+len(documentEnd):
		return 0, nil, errors.New("it was altered: parts are missing")
	}
	body = rest[contentAt : len(rest)-len(documentEnd)]
	if !bytes.Equal(frame(version, body), data) {
		return 0, nil, errors.New("it was altered: the checksum does not fit the content")
	}
	return version, body, nil
}

func cutShort(data []byte) error {
	return fmt.Errorf("it is cut short after %d bytes", len(data))
}

// checkVersion returns the number that rest begins with.
func checkVersion(rest []byte) (int, error) {
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	if digits == len(rest) {
		return 0, errors.New("it is cut short within the version of its format")
	}
	version, err := strconv.ParseUint(string(rest[:digits]), 10, 32)
	switch {
	case err != nil:
		return 0, errors.New("it was altered: the version of its format is not a number")
	case version > FormatVersion:
		return 0, &NewerError{Version: version}
	case version < firstVersion:
		return 0, fmt.Errorf("it was altered: there is no format version %d", version)
	}
	return int(version), nil
}

func decodeContent(version int, body []byte) (Checkpoint, error) {
	var in content
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return Checkpoint{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Checkpoint{}, errors.New("more than one value")
	}
	created, err := parseTime(in.CreatedAt)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("created_at: %w", err)
	}
	updated, err := parseTime(in.UpdatedAt)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("updated_at: %w", err)
	}
	if version < in.version() {
		return Checkpoint{}, fmt.Errorf("it has parts of format %d", in.version())
	}
	if len(in.Events) == 0 {
		in.Events = nil
	}
	c := Checkpoint{
		Position:   Position{EventID: in.EventID, CreatedAt: created},
		Generation: in.Generation,
		Holder:     in.Holder,
		Released:   in.Released,
		Source:     Identity(in.Source),
		Mode:       in.Mode,
		Events:     in.Events,
		UpdatedAt:  updated,
		Revision:   in.Revision,
	}
	if err := decodeRecord(&in, &c); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

// decodeRecord reads what firstVersion does not know.
func decodeRecord(in *content, c *Checkpoint) (err error) {
	c.WaitedSeconds = in.Waited
	if c.Seen, err = parseTime(in.Seen); err != nil {
		return fmt.Errorf("seen: %w", err)
	}
	if c.Recent.From, err = parseTime(in.RecentFrom); err != nil {
		return fmt.Errorf("recent_from: %w", err)
	}
	for _, p := range in.Recent {
		at, err := parsePosition(p)
		if err != nil {
			return fmt.Errorf("recent: %w", err)
		}
		c.Recent.Events = append(c.Recent.Events, at)
	}
	for _, r := range in.Refused {
		since, err := parseTime(r.Since)
		if err != nil {
			return fmt.Errorf("refused: %w", err)
		}
		after, err := parsePosition(r.After)
		if err != nil {
			return fmt.Errorf("refused: %w", err)
		}
		c.Refused = append(c.Refused, Refused{Type: r.Type, Since: since, Position: after})
	}
	c.StateFromStart = in.StateFrom
	c.Snapshot, err = parseSnapshot(in.Snapshot)
	return err
}

func formatPosition(p Position) contentPosition {
	return contentPosition{EventID: p.EventID, CreatedAt: formatTime(p.CreatedAt)}
}

func parsePosition(p contentPosition) (Position, error) {
	at, err := parseTime(p.CreatedAt)
	return Position{EventID: p.EventID, CreatedAt: at}, err
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, err
	}
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return time.Time{}, fmt.Errorf("%q lies outside the years 0 to 9999", s)
	}
	return t, nil
}
