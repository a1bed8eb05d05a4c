package kafka

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
)

// TestNextTryLooksAtOneTime: a pause that ends between the look at what is due and the choice of
// the next look is not slept through.
func TestNextTryLooksAtOneTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := placed(t, 1)
		now := time.Now()
		d.sender.queues[0].notBefore = now.Add(time.Millisecond) // not due at now
		time.Sleep(2 * time.Millisecond)
		at, ok := d.nextTry(now)
		require.True(t, ok)
		require.Equal(t, now.Add(time.Millisecond), at, "a pause that has just ended is due at once")
		d.running = 1 // as if an answer were under way
		started := time.Now()
		d.wait(now)
		d.running = 0
		require.Zero(t, time.Since(started))
	})
}

// throttling is a broker's side of a connection that puts a throttle time into the first answers of
// a kind, and counts what comes although it is not to come yet.
type throttling struct {
	key      kmsg.Key
	throttle time.Duration

	mu    sync.Mutex
	left  int // answers to throttle
	until time.Time
	early []string
}

func (th *throttling) option() kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		ln, err := net.Listen(network, address)
		return throttlingListener{ln, th}, err
	})
}

type throttlingListener struct {
	net.Listener
	th *throttling
}

func (l throttlingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &throttlingConn{Conn: c, th: l.th}, nil
}

type throttlingConn struct {
	net.Conn
	th   *throttling
	in   []byte
	mu   sync.Mutex
	keys []int16 // of the requests under way
}

func (c *throttlingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in = append(c.in, b[:n]...)
	for len(c.in) >= 8 {
		size := 4 + int(binary.BigEndian.Uint32(c.in))
		if len(c.in) < size {
			break
		}
		c.request(kmsg.Key(binary.BigEndian.Uint16(c.in[4:])))
		c.in = c.in[size:]
	}
	return n, err
}

func (c *throttlingConn) request(key kmsg.Key) {
	c.mu.Lock()
	c.keys = append(c.keys, int16(key))
	c.mu.Unlock()
	c.th.mu.Lock()
	defer c.th.mu.Unlock()
	applies := c.th.key != kmsg.Produce && key != kmsg.Produce || c.th.key == key // records have their own quota
	// What was under way when the answer came is not early.
	since := c.th.throttle - time.Until(c.th.until)
	if applies && since > 300*time.Millisecond && since < c.th.throttle && key != kmsg.ApiVersions {
		c.th.early = append(c.th.early, key.Name())
	}
}

func (c *throttlingConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	key := kmsg.Key(c.keys[0])
	c.keys = c.keys[1:]
	c.mu.Unlock()
	c.th.mu.Lock()
	if key == c.th.key && c.th.left > 0 {
		c.th.left--
		c.th.until = time.Now().Add(c.th.throttle)
		b = slices.Clone(b)
		at := 8
		if key == kmsg.Produce {
			at = len(b) - 4
		} else if slices.Contains([]kmsg.Key{kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.EndTxn, kmsg.CreateTopics}, key) {
			at = 9 // behind the tags of the header
		}
		binary.BigEndian.PutUint32(b[at:], uint32(c.th.throttle.Milliseconds()))
	}
	c.th.mu.Unlock()
	return c.Conn.Write(b)
}

// TestThrottleIsHonoured has each kind of request answered with a throttle time: relay sends
// nothing more meanwhile, and no deadline
// counts.
func TestThrottleIsHonoured(t *testing.T) {
	t.Parallel()
	for _, key := range []kmsg.Key{
		kmsg.Metadata, kmsg.InitProducerID, kmsg.FindCoordinator, kmsg.AddPartitionsToTxn, kmsg.EndTxn, kmsg.ListOffsets, kmsg.DescribeConfigs,
		kmsg.CreateTopics, kmsg.Produce, kmsg.Fetch,
	} {
		t.Run(key.Name(), func(t *testing.T) {
			t.Parallel()
			th := &throttling{key: key, throttle: 7 * time.Second, left: 2}
			c := fake(t, kfake.NumBrokers(1), th.option())
			cfg := uniqueLane(t, c.ListenAddrs())
			cfg.RequestTimeout = 6 * time.Second // shorter than the throttle time
			cfg.TransactionTimeout = 30 * time.Second
			l := openLedger(t, cfg, checkpointtest.Identity())
			ctx := within(t, patient)
			require.Eventually(t, func() bool { return l.Prepare(ctx, []string{"a"}) == nil }, patient, 10*time.Millisecond)
			// Like a lane, the test fences and loads again after an error: a machine that stands
			// still for longer than RequestTimeout makes one.
			var prev checkpoint.Checkpoint
			acquire := func() {
				require.Eventually(t, func() bool {
					err := l.Fence(ctx)
					if err == nil {
						prev, err = l.Load(ctx)
					}
					return err == nil || errors.Is(err, checkpoint.ErrNotFound)
				}, patient, 10*time.Millisecond)
			}
			acquire()
			require.Zero(t, prev.Revision)
			for i := range 3 {
				want := checkpointtest.Full(i + 1)
				for prev.EventID != want.EventID {
					next, err := l.Commit(ctx, messages(20*i, 20, "a"), prev, want)
					if err == nil {
						prev = next
						break
					}
					require.NoError(t, ctx.Err(), "%v", err)
					t.Log(err)
					acquire()
				}
			}
			require.Eventually(t, func() bool { _, err := l.Load(ctx); return err == nil }, patient, 10*time.Millisecond)
			th.mu.Lock()
			defer th.mu.Unlock()
			require.Less(t, th.left, 2, "no answer was throttled")
			require.Empty(t, th.early, "requests while the broker throttled relay")
		})
	}
}
