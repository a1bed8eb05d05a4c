package nats

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/sink"
)

const topic = "dsync.user.created"

// numbered makes n messages with ids e0, e1, and so on.
func numbered(n int) []sink.Message {
	batch := make([]sink.Message, n)
	for i := range batch {
		id := fmt.Sprintf("e%d", i)
		batch[i] = sink.Message{Topic: topic, ID: id, Headers: []sink.Header{{Key: "event-id", Value: id}}, Body: []byte(id)}
	}
	return batch
}

// spoil makes the server refuse one message, error 10060, and only that.
func spoil(m *sink.Message) {
	m.Headers = append(m.Headers, sink.Header{Key: "Nats-Expected-Stream", Value: "ANOTHER"})
}

func bodies(t *testing.T, js jetstream.JetStream) string {
	t.Helper()
	var all []string
	for _, m := range readAll(t, js, defaultStream, []string{topic}) {
		all = append(all, string(m.Body))
	}
	return strings.Join(all, " ")
}

func prepared(t *testing.T, cfg Config) (*Sink, jetstream.JetStream) {
	t.Helper()
	srv := newServer(t)
	cfg.URL, cfg.Create.Enabled = srv.url(), true
	s := open(t, cfg)
	require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	return s, client(t, srv.url())
}

// preparedBehind has a proxy between the sink and the server.
func preparedBehind(t *testing.T, cfg Config) (*Sink, jetstream.JetStream, *proxy) {
	t.Helper()
	srv := newServer(t)
	p := newProxy(t, srv)
	cfg.URL, cfg.Create.Enabled = p.addr, true
	s := open(t, cfg)
	require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	return s, client(t, srv.url()), p
}

// publishHeld publishes batch and lets no answer through until the stream holds exactly stored:
// otherwise a refusal may come early enough to keep the rest of the batch from being sent. The
// caller lets them go on, by proxy.replies. What Publish returns comes later.
func publishHeld(ctx context.Context, t *testing.T, s *Sink, js jetstream.JetStream, p *proxy, batch []sink.Message, stored string) (done <-chan error) {
	t.Helper()
	p.replies.Lock()
	result := make(chan error, 1)
	go func() { result <- s.Publish(ctx, batch) }()
	require.Eventually(t, func() bool { return bodies(t, js) == stored }, patient, often)
	return result
}

func TestFirstFailureEndsThePrefix(t *testing.T) {
	t.Parallel()
	for _, window := range []int{1, 3, 100} {
		t.Run(fmt.Sprintf("window %d", window), func(t *testing.T) {
			s, js := prepared(t, Config{Window: window})
			batch := numbered(10)
			spoil(&batch[4])
			err := s.Publish(t.Context(), batch)
			require.ErrorContains(t, err, "10060")
			require.Equal(t, 4, sink.Durable(err, 10))
			var rejected *sink.RejectedError
			require.NotErrorAs(t, err, &rejected)
			if window == 1 {
				require.Equal(t, "e0 e1 e2 e3", bodies(t, js), "sent after the failure was known")
			}
		})
	}
}

// TestHoleIsFilledInOrder leaves messages behind a hole in the stream, as a leader election does:
// published again from the hole on, they must follow it, although the stream knows their ids.
//
// P2: after a hole, on JetStream.
func TestHoleIsFilledInOrder(t *testing.T) {
	t.Parallel()
	s, js, proxy := preparedBehind(t, Config{})
	batch := numbered(6)
	spoil(&batch[2])
	done := publishHeld(t.Context(), t, s, js, proxy, batch, "e0 e1 e3 e4 e5")
	proxy.replies.Unlock()
	require.Equal(t, 2, sink.Durable(<-done, 6))

	batch[2] = numbered(6)[2]
	require.NoError(t, s.Publish(t.Context(), batch[2:]))
	require.Equal(t, "e0 e1 e3 e4 e5 e2 e3 e4 e5", bodies(t, js))

	require.NoError(t, s.Publish(t.Context(), batch[5:]), "a plain second copy")
	require.Equal(t, "e0 e1 e3 e4 e5 e2 e3 e4 e5", bodies(t, js))
}

