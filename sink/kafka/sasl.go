package kafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// mechanism returns kafka-go's form of the section, nil where SASL is not in use.
func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "", saslNone:
		return nil, nil
	case saslPlain:
		return plain.Mechanism{Username: s.User, Password: s.Password.Reveal()}, nil
	case saslSCRAM256:
		return scram.Mechanism(scram.SHA256, s.User, s.Password.Reveal())
	case saslSCRAM512:
		return scram.Mechanism(scram.SHA512, s.User, s.Password.Reveal())
	case saslOAuthBearer:
		m := bearer{file: s.TokenFile}
		_, err := m.token()
		return m, err
	}
	return nil, fmt.Errorf("sasl.mechanism %q is not known", s.Mechanism)
}

// bearer is the mechanism OAUTHBEARER (RFC 7628) with a token that others keep fresh in a file.
type bearer struct{ file string }

func (bearer) Name() string { return "OAUTHBEARER" }

func (m bearer) token() (string, error) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return "", fmt.Errorf("reading sasl.token_file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, "\x01 \r\n\t") {
		return "", fmt.Errorf("sasl.token_file %s does not hold one bearer token", m.file)
	}
	return token, nil
}

// Start implements sasl.Mechanism.
func (m bearer) Start(context.Context) (sasl.StateMachine, []byte, error) {
	token, err := m.token()
	if err != nil {
		return nil, nil, err
	}
	return bearerExchange{}, []byte("n,,\x01auth=Bearer " + token + "\x01\x01"), nil
}

type bearerExchange struct{}

// errTokenRefused is the answer of a broker that does not accept the bearer token.
var errTokenRefused = errors.New("the broker refused the bearer token of sasl.token_file")

// Next implements sasl.StateMachine: a challenge after the token is the broker's reason for refusing it.
func (bearerExchange) Next(_ context.Context, challenge []byte) (bool, []byte, error) {
	if len(challenge) > 0 {
		return false, nil, fmt.Errorf("%w: %s", errTokenRefused, challenge)
	}
	return true, nil, nil
}
