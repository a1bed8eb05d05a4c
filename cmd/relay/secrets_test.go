package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/internal/moment"
	"workos-relay/source/sourcetest"
)

// marked makes a secret that is recognised wherever it shows up. What follows the name must be
// escaped in a URL and in JSON.
func marked(name string) string { return "MARK-" + name + `-s3cr3t%+/&="<` }

// leaks returns the forms of the secrets that text shows: as they are, in JSON, in a URL, in
// hexadecimal, and in base64 wherever they begin within the encoded text.
func leaks(text string, secrets []string) []string {
	var found []string
	for _, s := range secrets {
		quoted := fmt.Sprintf("%q", s)
		forms := []string{s, quoted[1 : len(quoted)-1], url.QueryEscape(s), url.PathEscape(s), url.UserPassword("", s).String()[1:], hex.EncodeToString([]byte(s))}
		for skip := range 3 { // the characters of base64 that the secret alone decides
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", skip) + s))
			first, last := []int{0, 2, 3}[skip], len(encoded)-1
			forms = append(forms, encoded[first:last], strings.NewReplacer("+", "-", "/", "_").Replace(encoded[first:last]))
		}
		for _, form := range forms {
			if strings.Contains(text, form) {
				found = append(found, form)
			}
		}
	}
	return found
}

func TestLeaksAreSeen(t *testing.T) {
	t.Parallel()
	s := marked("x")
	for _, shown := range []string{
		s, fmt.Sprintf("%q", s), url.QueryEscape(s), "nats://u:" + url.PathEscape(s) + "@h", base64.StdEncoding.EncodeToString([]byte(s)),
		base64.URLEncoding.EncodeToString([]byte("u:" + s)), base64.StdEncoding.EncodeToString([]byte("\x00user\x00" + s + "\x01")), fmt.Sprintf("%x", s),
	} {
		require.NotEmpty(t, leaks("before "+shown+" after", []string{s}), shown)
	}
	require.Empty(t, leaks("MARK- s3cr3t", []string{s}))
}

// commandLines are what each command is run with; the configuration is added.
// TestNoCommandIsLeftOut compares them with the commands.
var commandLines = map[string][][]string{
	"run":               {{}},
	"demo":              {{"--events", "50"}},
	"init":              {{"--bus", "embedded"}},
	"check":             {{"--timeout", "300ms"}, {"--timeout", "300ms", "--json"}},
	"status":            {{"--timeout", "300ms"}, {"--timeout", "300ms", "--json"}},
	"pause":             {{}, {"--json"}},
	"resume":            {{}},
	"snapshot":          {{"--no-wait"}},
	"poll":              {{}},
	"reload":            {{}, {"--json"}},
	"replay":            {{"--since", "earliest", "--until", "latest"}},
	"verify":            {{"--since", "earliest", "--until", "latest"}, {"--since", "earliest", "--until", "latest", "--json", "--repair", "--blindly"}},
	"deadletter list":   {{"--all"}, {"--all", "--json"}},
	"deadletter show":   {{"event_01J0000000000000000000000A"}},
	"deadletter replay": {{"--all"}, {"--all", "--json"}},
	"get":               {{"directory_user", "directory_user_1"}, {"directory_user", "directory_user_1", "--json"}},
	"list":              {{"directory_user"}, {"directory_user", "--json"}},
	"tail":              {{"--since", "earliest", "--envelope"}, {"--from-sink", "--since", "earliest", "--envelope"}},
	"types":             {{}, {"--json"}},
	"checkpoint show":   {{"--timeout", "300ms"}, {"--timeout", "300ms", "--json"}},
	"checkpoint set":    {{"latest"}, {"--from", "bus"}},
	"checkpoint reset":  {{}},
	"version":           {{}},
	"completion":        {{"bash"}, {"fish"}},
	"help":              {{}, {"troubleshoot"}},
}

func TestNoCommandIsLeftOut(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(&cli{}, kong.Vars{"time": moment.Forms})
	require.NoError(t, err)
	for _, leaf := range parser.Model.Leaves(true) {
		require.Contains(t, commandLines, strings.TrimPrefix(leaf.Path(), parser.Model.Name+" "), "give it a line, so that it is searched for secrets")
	}
}