// TestHoleIsFilledOneByOne is the same if each message comes in its own batch.
func TestHoleIsFilledOneByOne(t *testing.T) {
	t.Parallel()
	s, js, proxy := preparedBehind(t, Config{})
	batch := numbered(4)
	spoil(&batch[1])
	done := publishHeld(t.Context(), t, s, js, proxy, batch, "e0 e2 e3")
	proxy.replies.Unlock()
	require.Equal(t, 1, sink.Durable(<-done, 4))
	batch[1] = numbered(4)[1]
	for i := 1; i < 4; i++ {
		require.NoError(t, s.Publish(t.Context(), batch[i:i+1]))
	}
	require.Equal(t, "e0 e2 e3 e1 e2 e3", bodies(t, js))
	require.Empty(t, s.publisher.ahead)
}

// TestHoleOfAnotherProcess is the same where the relay that left the hole is gone.
func TestHoleOfAnotherProcess(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	batch := numbered(6)
	require.NoError(t, s.Publish(t.Context(), batch[3:]))
	other := open(t, *s.cfg)
	require.NoError(t, other.Publish(t.Context(), batch))
	require.Equal(t, "e3 e4 e5 e0 e1 e2 e3 e4 e5", bodies(t, js))
}

// TestSameIDTwiceInABatch: the stream takes the second message for a copy of the first. It is
// stored all the same.
func TestSameIDTwiceInABatch(t *testing.T) {
	t.Parallel()
	s, js, proxy := preparedBehind(t, Config{})
	batch := numbered(3)
	batch[1].ID = batch[0].ID
	done := publishHeld(t.Context(), t, s, js, proxy, batch, "e0 e2")
	proxy.replies.Unlock()
	require.NoError(t, <-done)
	require.Equal(t, "e0 e2 e1 e2", bodies(t, js))
}

func TestRejectedByTheStream(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	conf := st.CachedInfo().Config
	conf.MaxMsgSize = 1000
	_, err = js.UpdateStream(t.Context(), conf)
	require.NoError(t, err)

	batch := numbered(5)
	batch[3].Body = make([]byte, 1000)
	for _, learned := range []bool{false, true} {
		err := s.Publish(t.Context(), batch)
		var rejected *sink.RejectedError
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, 3, sink.Durable(err, 5))
		require.Equal(t, topic, rejected.Topic)
		if learned {
			require.Contains(t, rejected.Reason, "max_msg_size 1000 of stream WORKOS")
		}
		require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	}
}

// TestSizeLimitIsExact finds the largest message that is sent, and that the server takes it.
func TestSizeLimitIsExact(t *testing.T) {
	t.Parallel()
	for name, maxMsgSize := range map[string]int32{"server": 0, "stream": 5000} {
		t.Run(name, func(t *testing.T) {
			s, js := prepared(t, Config{})
			limit := 1 << 20
			if maxMsgSize > 0 {
				limit = int(maxMsgSize)
				st, err := js.Stream(t.Context(), defaultStream)
				require.NoError(t, err)
				conf := st.CachedInfo().Config
				conf.MaxMsgSize = maxMsgSize
				_, err = js.UpdateStream(t.Context(), conf)
				require.NoError(t, err)
				require.NoError(t, s.Prepare(t.Context(), []string{topic}))
			}
			batch := numbered(2)
			overhead := len("NATS/1.0\r\n\r\nevent-id: e0\r\nNats-Msg-Id: e0\r\n")
			batch[0].Body, batch[1].Body = make([]byte, limit-overhead), make([]byte, limit-overhead+1)
			err := s.Publish(t.Context(), batch)
			var rejected *sink.RejectedError
			require.ErrorAs(t, err, &rejected)
			require.Equal(t, 1, sink.Durable(err, 2))
			require.Contains(t, rejected.Reason, fmt.Sprintf("%d bytes exceed", limit+1))
			require.Contains(t, rejected.Reason, fmt.Sprint(limit))
		})
	}
}

func TestRejectedHeaders(t *testing.T) {
	t.Parallel()
	s, _ := prepared(t, Config{})
	for name, h := range map[string]sink.Header{
		"line break": {Key: "x", Value: "a\r\nInjected: b"},
		"name":       {Key: "x y", Value: "a"},
		"no name":    {Value: "a"},
		"too large":  {Key: "x", Value: strings.Repeat("a", 66_000)},
	} {
		t.Run(name, func(t *testing.T) {
			batch := numbered(1)
			batch[0].Headers = append(batch[0].Headers, h)
			var rejected *sink.RejectedError
			require.ErrorAs(t, s.Publish(t.Context(), batch), &rejected)
			require.NotContains(t, rejected.Reason, "stream WORKOS refuses", "found by the server only")
		})
	}
}

