package verify

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// fileBuffer is the buffer of a file that is written or read.
const fileBuffer = 16 << 10

// event is what is kept of an event of the source.
type event struct {
	index   uint64 // place among the events that the bus should hold
	id      string
	topic   uint32 // number of the topic that the routes choose
	created int64  // Unix nanoseconds
	sum     [sha256.Size]byte
	key     uint64 // hash of the topic and the key of its message
}

// keyed is what is kept of a message in a compacted log.
type keyed struct {
	key     uint64 // as event.key
	created int64  // of its event, in Unix nanoseconds
}

func (k *keyed) encode(b []byte) []byte {
	return binary.AppendVarint(binary.BigEndian.AppendUint64(b, k.key), k.created)
}

func (k *keyed) decode(d *decoder) { k.key, k.created = d.word(), d.int() }

// copied is what is kept of a message on the bus: a copy of an event.
type copied struct {
	scan   uint64 // how many were kept before it
	id     string
	topic  uint32
	lane   uint32
	offset int64
	mark   mark
	sum    [sha256.Size]byte
}

// mark is how a message came to the bus.
type mark uint8

const (
	byLane   mark = iota
	byReplay      // relay replay
	byRepair      // relay verify --repair
	late          // the lane, long after its place: its type was refused for a while
)

func (e *event) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, e.index)
	b = appendString(b, e.id)
	b = binary.AppendUvarint(b, uint64(e.topic))
	b = binary.AppendVarint(b, e.created)
	b = binary.BigEndian.AppendUint64(b, e.key)
	return append(b, e.sum[:]...)
}

func (e *event) decode(d *decoder) {
	e.index, e.id, e.topic, e.created, e.key = d.uint(), d.text(), uint32(d.uint()), d.int(), d.word() //nolint:gosec // written above
	d.full(e.sum[:])
}

func (c *copied) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, c.scan)
	b = appendString(b, c.id)
	b = binary.AppendUvarint(b, uint64(c.topic))
	b = binary.AppendUvarint(b, uint64(c.lane))
	b = binary.AppendVarint(b, c.offset)
	b = append(b, byte(c.mark))
	return append(b, c.sum[:]...)
}

func (c *copied) decode(d *decoder) {
	c.scan, c.id, c.topic, c.lane, c.offset = d.uint(), d.text(), uint32(d.uint()), uint32(d.uint()), d.int() //nolint:gosec // written above
	var m [1]byte
	d.full(m[:])
	c.mark = mark(m[0])
	d.full(c.sum[:])
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// record is what files hold.
type record interface {
	encode(b []byte) []byte
	decode(d *decoder)
}

// writer appends records to a file.
type writer struct {
	f   *os.File
	buf *bufio.Writer
	tmp []byte
}

func newWriter(path string) (*writer, error) {
	f, err := os.Create(path) //nolint:gosec // inside the temporary folder
	if err != nil {
		return nil, err
	}
	return &writer{f: f, buf: bufio.NewWriterSize(f, fileBuffer)}, nil
}

func (w *writer) write(r record) error {
	w.tmp = r.encode(w.tmp[:0])
	_, err := w.buf.Write(w.tmp)
	return err
}

func (w *writer) close() error { return errors.Join(w.buf.Flush(), w.f.Close()) }

// writers are one file for each part.
type writers []*writer

func newWriters(n int, path func(part int) string) (writers, error) {
	ws := make(writers, 0, n)
	for i := range n {
		w, err := newWriter(path(i))
		if err != nil {
			return nil, errors.Join(err, ws.close())
		}
		ws = append(ws, w)
	}
	return ws, nil
}

func (ws writers) close() error {
	var errs []error
	for _, w := range ws {
		errs = append(errs, w.close())
	}
	return errors.Join(errs...)
}

// decoder reads the fields of records. Its error sticks; io.EOF is the end of the file between two
// records.
type decoder struct {
	r   *bufio.Reader
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil && err != nil {
		d.err = err
	}
}

func (d *decoder) uint() uint64 {
	v, err := binary.ReadUvarint(d.r)
	d.fail(err)
	return v
}

func (d *decoder) word() uint64 {
	var b [8]byte
	d.full(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (d *decoder) int() int64 {
	v, err := binary.ReadVarint(d.r)
	d.fail(err)
	return v
}

func (d *decoder) text() string {
	const most = 1 << 20
	n := d.uint()
	if d.err != nil {
		return ""
	}
	if n > most {
		d.fail(fmt.Errorf("a name of %d bytes", n))
		return ""
	}
	b := make([]byte, n)
	d.full(b)
	return string(b)
}

func (d *decoder) full(b []byte) {
	if d.err == nil {
		_, err := io.ReadFull(d.r, b)
		d.fail(err)
	}
}

// readAll decodes each record of the file into rec and calls fn.
func readAll(path string, rec record, fn func() error) error {
	f, err := os.Open(path) //nolint:gosec // inside the temporary folder
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	d := &decoder{r: bufio.NewReaderSize(f, fileBuffer)}
	for {
		if _, err := d.r.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		if rec.decode(d); d.err != nil {
			return fmt.Errorf("reading %s: %w", path, d.err)
		}
		if err := fn(); err != nil {
			return err
		}
	}
}
