package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"workos-relay/internal/operator"
)

// Destination records, outside of the bus, what a lane stored on it. It distinguishes a bus that
// lost data from one that relay never wrote to.
type Destination struct {
	Source   Identity // of the lane; Source.Destination names the bus
	Mode     Mode     // of the position
	Position Position // a committed position; the current one may be later
	Revision uint64   // of Position
	Parts    []Part   // sorted by name
	// Closed is set when the lane ends in order: the counts are exact then. After a crash they may
	// be behind.
	Closed bool
}

// Part is a stream or a topic of a bus.
type Part struct {
	Name  string `json:"name"`            // for operators: "stream WORKOS", "kafka topic workos.user.created"
	Topic string `json:"topic,omitempty"` // the only topic in it; empty if it holds all
	// ID changes if the part is deleted and made again. It is empty if the bus does not tell.
	ID string `json:"id,omitempty"`
	// Ends holds, for each partition, the offset or sequence that the next message gets. It never
	// goes back while the part keeps what it acknowledged, not even if retention removes every
	// message.
	Ends []int64 `json:"ends"`
	// Position is set if the part holds the position of the lane.
	Position bool   `json:"position,omitempty"`
	Used     bool   `json:"used"`            // relay stored something in it
	Events   uint64 `json:"events"`          // how many messages relay stored in it
	Rough    bool   `json:"rough,omitempty"` // Events is an estimate
	// Lost is how many messages the part had lost when it was noticed. It stays until an operator
	// decides where to go on.
	Lost uint64 `json:"lost,omitempty"`
}

// destinationContent is what the file holds.
type destinationContent struct {
	Source    contentIdentity `json:"source"`
	Mode      Mode            `json:"mode"`
	EventID   string          `json:"event_id"`
	CreatedAt string          `json:"created_at"`
	Revision  uint64          `json:"revision"`
	Parts     []Part          `json:"parts"`
	Closed    bool            `json:"closed"`
}

// maxDestination bounds the size in bytes of the file: some thousand topics with a hundred
// partitions each.
const maxDestination = 16 << 20

// The file is one line: this prefix, the CRC-32C of the JSON in hexadecimal, a space, the JSON.
const destinationPrefix = "relay-destination 1 "

func encodeDestination(d Destination) ([]byte, error) {
	body, err := json.Marshal(destinationContent{
		Source: contentIdentity(d.Source), Mode: d.Mode, EventID: d.Position.EventID, CreatedAt: formatTime(d.Position.CreatedAt),
		Revision: d.Revision, Parts: d.Parts, Closed: d.Closed,
	})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s%08x %s\n", destinationPrefix, crc32.Checksum(body, castagnoli), body), nil
}

func decodeDestination(data []byte) (Destination, error) {
	rest, ok := bytes.CutPrefix(data, []byte(destinationPrefix))
	if !ok {
		return Destination{}, errors.New("it is not a record of a destination, or written by a newer relay")
	}
	sum, body, ok := bytes.Cut(bytes.TrimSuffix(rest, []byte("\n")), []byte(" "))
	if !ok || string(sum) != fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) {
		return Destination{}, errors.New("it is cut short or altered: the checksum does not fit the content")
	}
	var in destinationContent
	if err := json.Unmarshal(body, &in); err != nil {
		return Destination{}, err
	}
	created, err := parseTime(in.CreatedAt)
	if err != nil {
		return Destination{}, fmt.Errorf("created_at: %w", err)
	}
	return Destination{
		Source: Identity(in.Source), Mode: in.Mode, Position: Position{EventID: in.EventID, CreatedAt: created},
		Revision: in.Revision, Parts: in.Parts, Closed: in.Closed,
	}, nil
}

// LoadDestination returns what SaveDestination saved last. It returns ErrNotFound if there is no
// record, and ErrCorrupt if the record cannot be read.
func (f *File) LoadDestination(ctx context.Context) (Destination, error) {
	if err := ctx.Err(); err != nil {
		return Destination{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return Destination{}, err
	}
	return f.paths.loadDestination()
}

// ReadDestination is LoadDestination without the lock, while a relay may be running. Errors are
// those of LoadDestination.
func ReadDestination(dir string, id Identity) (Destination, error) {
	p, err := newPaths(dir, id)
	if err != nil {
		return Destination{}, err
	}
	return p.loadDestination()
}

func (p paths) loadDestination() (Destination, error) {
	data, err := ReadOwn(p.destination, maxDestination+1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Destination{}, fmt.Errorf("%w: %s does not exist", ErrNotFound, p.destination)
	case err != nil:
		return Destination{}, fmt.Errorf("read the record of the destination: %w", err)
	}
	d, err := decodeDestination(data)
	if err != nil {
		return Destination{}, operator.Require(fmt.Errorf("%s: %w: %w", p.destination, ErrCorrupt, err),
			"say where to go on")
	}
	return d, nil
}

// SaveDestination replaces the record of the destination. The record is durable when it returns
// nil; after an error the previous one is still there.
func (f *File) SaveDestination(ctx context.Context, d Destination) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	document, err := encodeDestination(d)
	if err != nil {
		return fmt.Errorf("encode the record of the destination: %w", err)
	}
	if len(document) > maxDestination {
		return fmt.Errorf("the record of the destination takes %d bytes, more than %d", len(document), maxDestination)
	}
	if err := replaceFile(f.paths.destination, f.paths.destination+temporarySuffix, document); err != nil {
		return fmt.Errorf("write %s: %w", f.paths.destination, err)
	}
	if err := syncDir(f.paths.dir); err != nil {
		return fmt.Errorf("make %s durable: fsync of its directory: %w", f.paths.destination, err)
	}
	return nil
}

// ForgetDestination removes the record of the destination. It is called when an operator has
// decided where to continue.
func (f *File) ForgetDestination(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	if err := removeIfThere(f.paths.destination); err != nil {
		return fmt.Errorf("remove the record of the destination: %w", err)
	}
	if err := syncDir(f.paths.dir); err != nil {
		return fmt.Errorf("make the removal of %s durable: fsync of its directory: %w", f.paths.destination, err)
	}
	return nil
}
