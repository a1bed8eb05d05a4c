package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
)

// Brokers may end the session of a login (connections.max.reauth.ms, or the end of the token's
// life), and then close the connection on the next request. A connection therefore logs in again
// (KIP-368) before a request if most of its session is over. kafka-go knows nothing of it: the
// exchange takes place between two of its requests. Nothing but that request waits, the connection
// stays, and so does what the brokers know of it.

const (
	// A session is renewed after a share of its life between these, by chance, so that connections
	// that were made together do not log in together. Kafka's Java client does it alike.
	renewFrom, renewTo = 0.85, 0.95
	// leastSession is the time between two logins of a connection. Brokers refuse a second one
	// within a second.
	leastSession = 1500 * time.Millisecond
	// loginPause is how long a failed try to get credentials is not repeated while the session
	// lasts.
	loginPause = time.Second

	loginVersion     = 1 // of SaslAuthenticate, the first that tells the end of a session
	handshakeVersion = 1 // of SaslHandshake, the first with SaslAuthenticate behind it
)

// session is the login of a connection. The zero session does not end.
type session struct {
	renew time.Time // when to log in again
	end   time.Time
}

// newSession returns a session that lasts for so long from now.
func newSession(now time.Time, life time.Duration) session {
	share := renewFrom + (renewTo-renewFrom)*rand.Float64() //nolint:gosec // jitter
	return session{renew: now.Add(max(time.Duration(share*float64(life)), leastSession)), end: now.Add(life)}
}

// due reports whether to log in before a request.
func (s session) due(now time.Time) bool { return !s.end.IsZero() && !now.Before(s.renew) }

// LoginError is a connection on which logging in again has failed. Its request was not sent, and
// the next connection may be accepted: it shows whether the credentials are at fault.
type LoginError struct {
	address string
	reason  string
}

func (e *LoginError) Error() string {
	return fmt.Sprintf("the session of the connection to %s ended, and logging in again on it failed: %s", e.address, e.reason)
}

// noteSession learns from an answer to SaslAuthenticate, behind its correlation id, when the
// session ends.
func (c *brokerConn) noteSession(body []byte) {
	if c.request.key != protocol.SaslAuthenticate || c.request.version < loginVersion {
		return
	}
	r := &wireReader{data: body}
	if r.int16() != 0 {
		return
	}
	_, _ = r.string(), r.bytes() // message and token
	const longest = 365 * 24 * time.Hour
	if life := r.int64(); !r.short && life > 0 {
		c.session = newSession(time.Now(), min(time.Duration(min(life, longest.Milliseconds()))*time.Millisecond, longest))
	}
}

// renewSession logs in again if that is due before the request that begins with b. If there are no
// credentials now, it leaves that to a later request while the session lasts.
func (c *brokerConn) renewSession(b []byte) error {
	now := time.Now()
	if !c.session.due(now) || len(b) < requestHead || unauthenticated(protocol.ApiKey(binary.BigEndian.Uint16(b[4:]))) { //nolint:gosec // its bits
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.cluster.RequestTimeout)
	defer cancel()
	host, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return &LoginError{c.address, err.Error()}
	}
	number, _ := strconv.Atoi(port)
	exchange, first, err := c.cluster.SASL.Start(sasl.WithMetadata(ctx, &sasl.Metadata{Host: host, Port: number}))
	if err != nil {
		if now.Before(c.session.end.Add(-loginPause)) {
			c.session.renew = now.Add(loginPause)
			return nil
		}
		return &LoginError{c.address, err.Error()}
	}
	defer c.bound()()
	if err := c.login(ctx, exchange, first); err != nil {
		return &LoginError{c.address, err.Error()}
	}
	return nil
}

// bound gives the exchange a deadline if the request has none. The returned function takes it back.
func (c *brokerConn) bound() func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.IsZero() {
		return func() {}
	}
	_ = c.Conn.SetDeadline(time.Now().Add(c.cluster.RequestTimeout)) // fails only if it is closed, which the next write says
	return func() { _ = c.Conn.SetDeadline(time.Time{}) }
}

// login carries out one exchange of SASL.
func (c *brokerConn) login(ctx context.Context, exchange sasl.StateMachine, token []byte) error {
	c.session = session{}
	res, err := c.roundTrip(&saslhandshake.Request{Mechanism: c.cluster.SASL.Name()}, handshakeVersion)
	if err != nil {
		return err
	}
	if code := res.(*saslhandshake.Response).ErrorCode; code != 0 {
		return kafkago.Error(code)
	}
	const most = 10 // messages; SCRAM takes two
	for range most {
		res, err := c.roundTrip(&saslauthenticate.Request{AuthBytes: token}, loginVersion)
		if err != nil {
			return err
		}
		answer := res.(*saslauthenticate.Response)
		if answer.ErrorCode != 0 {
			return BrokerError(answer.ErrorCode, answer.ErrorMessage)
		}
		done, next, err := exchange.Next(ctx, answer.AuthBytes)
		if err != nil || done {
			return err
		}
		token = next
	}
	return fmt.Errorf("the broker asks for more than %d messages", most)
}

// roundTrip sends a request between two of kafka-go's and returns its answer.
func (c *brokerConn) roundTrip(req protocol.Message, version int16) (protocol.Message, error) {
	var frame bytes.Buffer
	if err := protocol.WriteRequest(&frame, version, ownCorrelation, c.cluster.ClientID, req); err != nil {
		return nil, err
	}
	c.begin(frame.Bytes())
	c.sent-- // kafka-go has not counted it
	c.proof.add(frame.Bytes())
	if _, err := c.Conn.Write(frame.Bytes()); err != nil {
		return nil, c.connError(err)
	}
	c.unsent = 0
	if err := c.receive(); err != nil {
		return nil, err
	}
	answer := c.checked
	c.checked = nil
	_, res, err := protocol.ReadResponse(bytes.NewReader(answer), req.ApiKey(), version)
	return res, err
}