func TestStreamIsFull(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: defaultStream, Subjects: []string{topic}, MaxMsgs: 5, Discard: jetstream.DiscardNew,
	})
	require.NoError(t, err)
	s := open(t, Config{URL: srv.url()})
	require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	status, err := s.Inspect(t.Context(), []string{topic})
	require.NoError(t, err)
	require.Len(t, status[0].Warnings, 1)

	err = s.Publish(t.Context(), numbered(8))
	require.ErrorContains(t, err, "maximum messages exceeded")
	require.Equal(t, 5, sink.Durable(err, 8))
	var fatal *sink.FatalError
	require.NotErrorAs(t, err, &fatal, "it may get room again")
}

func TestNoAcknowledgement(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: defaultStream, Subjects: []string{topic}, NoAck: true})
	require.NoError(t, err)
	s := open(t, Config{URL: srv.url(), AckTimeout: 150 * time.Millisecond})
	require.Eventually(t, s.conn.link.nc.IsConnected, patient, often)
	err = s.Publish(t.Context(), numbered(3))
	require.ErrorIs(t, err, errAckTimeout)
	require.ErrorContains(t, err, "stream WORKOS acknowledged nothing for 150ms")
	require.Zero(t, sink.Durable(err, 3))
}

func TestFatalWhilePublishing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(ctx context.Context, js jetstream.JetStream) error
		want   []string
	}{
		"stream deleted": {
			func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, defaultStream) },
			[]string{"stream WORKOS", "deleted"},
		},
		"subject removed": {
			func(ctx context.Context, js jetstream.JetStream) error {
				st, err := js.Stream(ctx, defaultStream)
				if err != nil {
					return err
				}
				conf := st.CachedInfo().Config
				conf.Subjects = []string{"other"}
				_, err = js.UpdateStream(ctx, conf)
				return err
			},
			[]string{"stream WORKOS does not bind " + topic},
		},
		"another stream took the subject": {
			func(ctx context.Context, js jetstream.JetStream) error {
				// After the last stream of an account a server removes the account's folder, also
				// from under the next one.
				if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "STAYS", Subjects: []string{"stays"}}); err != nil {
					return err
				}
				if err := js.DeleteStream(ctx, defaultStream); err != nil {
					return err
				}
				_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "THIEF", Subjects: []string{"dsync.>"}})
				return err
			},
			[]string{topic, "THIEF", "WORKOS"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, js := prepared(t, Config{})
			require.NoError(t, s.Publish(t.Context(), numbered(2)))
			require.NoError(t, c.change(t.Context(), js))
			err := s.Publish(t.Context(), numbered(4)[2:])
			var fatal *sink.FatalError
			require.ErrorAs(t, err, &fatal)
			require.Zero(t, sink.Durable(err, 2))
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// TestNothingIsSentAfterAFailure has the failure known before the attempt begins, which no server
// can be timed to do.
func TestNothingIsSentAfterAFailure(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	a := newAttempt(s.stream, 1, numbered(3), true, 0)
	a.fail(0, errAckTimeout)
	require.ErrorIs(t, s.publisher.send(t.Context(), s.conn.link, a, nil), errAckTimeout)
	require.Zero(t, a.sent)
	require.Empty(t, bodies(t, js))
}

// TestWaitForACommitEnds with the context, or when the sink closes.
func TestWaitForACommitEnds(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	committed, err := s.sender.begin(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Publish(ctx, numbered(1)) }()
	cancel()
	select {
	case err := <-done:
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, sink.Durable(err, 1))
	case <-time.After(patient):
		require.Fail(t, "Publish does not end with its context")
	}
	go func() { done <- s.Publish(t.Context(), numbered(1)) }()
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	require.ErrorIs(t, <-done, errClosed)
	committed()
	require.NoError(t, <-closed)
	require.Empty(t, bodies(t, js))
}