// TestNoSecretIsLeftOut: each secret that can be configured is in a case below, as itself or in a
// file.
func TestNoSecretIsLeftOut(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/configuration.md")
	require.NoError(t, err)
	var found []string
	section := ""
	for line := range strings.Lines(string(text)) {
		if heading, ok := strings.CutPrefix(line, "#"); ok {
			section = strings.Trim(heading, "# \n")
		}
		if m := regexp.MustCompile("^\\| `(\\w+)` \\| secret").FindStringSubmatch(line); m != nil {
			found = append(found, strings.ReplaceAll(section, "`", "")+": "+m[1])
		}
	}
	require.ElementsMatch(t, []string{
		"source: api_key", "source: proxy", "source.webhook: secret", "sinks[].auth, type: nats: password", "sinks[].auth, type: nats: token", "sinks[].embedded, type: nats: token", "sinks[].embedded, type: nats: password", "sinks[].sasl, type: kafka: password",
		"sinks[].sasl, type: kafka: client_secret", "sinks[].sasl, type: kafka: client_key", "sinks[].sasl, type: kafka: client_key_passphrase",
		"source.tls: key", "source.tls: key_passphrase", "sinks[].tls, type: nats: key", "sinks[].tls, type: nats: key_passphrase", "sinks[].tls, type: kafka: key", "sinks[].tls, type: kafka: key_passphrase",
		"admin.tls: key", "admin.tls: key_passphrase", "telemetry.traces.tls: key", "telemetry.traces.tls: key_passphrase",
		"redaction: key", "admin: token", "telemetry.traces.headers[]: value",
		"telemetry.metrics.tls: key", "telemetry.metrics.tls: key_passphrase", "telemetry.metrics.headers[]: value",
	}, found, "mark it in a case of TestSecretsAreShownNowhere, then name it here")
}

// reaching are the commands that connect to something; the others say the same for every answer.
var reaching = []string{"run", "check", "checkpoint show", "checkpoint set", "replay", "status", "tail", "verify"}

// secretCase is a configuration that holds secrets, and how the world answers.
type secretCase struct {
	config  string
	env     map[string]string
	secrets []string
	only    []string // command paths; empty for all
	reaches string   // what `relay run` must say, so that the case is what it seems
}

// P14: in the output of every command, with every key that holds a secret.
func TestSecretsAreShownNowhere(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithAPIKey(apiMark), sourcetest.WithPopulation(sourcetest.Population{Seed: 1, Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		Profile: []sourcetest.Span{{Length: time.Hour, Events: 40}}}))
	cases := map[string]secretCase{}
	addSourceCases(t, cases, api)
	addNATSCases(t, cases, api)
	addKafkaCases(t, cases, api)
	addOAuthCases(t, cases, api)
	addKeyCases(t, cases, api)
	addTelemetryCases(t, cases, api)
	addConfigCases(t, cases)
	number := 0
	for name, c := range cases {
		number++
		own := strings.NewReplacer("DIR", t.TempDir(), "OWN", fmt.Sprintf("c%d", number)) // the cases share servers
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := freeAddress(t) // only now, so that nobody else takes it before
			config := writeConfig(t, strings.ReplaceAll(own.Replace(c.config), "ADMIN", fmt.Sprintf("%q", address)))
			env := func(name string) (string, bool) {
				if v, ok := c.env[name]; ok {
					return v, true
				}
				return noEnv(name)
			}
			paths := slices.Sorted(maps.Keys(commandLines))
			for _, path := range append([]string{"run"}, slices.DeleteFunc(paths, func(p string) bool { return p == "run" })...) { // before any other has set a position
				if path == "demo" || len(c.only) > 0 && !slices.Contains(c.only, path) {
					continue // demo reads no configuration and has no secret
				}
				for i, line := range commandLines[path] {
					format := []string{"console", "json"}[i%2]
					args := append(append(strings.Fields(path), line...), "--config", config, "--log-level", "debug", "--log-format", format)
					text := everythingShown(t, env, args, c.reaches)
					require.Empty(t, leaks(text, c.secrets), "%s shows a secret:\n%s", strings.Join(args, " "), text)
				}
			}
		})
	}
}

