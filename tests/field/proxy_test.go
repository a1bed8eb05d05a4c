//go:build unix

package field

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// farHost is the host of an API that only a proxy finds.
const farHost = "api.workos.test"

// farAPI is a fake Events API over TLS behind a proxy.
type farAPI struct {
	*sourcetest.Server
	address string       // host:port that it listens on
	http2   atomic.Int64 // requests over HTTP/2
	http1   atomic.Int64
}

// newFarAPI starts an API that speaks HTTP/2 and HTTP/1 with the TLS configuration conf.
func newFarAPI(t testing.TB, conf *tls.Config, opts ...sourcetest.Option) *farAPI {
	t.Helper()
	f := &farAPI{Server: sourcetest.New(append([]sourcetest.Option{sourcetest.WithAPIKey(apiKey)}, opts...)...)}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ProtoMajor == 2 {
			f.http2.Add(1)
		} else {
			f.http1.Add(1)
		}
		f.ServeHTTP(w, req)
	}))
	srv.EnableHTTP2, srv.TLS = true, conf
	srv.StartTLS()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	f.address = srv.Listener.Addr().String()
	return f
}

// proxy is an HTTP or SOCKS5 proxy that connects every client to one address.
type proxy struct {
	Address  string
	upstream string
	user     string                            // user:password that it asks for, if any
	inspect  func(host string) *tls.Config     // if set, it ends TLS with this, as an inspecting proxy does
	answer   func(conn net.Conn, asked string) // if set, it answers CONNECT, and hangs up
	socks    bool

	mu    sync.Mutex
	asked []string // targets, in order
}

// newProxy starts p, with TLS if conf is not nil.
func newProxy(t testing.TB, p *proxy, conf *tls.Config) *proxy {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.Address = ln.Addr().String()
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	open := &conns{}
	var wg sync.WaitGroup
	wg.Go(func() {
		tracked := trackedListener{ln, open}
		for {
			conn, err := tracked.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				p.serve(conn, open)
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); open.drop(); wg.Wait() })
	return p
}

// targets returns what the proxy was asked for.
func (p *proxy) targets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.asked...)
}

func (p *proxy) note(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, target)
}

func (p *proxy) serve(client net.Conn, open *conns) {
	in := bufio.NewReader(client)
	target, ok := p.greet(client, in)
	if !ok {
		return
	}
	p.note(target)
	server, err := (&net.Dialer{Timeout: patient}).DialContext(context.Background(), "tcp", p.upstream)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	open.mu.Lock()
	open.all = append(open.all, server)
	open.mu.Unlock()
	if p.inspect != nil {
		host, _, _ := net.SplitHostPort(target)
		outside := tls.Server(client, p.inspect(host))
		if outside.Handshake() != nil {
			return
		}
		inside := tls.Client(server, &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{outside.ConnectionState().NegotiatedProtocol}}) //nolint:gosec // the test's own server
		client, server, in = outside, inside, bufio.NewReader(outside)
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(server, in); _ = server.Close(); _ = client.Close() })
	both.Go(func() { _, _ = io.Copy(client, server); _ = server.Close(); _ = client.Close() })
	both.Wait()
}

// greet takes the request of a client and returns the target that it asks for.
func (p *proxy) greet(client net.Conn, in *bufio.Reader) (target string, ok bool) {
	if p.socks {
		return p.greetSOCKS(client, in)
	}
	req, err := http.ReadRequest(in)
	if err != nil || req.Method != http.MethodConnect {
		return "", false
	}
	if p.answer != nil {
		p.note(req.Host)
		p.answer(client, req.Header.Get("Proxy-Authorization"))
		return "", false
	}
	if p.user != "" && req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(p.user)) {
		_, _ = io.WriteString(client, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n")
		return "", false
	}
	_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	return req.Host, true
}