// TestStreamThatWentBack: a new message is stored before one that the stream has acknowledged,
// which is said once. A copy that the stream recognizes says nothing of the kind.
//
// P3: a stream that lost what it acknowledged.
func TestStreamThatWentBack(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	require.NoError(t, s.Publish(t.Context(), numbered(5)))
	require.NoError(t, s.Publish(t.Context(), numbered(5)), "the stream has them already")
	info, err := js.Stream(t.Context(), "WORKOS")
	require.NoError(t, err)
	config := info.CachedInfo().Config
	require.NoError(t, js.DeleteStream(t.Context(), "WORKOS"))
	_, err = js.CreateStream(t.Context(), config)
	require.NoError(t, err)
	err = s.Publish(t.Context(), numbered(8)[5:])
	var back *sink.WentBackError
	require.ErrorAs(t, err, &back)
	require.Equal(t, sink.WentBackError{Part: "stream WORKOS", Missing: 5}, *back)
	require.Zero(t, sink.Durable(err, 3))
	require.NoError(t, s.Publish(t.Context(), numbered(9)[8:]), "an operator has decided meanwhile")
}

// TestStreamThatGoesBackWithinAnAttempt: a message that is sent after an acknowledgement is stored
// behind what that acknowledged. One that was in flight already need not be.
//
// P3: a stream that loses what it acknowledged while a batch is published.
func TestStreamThatGoesBackWithinAnAttempt(t *testing.T) {
	t.Parallel()
	s, _ := prepared(t, Config{})
	a := newAttempt(s.stream, 1, numbered(4), true, 0)
	stored := func(index int, seq uint64) {
		a.answered(index, &nats.Msg{Data: fmt.Appendf(nil, "%s%d}", s.stream.home.Load().ackPrefix, seq)})
	}
	a.noteSent(1)
	a.noteSent(2)
	stored(1, 11)
	stored(0, 10)
	prefix, failure := a.progress()
	require.NoError(t, failure, "both were in flight")
	require.Equal(t, 2, prefix)
	a.noteSent(3)
	stored(2, 12)
	a.noteSent(4)
	stored(3, 5)
	prefix, failure = a.progress()
	require.Equal(t, 3, prefix)
	var back *sink.WentBackError
	require.ErrorAs(t, failure, &back)
	require.EqualValues(t, 8, back.Missing)
}

// TestWhatTheStreamHadIsForgotten: an operator has answered for a loss that no acknowledgement told
// of, and the same sink goes on. The next loss is seen again.
//
// P3: a lane goes on after the answer, and stops at the next loss.
func TestWhatTheStreamHadIsForgotten(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	lose := func() {
		stream, err := js.Stream(t.Context(), "WORKOS")
		require.NoError(t, err)
		require.NoError(t, js.DeleteStream(t.Context(), "WORKOS"))
		_, err = js.CreateStream(t.Context(), stream.CachedInfo().Config)
		require.NoError(t, err)
	}
	require.NoError(t, s.Publish(t.Context(), numbered(5)))
	lose()
	s.Forget()
	require.NoError(t, s.Publish(t.Context(), numbered(8)[5:]))
	lose()
	err := s.Publish(t.Context(), numbered(9)[8:])
	var back *sink.WentBackError
	require.ErrorAs(t, err, &back)
	require.EqualValues(t, 3, back.Missing)
}

// TestOutcome: the reason must belong to the first message that is not durable, or a lane would
// drop the wrong one.
func TestOutcome(t *testing.T) {
	t.Parallel()
	rejected := &sink.RejectedError{Topic: topic, Reason: "too large"}
	a := newAttempt(nil, 1, numbered(4), true, 0)
	a.noteSent(4)
	a.recordStored(0, 10)
	a.fail(2, rejected)
	a.recordStored(3, 11)
	o := a.finish(rejected)
	require.Equal(t, 1, o.prefix)
	require.EqualValues(t, 10, o.lastSeq)
	require.Equal(t, 4, o.sent)
	require.ErrorIs(t, o.err, errAckTimeout)
	require.NotErrorAs(t, o.err, new(*sink.RejectedError))

	a.recordStored(1, 12)
	o = a.finish(rejected)
	require.Equal(t, 2, o.prefix)
	require.ErrorAs(t, o.err, new(*sink.RejectedError))
	a.fail(3, errLost)
	a.recordStored(2, 13)
	require.Equal(t, 2, a.finish(rejected).prefix, "nothing counts after a failure")
}

