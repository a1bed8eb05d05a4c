package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/internal/printable"
)

// maxAnswer bounds what a Client reads of an answer.
const maxAnswer = 16 << 20

// Client talks to the Server of a running relay, as the configuration of that relay describes it.
// It is safe for concurrent use.
type Client struct {
	who   string // as thisCommand
	base  string
	token secret.String
	http  *http.Client
}

// AnswerError is what the relay said instead of doing what was asked.
type AnswerError struct {
	Code   int // HTTP status
	Text   string
	Action string // what an operator has to do, if only an operator can resolve it
}

// Error implements error.
func (e *AnswerError) Error() string { return e.Text }

// OperatorAction says what an operator has to do; empty if nothing.
func (e *AnswerError) OperatorAction() string { return e.Action }

// UnreachableError says that nobody answers there.
type UnreachableError struct {
	Addr string
	Err  error
}

// Error implements error.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no relay answers on %s (admin.listen): %v; start it with relay run, or correct admin.listen", e.Addr, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// NewClient returns a client of the relay that listens there under that security. An address for
// every interface is reached by loopback. With TLS it trusts the server's own certificate as it is
// on this machine, besides the system's authorities, and shows the same certificate itself where
// client certificates are asked for.
func NewClient(listen string, s Security) (*Client, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("admin.listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	addr := net.JoinHostPort(host, port)
	transport := &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1} // no proxy: it is this machine, or near
	scheme := "http://"
	if s.TLS.InUse() {
		scheme = "https://"
		if transport.TLSClientConfig, err = s.TLS.client(host); err != nil {
			return nil, err
		}
	}
	return &Client{base: scheme + addr, token: s.Token, who: thisCommand(), http: &http.Client{
		Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// client is the other end of config: the certificate need not be of the address, if it is the
// very one of the server.
func (t TLS) client(host string) (*tls.Config, error) {
	current, err := livefile.Pair(nil, t.Pair)
	if err != nil {
		return nil, err
	}
	pair := *current.Latest()
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if t.ClientCA.Given() {
		text, err := livefile.Open(nil, []livefile.File{t.ClientCA}, func(contents [][]byte) (livefile.Parsed[[]byte], error) {
			return livefile.Parsed[[]byte]{Value: contents[0]}, nil
		})
		if err != nil {
			return nil, err
		}
		roots.AppendCertsFromPEM(text.Latest())
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies
		VerifyConnection: func(c tls.ConnectionState) error {
			if bytes.Equal(c.PeerCertificates[0].Raw, pair.Certificate[0]) {
				return nil
			}
			between := x509.NewCertPool()
			for _, cert := range c.PeerCertificates[1:] {
				between.AddCert(cert)
			}
			_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between})
			return err
		},
	}, nil
}

// Addr is where the client asks, for people.
func (c *Client) Addr() string {
	return strings.TrimPrefix(strings.TrimPrefix(c.base, "http://"), "https://")
}

// Status asks how the relay is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	return out, c.do(ctx, http.MethodGet, "/api/v1/status", nil, &out)
}

// Steer asks for "pause", "resume" or "poll" of the named lanes, or of all if none is named. It
// returns how each is then, which for a pause may be that an Append is still under way.
func (c *Client) Steer(ctx context.Context, what string, lanes []string) ([]LaneState, error) {
	path := "/api/v1/" + what
	if len(lanes) > 0 {
		path += "?" + url.Values{"lane": lanes}.Encode()
	}
	var out []LaneState
	return out, c.do(ctx, http.MethodPost, path, nil, &out)
}

// Snapshot makes a lane read a snapshot of these entities, of all that it keeps if there are none.
// It does not wait for it.
func (c *Client) Snapshot(ctx context.Context, lane string, entities []string) error {
	var out []LaneState
	return c.do(ctx, http.MethodPost, "/api/v1/lanes/"+url.PathEscape(lane)+"/snapshot", Wanted{Entities: entities}, &out)
}

// Reload asks the relay to read its configuration again.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	var out Reloaded
	return out, c.do(ctx, http.MethodPost, "/api/v1/reload", nil, &out)
}

// SetCheckpoint asks a lane to go on from elsewhere.
func (c *Client) SetCheckpoint(ctx context.Context, lane string, to Destination) (Moved, error) {
	var out Moved
	return out, c.do(ctx, http.MethodPut, "/api/v1/lanes/"+url.PathEscape(lane)+"/checkpoint", to, &out)
}

// do sends a request and reads the answer into out. The error is an *UnreachableError, an
// *AnswerError or about an answer that is
// none.
func (c *Client) do(ctx context.Context, method, path string, body, out any) error {
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, sent)
	if err != nil {
		return err
	}
	req.Header.Set(Header, c.who)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token.IsSet() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return &UnreachableError{Addr: c.Addr(), Err: err}
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.Addr(), err)
	}
	if resp.StatusCode/100 != 2 {
		var f failure
		if json.Unmarshal(text, &f) != nil || f.Error == "" {
			return fmt.Errorf("what listens on %s is not relay: it answers %s; correct admin.listen", c.Addr(), printable.Text(resp.Status))
		}
		if resp.StatusCode == http.StatusUnauthorized {
			f.Error = fmt.Sprintf("the relay on %s (admin.listen) refuses this command: %s", c.Addr(), f.Error)
		}
		return &AnswerError{Code: resp.StatusCode, Text: printable.Block(f.Error, maxError), Action: printable.Block(f.Action, maxError)}
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("what listens on %s is not relay: %w", c.Addr(), err)
	}
	return nil
}