func (p *proxy) greetSOCKS(client net.Conn, in *bufio.Reader) (target string, ok bool) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(in, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	head := read(2) // version, number of methods
	if head[0] != 5 {
		return "", false
	}
	read(int(head[1]))
	method := byte(0)
	if p.user != "" {
		method = 2
	}
	_, _ = client.Write([]byte{5, method})
	if p.user != "" {
		user := string(read(int(read(2)[1])))
		password := string(read(int(read(1)[0])))
		if user+":"+password != p.user {
			_, _ = client.Write([]byte{1, 1})
			return "", false
		}
		_, _ = client.Write([]byte{1, 0})
	}
	request := read(4)
	if request[3] != 3 { // a name
		return "", false
	}
	name := string(read(int(read(1)[0])))
	port := binary.BigEndian.Uint16(read(2))
	_, _ = client.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return net.JoinHostPort(name, fmt.Sprint(port)), true
}

// stdoutConfig is a configuration with a source section and a sink that prints.
func stdoutConfig(source string) string {
	return fmt.Sprintf("source: {api_key: %s, poll_interval: 200ms, %s}\nsinks: [{name: out, type: stdout}]\n", apiKey, source)
}

// TestProxies: relay reaches an API by each kind of proxy, from the configuration, from a file and
// from the environment, over HTTP/2.
func TestProxies(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	const user = "relay:p@ss:w%rd"
	const escaped = "relay:p%40ss%3Aw%25rd@"
	for name, c := range map[string]struct {
		proxy    *proxy
		tls      bool
		address  func(p *proxy) string
		where    string // key, file or env
		endpoint string
	}{
		"http":                 {where: "key", address: func(p *proxy) string { return "http://" + p.Address }},
		"http with a password": {where: "key", proxy: &proxy{user: user}, address: func(p *proxy) string { return "http://" + escaped + p.Address }},
		"https":                {where: "key", proxy: &proxy{user: user}, tls: true, address: func(p *proxy) string { return "https://" + escaped + p.Address }},
		"socks5":               {where: "key", proxy: &proxy{socks: true}, address: func(p *proxy) string { return "socks5://" + p.Address }},
		"socks5 with a user":   {where: "file", proxy: &proxy{socks: true, user: user}, address: func(p *proxy) string { return "socks5h://" + escaped + p.Address }},
		"file":                 {where: "file", proxy: &proxy{user: user}, address: func(p *proxy) string { return "http://" + escaped + p.Address + "\n" }},
		"environment":          {where: "env", proxy: &proxy{user: user}, address: func(p *proxy) string { return "http://" + escaped + p.Address }},
		"environment, short":   {where: "env", address: func(p *proxy) string { return p.Address }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newFarAPI(t, a.server(t, nil, farHost), backlog(50))
			p := c.proxy
			if p == nil {
				p = &proxy{}
			}
			p.upstream = api.address
			var conf *tls.Config
			if c.tls {
				conf = a.server(t, nil)
			}
			newProxy(t, p, conf)
			dir := newSecretDir(t)
			text := fmt.Sprintf("endpoint: https://%s, tls: {ca_file: %q}", farHost, dir.put(t, "ca", a.PEM))
			env := []string{"HTTPS_PROXY=", "NO_PROXY="}
			switch c.where {
			case "key":
				text += fmt.Sprintf(", proxy: %q", c.address(p))
				env[0] = "HTTPS_PROXY=http://127.0.0.1:9" // source.proxy wins
			case "file":
				text += fmt.Sprintf(", proxy_file: %q", dir.put(t, "proxy", c.address(p)))
			default:
				env[0] = "HTTPS_PROXY=" + c.address(p)
			}
			r := newRelay(t, "relay", stdoutConfig(text), env...)
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "reached by way of the proxy "+p.Address+" of "+map[bool]string{true: "HTTPS_PROXY", false: "source.proxy"}[c.where == "env"])
			all := out + errs
			r.Start(t)
			last := api.IDs(sourcetest.Filter{})[49]
			r.Await(t, func() bool { return r.Lane("").Position.EventID == last }, "the events are there")
			require.Equal(t, exitDone, r.Stop(t))
			require.Equal(t, farHost+":443", p.targets()[0])
			require.Positive(t, api.http2.Load())
			require.Zero(t, api.http1.Load())
			for _, secret := range []string{"p@ss", "p%40ss", base64.StdEncoding.EncodeToString([]byte(user))} {
				require.NotContains(t, all+r.Output(), secret)
			}
		})
	}
}

