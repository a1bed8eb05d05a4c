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

// FormatVersion is the version of the format that Encode writes, and the newest that Decode reads.
const FormatVersion = 1

// MaxEncoded bounds the size in bytes of an encoded checkpoint. One with every known event type takes under 4 KiB.
const MaxEncoded = 1 << 20

// The document is a JSON object whose first two members stand in fixed positions, so that no byte of it can change unnoticed:
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

// content is what version 1 records. A change to it needs a new version.
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
}

type contentIdentity struct {
	Relay        string `json:"relay"`
	Lane         string `json:"lane"`
	Endpoint     string `json:"endpoint"`
	Organization string `json:"organization_id"`
	Destination  string `json:"destination"`
}

// Encode writes c as one line of JSON with the version of the format and a checksum, ending in a newline. Times are kept to
// the nanosecond, in UTC. Strings are UTF-8; bytes that are not come back as U+FFFD. A time outside the years 0 to 9999
// cannot be read back.
func Encode(c Checkpoint) []byte {
	events := c.Events
	if events == nil {
		events = []string{}
	}
	body, err := json.Marshal(content{
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
	})
	if err != nil {
		panic("checkpoint: strings and numbers cannot fail to encode: " + err.Error())
	}
	return frame(body)
}

func frame(body []byte) []byte {
	b := make([]byte, 0, len(body)+64)
	b = append(b, versionPrefix...)
	b = strconv.AppendInt(b, FormatVersion, 10)
	b = append(b, sumPrefix...)
	b = fmt.Appendf(b, "%08x", crc32.Checksum(body, castagnoli))
	b = append(b, contentPrefix...)
	b = append(b, body...)
	return append(b, documentEnd...)
}

// Decode reads what Encode wrote. Anything else is refused with an error that matches ErrCorrupt and says what is wrong: cut
// short, altered, something after the end, or written by a newer relay. Where Decode accepts data, Encode and Decode of the
// result give an equal Checkpoint.
func Decode(data []byte) (Checkpoint, error) {
	body, err := unframe(data)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	c, err := decodeContent(body)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: its checksum holds but its content is not that of format %d: %w", ErrCorrupt, FormatVersion, err)
	}
	return c, nil
}

// unframe returns the content, whose checksum holds.
func unframe(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return nil, errors.New("it is empty")
	}
	if len(data) > MaxEncoded {
		return nil, fmt.Errorf("it is longer than %d bytes", MaxEncoded)
	}
	rest, ok := bytes.CutPrefix(data, []byte(versionPrefix))
	if !ok {
		if bytes.HasPrefix([]byte(versionPrefix), data) {
			return nil, cutShort(data)
		}
		return nil, errors.New("it is not a checkpoint of relay")
	}
	if err := checkVersion(rest); err != nil {
		return nil, err
	}
	sumAt := len(strconv.Itoa(FormatVersion)) + len(sumPrefix)
	contentAt := sumAt + 8 + len(contentPrefix)
	switch {
	case !bytes.HasSuffix(rest, []byte("\n")) && !bytes.Contains(rest, []byte("\n")):
		return nil, cutShort(data)
	case bytes.IndexByte(rest, '\n') != len(rest)-1:
		return nil, errors.New("something follows its end")
	case len(rest) < contentAt+len(documentEnd):
		return nil, errors.New("it was altered: parts are missing")
	}
	body := rest[contentAt : len(rest)-len(documentEnd)]
	if !bytes.Equal(frame(body), data) {
		return nil, errors.New("it was altered: the checksum does not fit the content")
	}
	return body, nil
}

func cutShort(data []byte) error {
	return fmt.Errorf("it is cut short after %d bytes", len(data))
}

// checkVersion looks at the number that rest begins with.
func checkVersion(rest []byte) error {
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	if digits == len(rest) {
		return errors.New("it is cut short within the version of its format")
	}
	version, err := strconv.ParseUint(string(rest[:digits]), 10, 32)
	switch {
	case err != nil:
		return errors.New("it was altered: the version of its format is not a number")
	case version > FormatVersion:
		return fmt.Errorf("it has format version %d and was written by a newer relay; this one reads up to version %d", version, FormatVersion)
	case version < FormatVersion:
		return fmt.Errorf("it was altered: there is no format version %d", version)
	}
	return nil
}

func decodeContent(body []byte) (Checkpoint, error) {
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
	if len(in.Events) == 0 {
		in.Events = nil
	}
	return Checkpoint{
		Position:   Position{EventID: in.EventID, CreatedAt: created},
		Generation: in.Generation,
		Holder:     in.Holder,
		Released:   in.Released,
		Source:     Identity(in.Source),
		Mode:       in.Mode,
		Events:     in.Events,
		UpdatedAt:  updated,
		Revision:   in.Revision,
	}, nil
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
