//go:build linux

package hostile

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// hostileKafka is a Kafka cluster of one broker whose answers a test may alter while connections
// are open. What it stores is as a good broker would store it.
type hostileKafka struct {
	Broker  string
	alter   atomic.Pointer[alteration]
	altered atomic.Int64 // answers
}

// alteration returns what is sent in place of an answer. The connection is closed behind nothing.
type alteration func(a kafkaAnswer) []byte

// kafkaAnswer is an answer as the broker sends it.
type kafkaAnswer struct {
	Key     kmsg.Key
	Version int16
	Frame   []byte // with its size and its correlation id
}

// Body returns what follows the correlation id.
func (a kafkaAnswer) Body() []byte { return a.Frame[8:] }

// newHostileKafka starts a cluster that behaves.
func newHostileKafka(t testing.TB) *hostileKafka {
	t.Helper()
	h := &hostileKafka{}
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(func(network, address string) (net.Listener, error) {
		ln, err := net.Listen(network, address)
		return hostileListener{ln, h}, err
	}))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	h.Broker = c.ListenAddrs()[0]
	return h
}

// Turn makes the cluster alter its answers from now on, or behave if how is nil. It returns how
// many it has altered so far.
func (h *hostileKafka) Turn(how alteration) int64 {
	if how == nil {
		h.alter.Store(nil)
	} else {
		h.alter.Store(&how)
	}
	return h.altered.Load()
}

// Read returns the committed records of the topics from the beginning. The cluster must behave
// meanwhile.
func (h *hostileKafka) Read(t testing.TB, count int, topics ...string) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(h.Broker), kgo.ConsumeTopics(topics...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer cl.Close()
	var all []*kgo.Record
	for len(all) < count {
		fetches := cl.PollFetches(t.Context())
		require.NoError(t, t.Context().Err())
		all = append(all, fetches.Records()...)
	}
	return all
}

type hostileListener struct {
	net.Listener
	kafka *hostileKafka
}

func (l hostileListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hostileConn{Conn: c, kafka: l.kafka}, nil
}

// hostileConn is the broker's side of a connection. It is read by one goroutine, and written by
// one.
type hostileConn struct {
	net.Conn
	kafka   *hostileKafka
	request []byte // what has come of the next one
	answer  []byte // what the broker has written of the next one

	mu    sync.Mutex
	asked []kafkaAnswer // by correlation, without a frame
}

func (c *hostileConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.request = append(c.request, b[:n]...)
	for frame := cutFrame(&c.request); frame != nil; frame = cutFrame(&c.request) {
		c.mu.Lock()
		c.asked = append(c.asked, kafkaAnswer{
			Key: kmsg.Key(binary.BigEndian.Uint16(frame[4:])), Version: int16(binary.BigEndian.Uint16(frame[6:])), Frame: frame[8:12],
		})
		c.mu.Unlock()
	}
	return n, err
}

// cutFrame takes a complete frame off b, nil if there is none.
func cutFrame(b *[]byte) []byte {
	if len(*b) < 4 {
		return nil
	}
	end := 4 + int(binary.BigEndian.Uint32(*b))
	if len(*b) < end {
		return nil
	}
	frame := (*b)[:end:end]
	*b = (*b)[end:]
	return frame
}

func (c *hostileConn) Write(b []byte) (int, error) {
	c.answer = append(c.answer, b...)
	for frame := cutFrame(&c.answer); frame != nil; frame = cutFrame(&c.answer) {
		if alter := c.kafka.alter.Load(); alter != nil {
			a := c.answerTo(frame)
			if sent := (*alter)(a); !slices.Equal(sent, frame) {
				c.kafka.altered.Add(1)
				frame = sent
			}
		}
		if _, err := c.Conn.Write(frame); err != nil {
			return 0, err
		}
		if len(frame) == 0 {
			_ = c.Close()
			return 0, net.ErrClosed
		}
	}
	return len(b), nil
}

func (c *hostileConn) answerTo(frame []byte) kafkaAnswer {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, a := range c.asked {
		if slices.Equal(a.Frame, frame[4:8]) {
			c.asked = slices.Delete(c.asked, i, i+1)
			a.Frame = frame
			return a
		}
	}
	return kafkaAnswer{Key: -1, Frame: frame}
}

// framed puts a size and the correlation id of a before the body of an answer.
func (a kafkaAnswer) framed(body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)) //nolint:gosec // small
	return append(append(b, a.Frame[4:8]...), body...)
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