// TestEveryCommandGoesByTheProxy: so do the commands beside run that ask the Events API.
func TestEveryCommandGoesByTheProxy(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	api := newFarAPI(t, a.server(t, a, farHost), backlog(50))
	p := newProxy(t, &proxy{upstream: api.address, user: "relay:hunter2"}, nil)
	bus := newNATS(t, nil)
	dir := newSecretDir(t)
	cert, key := a.issue(t, time.Hour)
	dir.put(t, "ca", a.PEM)
	dir.put(t, "cert", cert)
	dir.put(t, "key", key)
	r := newRelay(t, "relay", fmt.Sprintf("source: {endpoint: https://%s, api_key: %s, poll_interval: 200ms, proxy: \"http://relay:hunter2@%s\", tls: %s}\nsinks: [{name: nats, type: nats, url: %q}]\n",
		farHost, apiKey, p.Address, tlsSection(dir), bus.URL))
	r.Start(t)
	js := bus.connect(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 50 }, "the events are there")
	require.Equal(t, exitDone, r.Stop(t))
	ids := api.IDs(sourcetest.Filter{})
	for _, args := range [][]string{
		{"check"},
		{"verify", "--since", "2000-01-01T00:00:00Z", "--until", "latest"},
		{"replay", "--since", "2000-01-01T00:00:00Z", "--until", "latest"},
		{"checkpoint", "set", ids[10]},
	} {
		before := len(p.targets())
		code, out, errs := r.Run(t, args...)
		require.Equal(t, exitDone, code, "relay %v: %s%s", args, out, errs)
		require.NotContains(t, out+errs, "hunter2")
		require.Greater(t, len(p.targets()), before, "relay %v passes the proxy by", args)
	}
	r.SetArgs("tail", "--since", "earliest", "--config", r.Config)
	r.Start(t)
	r.Says(t, ids[20])
	r.Kill()
}

// TestNoProxy: the environment decides for which hosts there is a proxy. 0.0.0.0 reaches this
// machine and is not one of the addresses that are never asked of a proxy.
func TestNoProxy(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	api := newFarAPI(t, a.server(t, nil, "0.0.0.0"), backlog(50))
	_, port, err := net.SplitHostPort(api.address)
	require.NoError(t, err)
	dir := newSecretDir(t)
	text := stdoutConfig(fmt.Sprintf("endpoint: \"https://0.0.0.0:%s\", tls: {ca_file: %q}", port, dir.put(t, "ca", a.PEM)))
	p := newProxy(t, &proxy{upstream: api.address}, nil)
	for _, c := range []struct {
		env  []string
		asks int
	}{
		{[]string{"HTTPS_PROXY=http://" + p.Address, "NO_PROXY="}, 1},
		{[]string{"HTTPS_PROXY=", "https_proxy=http://" + p.Address, "NO_PROXY=example.com"}, 1},
		{[]string{"HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=example.com,0.0.0.0"}, 0},
		{[]string{"HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=0.0.0.0/8"}, 0},
		{[]string{"HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=*"}, 0},
		{[]string{"HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY="}, 0},
	} {
		before := len(p.targets())
		code, out, errs := newRelay(t, "relay", text, c.env...).Check(t)
		require.Equal(t, exitDone, code, "%v: %s%s", c.env, out, errs)
		require.Equal(t, c.asks, len(p.targets())-before, c.env)
	}
}

