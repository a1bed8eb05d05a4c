package source

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
)

// DialWith makes the client's own connections go through dial.
func (c *Client) DialWith(dial func(ctx context.Context, network, address string) (net.Conn, error), config *tls.Config) {
	c.dial, c.tls = dial, config
}

// TransportWith returns a transport like a client's own, whose connections go through dial.
func TransportWith(dial func(ctx context.Context, network, address string) (net.Conn, error), config *tls.Config) http.RoundTripper {
	return &connections{dial: dial, tls: config}
}