// everythingShown runs a command to its end, and looks at every page while it runs. `relay run` is
// stopped once it has said what the case is about, and what waits or runs on once it has said
// nothing new for a while; how long that is decides only how much is looked at.
func everythingShown(t *testing.T, env func(string) (string, bool), args []string, reaches string) string {
	t.Helper()
	r := &running{code: make(chan int, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.cancel = cancel
	go func() { r.code <- execute(ctx, args, env, &r.stdout, &r.stderr) }()
	shown := func() string { return r.stdout.String() + r.stderr.String() }
	var pages string
	quiet := map[string]int{"run": 4, "tail": 4}[args[0]]
	if quiet == 0 {
		quiet = 16
	}
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patient)
	for before, same := "", 0; same < quiet || args[0] == "run" && (pages == "" || !strings.Contains(shown(), reaches)); {
		select {
		case code := <-r.code:
			require.True(t, args[0] != "run" || strings.Contains(shown(), reaches), "the case is not what it seems: %s", shown())
			r.code <- code
			return shown() + pages
		case <-deadline:
			require.Fail(t, "relay run does not say "+reaches, shown())
		case <-tick.C:
			if now := shown(); now == before {
				same++
			} else {
				before, same = now, 0
			}
			if m := regexp.MustCompile(`admin"?:\s?"(127\.0\.0\.1:\d+)"`).FindStringSubmatch(r.stderr.String()); m != nil && pages == "" && same >= 2 {
				pages = readPages(t, m[1])
			}
		}
	}
	r.stop(t)
	return shown() + pages
}

// readPages reads every path of an admin address, those that its index names included, with every
// method.
func readPages(t *testing.T, address string) string {
	t.Helper()
	paths := []string{"/", "/?as=page", "/healthz", "/readyz", "/metrics", "/api/v1/status", "/missing", "/debug/pprof/cmdline"}
	var all strings.Builder
	var asked atomic.Uint32
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		var d net.Dialer
		if runtime.GOOS == "linux" { // wrong tokens from one address are slowed down

			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(asked.Add(1)))}
		}
		return d.DialContext(ctx, network, to)
	}}}
	get := func(method, path, token string) string {
		wait := patient
		if strings.Contains(path, "stream") { // it never ends; all there is comes at its beginning
			wait = 200 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, nil)
		require.NoError(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		if path == "/?as=page" {
			req.Header.Set("Accept", "text/html")
		}
		resp, err := client.Do(req)
		if err != nil {
			return ""
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body) // as much as comes in time
		return fmt.Sprintln(method, path, resp.Status, resp.Header) + string(body)
	}
	token := marked("admin-token")
	paths = append(paths, regexp.MustCompile(`/[a-z0-9/{}_-]+`).FindAllString(get(http.MethodGet, "/", token), -1)...)
	for _, sent := range []string{token, token + "!", ""} {
		for _, path := range paths {
			all.WriteString(get(http.MethodGet, path, sent))
		}
		for _, path := range []string{"/api/v1/poll", "/api/v1/pause", "/api/v1/resume", "/api/v1/reload", "/api/v1/status", "/metrics"} {
			all.WriteString(get(http.MethodPost, path, sent) + get(http.MethodPut, path, sent))
		}
	}
	return all.String()
}

var apiMark = "MARK-api-key-s3cr3t" // what follows in other marks stands in no API key

// secretSource is the source section of every case, with what else may be secret there.
func secretSource(endpoint string) (string, []string) {
	return fmt.Sprintf(`
id: OWN
source:
  endpoint: %q
  api_key: "${KEY}"
  rate_limit: 5000
  poll_interval: 20ms
  webhook: {listen: "127.0.0.1:0", secret: %q}
redaction: {key: %q}
routes: [{events: ["dsync.*"], pseudonymize: [data.id]}]
checkpoint: {dir: "DIR"}
shutdown_timeout: 1s
`, endpoint, marked("webhook"), marked("redaction")), []string{apiMark, marked("webhook"), marked("redaction"), marked("admin-token")}
}

