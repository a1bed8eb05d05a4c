package kafka

import (
	"fmt"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/scram"

	"workos-relay/conf/livefile"
	"workos-relay/sink/kafka/internal/client"
)

// mechanism returns kafka-go's form of the section sasl, nil if SASL is not in use. It reads the
// password or the token again for each connection.
func (c Config) mechanism() (sasl.Mechanism, error) {
	password := c.Password
	if password == nil {
		password = livefile.Fixed(c.SASL.Password)
	}
	user := c.SASL.User
	switch c.SASL.Mechanism {
	case "", saslNone:
		return nil, nil
	case saslPlain:
		return client.PlainMechanism(user, password)
	case saslSCRAM256:
		return client.ScramMechanism(scram.SHA256, user, password)
	case saslSCRAM512:
		return client.ScramMechanism(scram.SHA512, user, password)
	case saslOAuthBearer:
		return c.newBearer()
	case saslMSKIAM:
		return c.newMSKIAM(), nil
	}
	return nil, fmt.Errorf("sasl.mechanism %q is not known", c.SASL.Mechanism)
}