// TestInspectingProxy: a company's proxy ends TLS with certificates of the company's authority.
// relay says which authority that is and what to do, and goes on once it is in the file.
func TestInspectingProxy(t *testing.T) {
	t.Parallel()
	public, company, next := newAuthority(t), newAuthority(t), newAuthority(t)
	api := newFarAPI(t, public.server(t, nil, farHost), backlog(50))
	now := atomic.Pointer[authority]{}
	now.Store(company)
	open := &proxy{upstream: api.address, inspect: func(host string) *tls.Config {
		conf := now.Load().server(t, nil, host)
		conf.NextProtos = []string{"h2", "http/1.1"}
		return conf
	}}
	p := newProxy(t, open, nil)
	dir := newSecretDir(t)
	ca := dir.put(t, "ca", public.PEM)
	r := newRelay(t, "relay", stdoutConfig(fmt.Sprintf("endpoint: https://%s, proxy: \"http://%s\", tls: {ca_file: %q}", farHost, p.Address, ca)))
	says := []string{"the certificate of " + farHost + ":443 is issued by", company.cert.Subject.CommonName, "source.tls.ca_file"}
	code, out, errs := r.Run(t, "check")
	require.Equal(t, exitFailed, code)
	for _, text := range says {
		require.Contains(t, out+errs, text)
	}
	// The same without ca_file: the authority is not one of the system's.
	code, out, errs = newRelay(t, "system", stdoutConfig(fmt.Sprintf("endpoint: https://%s, proxy: \"http://%s\"", farHost, p.Address)), "SSL_CERT_FILE="+ca).Run(t, "check")
	require.Equal(t, exitFailed, code)
	for _, text := range says {
		require.Contains(t, out+errs, text)
	}
	r.Start(t)
	for _, text := range says {
		r.Says(t, text)
	}
	carried := func(what string) {
		t.Helper()
		id := appendEvents(t, api.Server, source.UserCreated, 5, 0)[4]
		r.Await(t, func() bool { return r.Lane("").Position.EventID == id }, "events flow %s", what)
	}
	dir.put(t, "ca", public.PEM+company.PEM)
	carried("once the company's authority is trusted")
	require.Positive(t, api.http2.Load())
	dir.put(t, "ca", company.PEM+next.PEM)
	r.Says(t, used)
	now.Store(next)
	carried("after the company's authority has changed")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestProxyIsExchanged: another proxy and other credentials are written to the file, without a
// signal.
func TestProxyIsExchanged(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	api := newFarAPI(t, a.server(t, a, farHost), backlog(50))
	first := newProxy(t, &proxy{upstream: api.address, user: "relay:hunter1"}, nil)
	second := newProxy(t, &proxy{upstream: api.address, user: "relay:hunter2"}, nil)
	dir := newSecretDir(t)
	file := dir.put(t, "proxy", "http://relay:hunter1@"+first.Address)
	cert, key := a.issue(t, time.Hour)
	dir.put(t, "ca", a.PEM)
	dir.put(t, "cert", cert)
	dir.put(t, "key", key)
	r := newRelay(t, "relay", stdoutConfig(fmt.Sprintf("endpoint: https://%s, proxy_file: %q, tls: %s", farHost, file, tlsSection(dir))))
	r.Start(t)
	carried := func(what string) {
		t.Helper()
		id := appendEvents(t, api.Server, source.UserCreated, 5, 0)[4]
		r.Await(t, func() bool { return r.Lane("").Position.EventID == id }, "events flow %s", what)
	}
	carried("at first")
	dir.put(t, "proxy", "http://relay:hunter2@") // half of it
	r.Says(t, "the new content of a file cannot be used")
	dir.put(t, "proxy", "http://relay:hunter2@"+second.Address)
	r.Await(t, func() bool { return len(second.targets()) > 0 }, "the second proxy is asked")
	carried("by the second proxy")
	// The client certificate changes, in halves.
	cert, key = a.issue(t, time.Hour)
	dir.put(t, "cert", cert)
	r.Says(t, "do not hold a certificate and its key")
	dir.put(t, "key", key)
	before := len(second.targets())
	r.Await(t, func() bool { return len(second.targets()) > before }, "there is a connection with the new certificate")
	carried("with the new certificate")
	require.Equal(t, exitDone, r.Stop(t))
	for _, secret := range []string{"hunter1", "hunter2", "PRIVATE KEY"} {
		require.NotContains(t, r.Output(), secret)
	}
}

// TestProxiesThatFail: each fault of a proxy has a message that says what it is and what to change,
// in check and in run. No message repeats the password.
func TestProxiesThatFail(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	answer := func(text string) *proxy {
		return &proxy{answer: func(conn net.Conn, header string) {
			for part := range strings.SplitSeq(strings.ReplaceAll(text, "HEADER", header), "LATER") {
				_, _ = io.WriteString(conn, part)
				time.Sleep(300 * time.Millisecond)
			}
		}}
	}
	raw := func(serve func(net.Conn)) func(t *testing.T) string {
		return func(t *testing.T) string {
			ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			open := &conns{}
			go func() {
				for {
					conn, err := (trackedListener{ln, open}).Accept()
					if err != nil {
						return
					}
					go serve(conn)
				}
			}()
			t.Cleanup(func() { _ = ln.Close(); open.drop() })
			return ln.Addr().String()
		}
	}
	web := func(t *testing.T) string {
		srv := httptest.NewServer(http.NotFoundHandler())
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	for name, c := range map[string]struct {
		proxy  *proxy
		at     func(t *testing.T) string // its address, if it is not proxy
		scheme string                    // http if empty
		user   string                    // credentials of the URL
		says   []string
	}{
		"no credentials":     {proxy: &proxy{user: "relay:hunter2"}, says: []string{"asks for a user and a password (407 Proxy Authentication Required)", "source.proxy"}},
		"wrong credentials":  {proxy: &proxy{user: "relay:other"}, user: "relay:hunter2@", says: []string{"does not accept the user and the password of source.proxy"}},
		"NTLM":               {proxy: answer("HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"), user: "relay:hunter2@", says: []string{"asks for authentication by NTLM", "Basic only"}},
		"forbidden":          {proxy: answer("HTTP/1.1 403 Forbidden by policy\r\nContent-Length: 0\r\n\r\n"), says: []string{"refuses to connect relay to " + farHost + ":443 (403 Forbidden by policy)", "allow this destination"}},
		"bad gateway":        {proxy: answer("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), says: []string{"cannot connect relay to " + farHost + ":443 (502 Bad Gateway)", "source.endpoint"}},
		"no CONNECT":         {proxy: answer("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"), says: []string{"permits CONNECT"}},
		"repeats the header": {proxy: answer("HTTP/1.1 403 no HEADER and hunter2\r\nContent-Length: 0\r\n\r\n"), user: "relay:hunter2@", says: []string{"refuses to connect relay"}},
		"no TLS behind it":   {proxy: answer("HTTP/1.1 200 OK\r\n\r\nLATER<html>welcome to hunter2</html>"), user: "relay:hunter2@", says: []string{"does not pass on TLS", "check that source.proxy names a proxy"}},
		"hangs up late":      {proxy: answer("HTTP/1.1 200 OK\r\n\r\n"), says: []string{"closes the connection to " + farHost + ":443 right after", "source.proxy"}},
		"a web server":       {at: web, says: []string{"answers CONNECT " + farHost + ":443 with 404", "names a proxy"}},
		"garbage":            {at: raw(func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH hunter2\r\n") }), user: "relay:hunter2@", says: []string{"does not answer as a proxy", "source.proxy"}},
		"hangs up":           {at: raw(func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n'); _ = c.Close() }), says: []string{"source.proxy"}},
		"silence":            {at: raw(func(net.Conn) {}), says: []string{"did not connect relay to " + farHost + ":443 in time", "source.proxy"}},
		"nobody":             {at: func(t *testing.T) string { return testaddr.Free(t) }, user: "relay:hunter2@", says: []string{"cannot be reached", "check that it runs, and the address in source.proxy"}},
		"no such host":       {at: func(*testing.T) string { return "proxy.invalid:3128" }, says: []string{"cannot be reached", "source.proxy"}},
		"https without TLS":  {proxy: &proxy{}, scheme: "https", says: []string{"source.proxy"}},
		"socks, wrong user":  {proxy: &proxy{socks: true, user: "relay:other"}, scheme: "socks5", user: "relay:hunter2@", says: []string{"does not accept the user and the password of source.proxy"}},
		"socks at http":      {proxy: &proxy{}, scheme: "socks5", says: []string{"did not connect relay", "source.proxy names the address of a SOCKS5 proxy"}},
		"http at socks":      {proxy: &proxy{socks: true}, says: []string{"source.proxy names an HTTP proxy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var address string
			if c.at != nil {
				address = c.at(t)
			} else {
				api := newFarAPI(t, a.server(t, nil, farHost))
				c.proxy.upstream = api.address
				address = newProxy(t, c.proxy, nil).Address
			}
			scheme := c.scheme
			if scheme == "" {
				scheme = "http"
			}
			url := scheme + "://" + c.user + address
			r := newRelay(t, "relay", stdoutConfig(fmt.Sprintf("endpoint: https://%s, proxy: %q", farHost, url)), "HTTPS_PROXY=", "NO_PROXY=")
			code, out, errs := r.Run(t, "check", "--timeout", "5s")
			require.Equal(t, exitFailed, code, out+errs)
			all := out + errs
			for _, text := range append(c.says, "the proxy "+address) {
				require.Contains(t, all, text)
			}
			r.Start(t)
			r.Says(t, "a request to the Events API failed; trying again")
			r.Says(t, "the proxy "+address)
			require.NotContains(t, all+r.Output(), "hunter2")
			require.NotContains(t, all+r.Output(), base64.StdEncoding.EncodeToString([]byte("relay:hunter2")))
			if env := strings.ReplaceAll(out, "source.proxy", "HTTPS_PROXY"); c.scheme == "" {
				_, out, errs = newRelay(t, "environment", stdoutConfig("endpoint: https://"+farHost), "HTTPS_PROXY="+url, "NO_PROXY=").Run(t, "check", "--timeout", "5s")
				require.Equal(t, firstFault(env), firstFault(out), "the same from the environment")
				require.NotContains(t, out+errs, "hunter2")
			}
		})
	}
}

// firstFault returns the first fault that check has found, without the addresses of connections.
func firstFault(out string) string {
	_, fault, _ := strings.Cut(out, "FAULT")
	fault, _, _ = strings.Cut(fault, "\n")
	head, _, _ := strings.Cut(fault, "(")
	return head
}

// TestUnusableSettingsOfTheSource: files and addresses that cannot be used, each with what to
// change, found by check and by run.
func TestUnusableSettingsOfTheSource(t *testing.T) {
	t.Parallel()
	a, b := newAuthority(t), newAuthority(t)
	dir := newSecretDir(t)
	cert, key := a.issue(t, time.Hour)
	_, other := b.issue(t, time.Hour)
	for name, text := range map[string]string{
		"ca": a.PEM, "cert": cert, "key": key, "other": other, "empty": "", "text": "no PEM\n", "half": a.PEM[:len(a.PEM)/2], "proxy": "relay:hunter2", "none": "\n",
	} {
		dir.put(t, name, text)
	}
	f := dir.file
	n := 0
	for text, says := range map[string]string{
		fmt.Sprintf("tls: {ca_file: %q}", f("empty")):                            "source.tls.ca_file " + f("empty") + " is empty",
		fmt.Sprintf("tls: {ca_file: %q}", f("text")):                             "holds no PEM certificate",
		fmt.Sprintf("tls: {ca_file: %q}", f("half")):                             "source.tls.ca_file " + f("half"),
		fmt.Sprintf("tls: {ca_file: %q}", f("key")):                              "source.tls.ca_file " + f("key"),
		fmt.Sprintf("tls: {ca_file: %q}", f("gone")):                             "no such file",
		fmt.Sprintf("tls: {ca_file: %q}", dir.path):                              "source.tls.ca_file " + dir.path,
		fmt.Sprintf("tls: {cert_file: %q}", f("cert")):                           "source.tls.cert_file: has no key_file beside it",
		fmt.Sprintf("tls: {key_file: %q}", f("key")):                             "source.tls.key_file: has no cert_file beside it",
		fmt.Sprintf("tls: {cert_file: %q, key_file: %q}", f("cert"), f("other")): "do not hold a certificate and its key",
		fmt.Sprintf("tls: {cert_file: %q, key_file: %q}", f("empty"), f("key")):  "is empty",
		"proxy: \"relay:hunter2@127.0.0.1:3128\"":                                "source.proxy: is not the URL of a proxy",
		"proxy: \"127.0.0.1:3128\"":                                              "source.proxy: is not the URL of a proxy",
		"proxy: \"ftp://relay:hunter2@127.0.0.1:3128\"":                          "source.proxy: is not the URL of a proxy",
		"proxy: \"http://relay:hunter2%zz@127.0.0.1:3128\"":                      "source.proxy: is not the URL of a proxy",
		"proxy: \"http://relay:hunter2/x@127.0.0.1:3128\"":                       "source.proxy: is not the URL of a proxy",
		"proxy: \"http://127.0.0.1:3128/hunter2\"":                               "source.proxy: has something after the port",
		"proxy: \"http://\"":                                                     "source.proxy: is not the URL of a proxy",
		fmt.Sprintf("proxy_file: %q", f("proxy")):                                "is not the URL of a proxy",
		fmt.Sprintf("proxy_file: %q", f("none")):                                 "is empty",
		fmt.Sprintf("proxy: \"http://127.0.0.1:1\", proxy_file: %q", f("proxy")): "only one of them can hold",
		"env HTTPS_PROXY=http://relay:hunter2%zz@127.0.0.1:9":                    "the environment variable HTTPS_PROXY is not the URL of a proxy",
		"env https_proxy=ftp://relay:hunter2@127.0.0.1:9":                        "the environment variable https_proxy is not the URL of a proxy",
	} {
		n++
		t.Run(fmt.Sprint(n), func(t *testing.T) { // text would be part of the path of the configuration
			t.Parallel()
			var env []string
			if v, ok := strings.CutPrefix(text, "env "); ok {
				text, env = "", []string{v}
			}
			r := newRelay(t, "relay", stdoutConfig("endpoint: https://"+farHost+", "+text), env...)
			for _, command := range []string{"check", "run"} {
				code, out, errs := r.Run(t, command)
				require.NotZero(t, code)
				require.Contains(t, out+errs, says, command)
				require.NotContains(t, out+errs, "hunter2")
				require.NotContains(t, out+errs, "PRIVATE KEY")
			}
		})
	}
}

// TestServerThatWantsAClientCertificate: relay names the keys.
func TestServerThatWantsAClientCertificate(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t), newAuthority(t)
	api := newFarAPI(t, a.server(t, a))
	dir := newSecretDir(t)
	dir.put(t, "ca", a.PEM)
	cert, key := stranger.issue(t, time.Hour)
	dir.put(t, "cert", cert)
	dir.put(t, "key", key)
	for section, says := range map[string]string{
		fmt.Sprintf("{ca_file: %q}", dir.file("ca")): "name it in source.tls.cert_file and source.tls.key_file",
		tlsSection(dir): "another authority than the one in source.tls.cert_file",
	} {
		r := newRelay(t, "relay", stdoutConfig(fmt.Sprintf("endpoint: \"https://%s\", tls: %s", api.address, section)))
		said := ""
		for range 3 { // the system may lose the server's reason with the connection, five times in a row
			code, out, errs := r.Run(t, "check")
			require.Equal(t, exitFailed, code)
			if said = out + errs; strings.Contains(said, says) {
				break
			}
		}
		require.Contains(t, said, says)
	}
}