func addSourceCases(t *testing.T, cases map[string]secretCase, api *sourcetest.Server) {
	t.Helper()
	echo := func(status int, form func(r *http.Request) string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text := form(r)
			w.Header().Set("Location", "https://elsewhere.example/?key="+url.QueryEscape(r.Header.Get("Authorization")))
			w.Header().Set("X-Request-Id", r.Header.Get("Authorization"))
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	authorization := func(r *http.Request) string { return r.Header.Get("Authorization") }
	natsURL, _ := newNATS(t)
	for name, c := range map[string]struct{ endpoint, reaches string }{
		"refused key":  {api.URL(), "401"},
		"echo, plain":  {echo(401, authorization), "401"},
		"echo, json":   {echo(401, func(r *http.Request) string { return fmt.Sprintf(`{"message":%q,"code":%[1]q}`, authorization(r)) }), "401"},
		"echo, base64": {echo(403, func(r *http.Request) string { return base64.StdEncoding.EncodeToString([]byte(authorization(r))) }), "403"},
		"echo, of success": {echo(200, func(r *http.Request) string {
			return `{"object":"list","data":[{"id":"` + authorization(r) + `\u0001"}]}`
		}), "cannot be decoded"},
		"echo, another form": {echo(200, authorization), "cannot be decoded"},
		"echo, redirect":     {echo(302, authorization), "elsewhere"},
		"echo, overloaded":   {echo(429, authorization), "429"},
		"echo, broken":       {echo(500, func(r *http.Request) string { return `{"error":"` + authorization(r) }), "500"},
		"unreachable":        {"http://127.0.0.1:1", "refused"},
		"no TLS there":       {strings.Replace(api.URL(), "http://", "https://", 1), "HTTPS"},
	} {
		source, secrets := secretSource(c.endpoint)
		env := map[string]string{"KEY": apiMark}
		if name == "refused key" {
			env["KEY"] = apiMark + "-wrong"
		}
		cases["source/"+name] = secretCase{
			config: source + fmt.Sprintf("sinks: [{name: nats, type: nats, stream: OWN, topic_prefix: OWN., url: %q}]\nadmin: {listen: ADMIN, token: %q}\n", natsURL, marked("admin-token")),
			env:    env, secrets: secrets, reaches: c.reaches, only: []string{"run", "check", "tail", "replay", "verify"},
		}
	}
	proxied := func(r *http.Request) string { return r.Header.Get("Proxy-Authorization") }
	for name, c := range map[string]struct{ proxy, reaches string }{
		"proxy, echo":        {echo(407, proxied), "407"},
		"proxy, success":     {echo(200, proxied), "cannot be decoded"},
		"proxy, unreachable": {"http://127.0.0.1:1", "refused"},
	} {
		source, secrets := secretSource("http://api.example")
		proxy := strings.Replace(c.proxy, "//", "//"+url.UserPassword("relay", marked("proxy")).String()+"@", 1)
		cases["source/"+name] = secretCase{
			config: strings.Replace(source, "  rate_limit", fmt.Sprintf("  proxy: %q\n  rate_limit", proxy), 1) + fmt.Sprintf("sinks: [{name: nats, type: nats, stream: OWN, topic_prefix: OWN., url: %q}]\nadmin: {listen: ADMIN, token: %q}\n", natsURL, marked("admin-token")),
			env:    map[string]string{"KEY": apiMark}, secrets: append(secrets, marked("proxy")), reaches: c.reaches, only: []string{"run", "check", "tail", "replay", "verify"},
		}
	}
}

func natsServer(t *testing.T, change func(*server.Options)) string {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		AuthTimeout: patient.Seconds(), TLSTimeout: patient.Seconds()}
	change(o)
	s, err := server.NewServer(o)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patient))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s.ClientURL()
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func addNATSCases(t *testing.T, cases map[string]secretCase, api *sourcetest.Server) {
	t.Helper()
	password, token := marked("nats-password"), marked("nats-token")
	withUser := natsServer(t, func(o *server.Options) { o.Username, o.Password = "relay", password })
	withToken := natsServer(t, func(o *server.Options) { o.Authorization = token })
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	withNKey := natsServer(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	plain, _ := newNATS(t)
	host := strings.TrimPrefix(plain, "nats://")
	key := marked("tls-key")
	broken := secretFile(t, "-----BEGIN PRIVATE KEY-----\n"+base64.StdEncoding.EncodeToString([]byte(key))+"\n-----END PRIVATE KEY-----\n")
	creds := fmt.Sprintf("-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n",
		base64.RawURLEncoding.EncodeToString([]byte(marked("jwt"))), seed)
	for name, c := range map[string]struct {
		sink, reaches string
		secrets       []string
	}{
		"user":            {fmt.Sprintf("url: %q, auth: {user: relay, password: %q}", withUser, password), "connected to NATS", []string{password}},
		"wrong password":  {fmt.Sprintf("url: %q, auth: {user: relay, password: %q}", withUser, password+"!"), "refuses auth.user", []string{password}},
		"token":           {fmt.Sprintf("url: %q, auth: {token: %q}", withToken, token), "connected to NATS", []string{token}},
		"wrong token":     {fmt.Sprintf("url: %q, auth: {token: %q}", withToken, token+"!"), "refuses auth.token", []string{token}},
		"token from file": {fmt.Sprintf("url: %q, auth: {token_file: %q}", withToken, secretFile(t, token+"\n")), "connected to NATS", []string{token}},
		"nkey":            {fmt.Sprintf("url: %q, auth: {nkey_file: %q}", withNKey, secretFile(t, string(seed))), "connected to NATS", []string{string(seed)}},
		"nkey refused":    {fmt.Sprintf("url: %q, auth: {nkey_file: %q}", withUser, secretFile(t, string(seed))), "auth", []string{string(seed)}},
		"no nkey":         {fmt.Sprintf("url: %q, auth: {nkey_file: %q}", withNKey, secretFile(t, marked("no-nkey"))), "nkey_file", []string{marked("no-nkey")}},
		"creds refused":   {fmt.Sprintf("url: %q, auth: {credentials_file: %q}", withNKey, secretFile(t, creds)), "auth", []string{string(seed), marked("jwt")}},
		"no creds":        {fmt.Sprintf("url: %q, auth: {credentials_file: %q}", withNKey, secretFile(t, marked("no-creds"))), "", []string{marked("no-creds")}},
		"embedded, token": {fmt.Sprintf("url: embedded, embedded: {listen: %q, token: %q}", freeAddress(t), token), "connected to NATS", []string{token}},
		"embedded, user": {fmt.Sprintf("url: embedded, embedded: {listen: %q, user: relay, password_file: %q}", strings.Replace(freeAddress(t), "127.0.0.1", "0.0.0.0", 1), secretFile(t, password)),
			"connected to NATS", []string{password}},
		"embedded, both":   {fmt.Sprintf("url: embedded, embedded: {user: %q, password: %q, token: %q}", password, password, token), "exclude", []string{password, token}},
		"URL":              {fmt.Sprintf("url: %q", "nats://relay:"+url.QueryEscape(password)+"@"+host), "under auth", []string{password}},
		"URL, two":         {fmt.Sprintf("url: %q", plain+",nats://"+url.QueryEscape(token)+"@"+host), "under auth", []string{token}},
		"URL, not escaped": {fmt.Sprintf("url: %q", "nats://relay:"+password+"@"+host), "url", []string{password}},
		"TLS key":          {fmt.Sprintf("url: %q, tls: {cert_file: %q, key_file: %[2]q}", plain, broken), "tls.key_file", []string{key, base64.StdEncoding.EncodeToString([]byte(key))}},
		"unreachable":      {fmt.Sprintf("url: \"nats://127.0.0.1:1\", auth: {user: relay, password: %q}", password), "127.0.0.1:1", []string{password}},
	} {
		source, secrets := secretSource(api.URL())
		cases["nats/"+name] = secretCase{
			config:  source + fmt.Sprintf("sinks: [{name: nats, type: nats, stream: OWN, topic_prefix: OWN., ack_timeout: 300ms, %s}]\nadmin: {listen: ADMIN, token: %q}\n", c.sink, marked("admin-token")),
			env:     map[string]string{"KEY": apiMark},
			secrets: append(secrets, c.secrets...), reaches: c.reaches, only: reaching,
		}
	}
	whole := cases["nats/user"]
	whole.only = nil // once with every command
	cases["nats/user"] = whole
}

func addKafkaCases(t *testing.T, cases map[string]secretCase, api *sourcetest.Server) {
	t.Helper()
	password, token := marked("kafka-password"), "MARK-kafka-token.s3cr3t"
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", password), kfake.Superuser("SCRAM-SHA-256", "relay", password))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	brokers := cluster.ListenAddrs()[0]
	for name, c := range map[string]struct {
		sink, reaches string
		secrets       []string
	}{
		"plain":            {fmt.Sprintf("brokers: [%q], sasl: {mechanism: plain, user: relay, password: %q}", brokers, password), "exactly_once", []string{password}},
		"scram":            {fmt.Sprintf("brokers: [%q], sasl: {mechanism: scram-sha-256, user: relay, password: %q}", brokers, password), "exactly_once", []string{password}},
		"wrong, plain":     {fmt.Sprintf("brokers: [%q], sasl: {mechanism: plain, user: relay, password: %q}", brokers, password+"!"), "password is wrong", []string{password}},
		"wrong, scram":     {fmt.Sprintf("brokers: [%q], sasl: {mechanism: scram-sha-256, user: relay, password: %q}", brokers, password+"!"), "password is wrong", []string{password}},
		"token refused":    {fmt.Sprintf("brokers: [%q], sasl: {mechanism: oauthbearer, token_file: %q}", brokers, secretFile(t, token)), "sasl", []string{token}},
		"two tokens":       {fmt.Sprintf("brokers: [%q], sasl: {mechanism: oauthbearer, token_file: %q}", brokers, secretFile(t, token+"\n"+token)), "token_file", []string{token}},
		"broker address":   {fmt.Sprintf("brokers: [%q]", "kafka://relay:"+url.QueryEscape(password)+"@"+brokers), "brokers", []string{password}},
		"unreachable":      {fmt.Sprintf("brokers: [\"127.0.0.1:1\"], sasl: {mechanism: plain, user: relay, password: %q}", password), "does not accept connections", []string{password}},
		"settings":         {fmt.Sprintf("brokers: [%q], create: {config: {sasl.jaas.config: %q}}, sasl: {mechanism: plain, user: relay, password: %q}", brokers, marked("jaas"), password), "", []string{password, marked("jaas")}},
		"missing password": {fmt.Sprintf("brokers: [%q], sasl: {mechanism: plain, password: %q}", brokers, password), "sasl", []string{password}},
	} {
		source, secrets := secretSource(api.URL())
		timeout := "500ms" // if nobody answers as is hoped for
		if c.reaches == "exactly_once" {
			timeout = "10s"
		}
		cases["kafka/"+name] = secretCase{
			config: source + fmt.Sprintf("sinks: [{name: kafka, type: kafka, topic_prefix: OWN., request_timeout: %s, create: {partitions: 1}, %s}]\nadmin: {listen: ADMIN, token: %q}\n",
				timeout, c.sink, marked("admin-token")),
			env:     map[string]string{"KEY": apiMark},
			secrets: append(secrets, c.secrets...), reaches: c.reaches, only: reaching,
		}
		if strings.Contains(c.sink, "create:") {
			fixed := cases["kafka/"+name]
			fixed.config = strings.Replace(fixed.config, "create: {partitions: 1}, ", "", 1)
			cases["kafka/"+name] = fixed
		}
	}
}

func addTelemetryCases(t *testing.T, cases map[string]secretCase, api *sourcetest.Server) {
	t.Helper()
	url, _ := newNATS(t)
	var asked atomic.Int64
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "not you, "+r.Header.Get("X-Secret"))
	}))
	t.Cleanup(func() {
		echo.Close()
		require.Positive(t, asked.Load(), "no span was sent")
	})
	for name, endpoint := range map[string]string{"refused": echo.URL, "unreachable": "http://127.0.0.1:1"} {
		source, secrets := secretSource(api.URL())
		cases["telemetry/"+name] = secretCase{
			config: source + fmt.Sprintf("sinks: [{name: nats, type: nats, stream: OWN, topic_prefix: OWN., url: %q}]\nadmin: {listen: ADMIN, token: %q}\n"+
				"telemetry: {traces: {endpoint: %q, headers: [{name: x-secret, value: %q}]}}\n", url, marked("admin-token"), endpoint, marked("collector")),
			env: map[string]string{"KEY": apiMark}, secrets: append(secrets, marked("collector")), reaches: "spans could not be handed to the collector", only: []string{"run"},
		}
		cases["telemetry/metrics "+name] = secretCase{
			config: source + fmt.Sprintf("sinks: [{name: out, type: stdout}]\nadmin: {listen: ADMIN, token: %q}\n"+
				"telemetry: {metrics: {endpoint: %q, interval: 1s, headers: [{name: x-secret, value: %q}]}}\n", marked("admin-token"), endpoint, marked("collector")),
			env: map[string]string{"KEY": apiMark}, secrets: append(secrets, marked("collector")), reaches: "metrics could not be handed to the collector", only: []string{"run"},
		}
	}
}

