package client

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"workos-relay/conf/livefile"
)

// PlainMechanism is the mechanism PLAIN. It reads the password for each connection.
func PlainMechanism(user string, password *livefile.Current) (sasl.Mechanism, error) {
	return newFresh(func() (sasl.Mechanism, error) {
		return plain.Mechanism{Username: user, Password: password.Latest().Reveal()}, nil
	})
}

// ScramMechanism is the mechanism SCRAM with a hash. It reads the password for each connection. It
// fails if the mechanism cannot use the password.
func ScramMechanism(hash scram.Algorithm, user string, password *livefile.Current) (sasl.Mechanism, error) {
	return newFresh(func() (sasl.Mechanism, error) { return scram.Mechanism(hash, user, password.Latest().Reveal()) })
}

// fresh is a mechanism that is made for each connection.
type fresh struct {
	name string
	make func() (sasl.Mechanism, error)
}

// newFresh makes one mechanism at once, so that a password that the mechanism cannot use is known
// at the start.
func newFresh(build func() (sasl.Mechanism, error)) (sasl.Mechanism, error) {
	m, err := build()
	if err != nil {
		return nil, err
	}
	return fresh{m.Name(), build}, nil
}

// Name implements sasl.Mechanism.
func (f fresh) Name() string { return f.name }

// Start implements sasl.Mechanism.
func (f fresh) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	m, err := f.make()
	if err != nil {
		return nil, nil, err
	}
	exchange, first, err := m.Start(ctx)
	if err != nil || !strings.HasPrefix(m.Name(), "SCRAM-") {
		return exchange, first, err
	}
	return scramExchange{exchange}, first, nil
}

// mostIterations bounds what a broker may make the client compute for a password, which takes about
// a second. Kafka's own tools store passwords with 4,096 to 16,384 iterations.
const mostIterations = 1_000_000

// scramExchange is an exchange of SCRAM that a broker cannot make last for hours.
type scramExchange struct{ sasl.StateMachine }

// Next implements sasl.StateMachine.
func (e scramExchange) Next(ctx context.Context, challenge []byte) (done bool, answer []byte, err error) {
	for field := range strings.SplitSeq(string(challenge), ",") {
		count, ok := strings.CutPrefix(field, "i=")
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(count); err != nil || n > mostIterations {
			return false, nil, fmt.Errorf("the broker asks for too many iterations of SCRAM (%.20q), and relay computes up to %d", count, mostIterations)
		}
	}
	return e.StateMachine.Next(ctx, challenge)
}