// TestCancelledWithAcksInFlight: what is acknowledged shortly after the context has ended counts as
// durable.
func TestCancelledWithAcksInFlight(t *testing.T) {
	t.Parallel()
	s, js, proxy := preparedBehind(t, Config{})
	s.sender.ackDrain = patient
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := publishHeld(ctx, t, s, js, proxy, numbered(5), "e0 e1 e2 e3 e4")
	cancel()
	proxy.replies.Unlock()
	require.NoError(t, <-done)
}

// TestConnectionLostInMidBatch: without waiting for ack_timeout, and the second copies are
// recognised.
func TestConnectionLostInMidBatch(t *testing.T) {
	t.Parallel()
	s, js, proxy := preparedBehind(t, Config{AckTimeout: time.Hour})
	done := publishHeld(t.Context(), t, s, js, proxy, numbered(5), "e0 e1 e2 e3 e4")
	proxy.cut()
	err := <-done
	proxy.replies.Unlock()
	require.ErrorIs(t, err, errLost)
	require.Zero(t, sink.Durable(err, 5))
	again(t, "publishing", func(ctx context.Context) error { return s.Publish(ctx, numbered(5)) })
	require.Equal(t, "e0 e1 e2 e3 e4", bodies(t, js))
}

func TestAckForms(t *testing.T) {
	t.Parallel()
	type form struct {
		data  string
		seq   uint64 // 0: it does not count
		plain bool   // read without a JSON decoder
	}
	for domain, forms := range map[string][]form{
		"": {
			{`{"stream":"WORKOS","seq":17}`, 17, true},
			{`{"stream":"WORKOS","seq":17,"duplicate": true}`, 17, false},
			{`{"stream":"WORKOS", "domain":"hub", "seq":9999999999999}`, 0, false},
			{`{"stream":"WORKOS","seq":18446744073709551615}`, 18446744073709551615, false},
			{`{"stream":"WORKOS","seq":0}`, 0, false},
			{`{"stream":"WORKOS","seq":}`, 0, false},
			{`{"stream":"WORKOS2","seq":17}`, 0, false},
			{`{"error":{"code":503,"err_code":10077},"seq":0}`, 0, false},
			{`{"stream":"WORKOS","seq":0,"seq":17}`, 0, false},
			{`{"stream":"OTHER","stream":"WORKOS","seq":17}`, 0, false},
			{`{"Stream":"WORKOS","SEQ":17}`, 0, false},
			{``, 0, false},
			{`{"stream":"WORKOS","seq":17`, 0, false},
		},
		"hub": {
			{`{"stream":"WORKOS","domain":"hub","seq":17}`, 17, true},
			{`{"stream":"WORKOS","domain":"hub","seq":17,"duplicate": true}`, 17, false},
			{`{"stream":"WORKOS", "domain":"hub", "seq":9999999999999}`, 9999999999999, false},
			{`{"stream":"WORKOS","seq":17}`, 0, false},
			{`{"stream":"WORKOS","domain":"leaf","seq":17}`, 0, false},
			{`{"stream":"WORKOS","domain":"hub2","seq":17}`, 0, false},
			{`{"stream":"WORKOS2","domain":"hub","seq":17}`, 0, false},
		},
	} {
		s := &stream{cfg: &Config{Stream: "WORKOS", Logger: zap.NewNop()}}
		s.home.Store(newHome("WORKOS", domain, ""))
		for _, f := range forms {
			seq, plain := s.plainAck([]byte(f.data))
			require.Equal(t, f.plain, plain, f.data)
			if !plain {
				var err error
				var a ack
				a, err = s.parseAck(&nats.Msg{Data: []byte(f.data)})
				seq = a.Seq
				require.Equal(t, f.seq == 0, err != nil, "%s: %v", f.data, err)
			}
			require.Equal(t, f.seq, seq, f.data)
		}
	}
}

func TestReplySubject(t *testing.T) {
	t.Parallel()
	for _, index := range []int{0, 1, 35, 36, 999, 65535} {
		a := &attempt{number: 1<<40 + 7}
		number, got, ok := parseReply(reply("_INBOX.a.b", a.number, index))
		require.True(t, ok)
		require.Equal(t, a.number, number)
		require.Equal(t, index, got)
	}
	for _, subject := range []string{"", "a", "a.b.", "a.!.1", "a.1.-1"} {
		_, _, ok := parseReply(subject)
		require.False(t, ok, subject)
	}
}