// addConfigCases are mistakes beside, in and instead of secrets.
func addConfigCases(t *testing.T, cases map[string]secretCase) {
	t.Helper()
	m := marked("config")
	for name, text := range map[string]string{
		"unknown key beside":    fmt.Sprintf("source: {api_key: %q, bogus: 1}", m),
		"syntax beside":         fmt.Sprintf("source:\n  api_key: %q\n  : [", m),
		"syntax within":         fmt.Sprintf("source:\n  api_key: \"%s\n", strings.ReplaceAll(m, `"`, "")),
		"a list":                fmt.Sprintf("source: {api_key: [%q]}", m),
		"a section":             fmt.Sprintf("source: {api_key: {key: %q}}", m),
		"a tag":                 fmt.Sprintf("source: {api_key: !!binary %q}", m),
		"not a key":             fmt.Sprintf("source: {api_key: %q}", m+" "+m),
		"unknown variable":      "source: {api_key: \"${MISSING}\"}",
		"from the environment":  "source: {api_key: \"${M} ${M}\"}",
		"in another key":        "source: {api_key: k, poll_interval: \"${M}\"}\nid: \"${M}\"\nencoding: \"x${M}\"",
		"file named by it":      "source: {api_key_file: \"${M}\"}",
		"file and value":        fmt.Sprintf("source: {api_key: %q, api_key_file: /x}", m),
		"in the endpoint":       fmt.Sprintf("source: {api_key: k, endpoint: %q}", "https://u:"+url.QueryEscape(m)+"@api.workos.com"),
		"in a file":             fmt.Sprintf("source: {api_key_file: %q}", secretFile(t, m+" "+m)),
		"as an alias":           fmt.Sprintf("source: {api_key: &k %q, poll_interval: *k}", m),
		"in event patterns":     "source: {api_key: k, events: [\"${M}\"]}",
		"in routes":             "source: {api_key: k}\nroutes: [{events: [\"*\"], topic: \"${M}\", key: \"${M}\"}]",
		"admin token":           fmt.Sprintf("source: {api_key: k}\nadmin: {listen: \":x\", token: %q}", m),
		"webhook without":       fmt.Sprintf("source: {api_key: k, webhook: {listen: \"x\", secret: %q}}", m),
		"redaction key, short":  "source: {api_key: k}\nredaction: {key: MARKshort-s3cr}\nroutes: [{events: [\"*\"], pseudonymize: [data.a]}]",
		"password without user": fmt.Sprintf("source: {api_key: k}\nsinks: [{name: n, type: nats, auth: {password: %q}}]", m),
	} {
		cases["config/"+name] = secretCase{
			config: text + "\n", env: map[string]string{"M": m}, secrets: []string{m, "MARKshort-s3cr"}, reaches: "config.yaml",
			only: []string{"run", "check"},
		}
	}
}
