package manual

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// speaking are the packages whose messages reach an operator.
var speaking = []string{
	"cmd/relay", "checkpoint", "source", "source/webhook", "router", "state", "sink", "sink/nats", "sink/kafka", "sink/kafka/internal/client", "sink/kafka/oauth", "sink/kafka/mskiam", "sink/stdout", "pipeline",
	"internal/admin", "internal/admin/page", "internal/app", "internal/batch", "internal/hint", "internal/journal", "internal/listener", "internal/moment", "conf/livefile", "conf/tlsconf", "conf/unit", "internal/config", "internal/deadletter", "internal/republish", "internal/sdnotify", "internal/snapshot", "internal/verify", "internal/telemetry",
}

// written are files of other texts than messages: pages, and what is generated from declarations.
var written = []string{
	"cmd/relay/completion.go", "cmd/relay/demo.go", "cmd/relay/demo_flow.go", "cmd/relay/init_text.go", "cmd/relay/main.go", "sink/kafka/starter.go", "sink/nats/starter.go", "internal/config/reference.go", "internal/config/example.go", "internal/config/schema.go", "internal/config/describe.go",
	"internal/admin/page/assets.go", "internal/admin/page/snapshot.go", "internal/admin/page/view.go",
	"internal/telemetry/families.go", "internal/telemetry/reference.go",
}

// quiet are calls whose texts are no faults: what a command prints on success, logs of what is as
// it should be, mistakes in the program.
var quiet = regexp.MustCompile(`^(Fprintf|Fprintln|Fprint|Appendf|WriteString|Info|Debug|printf|good|begin|note|panic|Set|Reason|describe|endBackfill|Description|String|Contains|HasPrefix|MustCompile)$`)

const (
	summary   = "what a command did"
	verifying = "how far a lane's own verification is"
	finding   = "what verify found, explained in operate.md"
	index     = "the list of paths of the admin address"
	figures   = "figures of the status"
	reloaded  = "what `relay reload` did"
	inspected = "what `relay check` shows of a topic"
	acl       = "a part of the command in a message that is found"
	document  = "in the AsyncAPI document of `relay types --asyncapi`"
)

// noFault are texts, beside those, that an operator meets as something else than a fault, or only
// inside of a message that is found by its other words.
var noFault = map[string]string{
	"… of at most … (create.max_topics), others are created when an event needs them: …, replication …": finding,

	"; the routes drop … more, which stay dead letters":      summary,
	"; … more were published again":                          summary,
	"; … on the topic that relay did not write":              summary,
	"lane … has no dead letter that was not published again": summary,
	"…, to …, run …":                                         summary,
	"snapshot: … (entity … of ……), … in all":                 "how far a snapshot is",
	"looking for what only the bus has of …":                 "how far a snapshot is",
	"…; events follow when it is finished":                   "how far a snapshot is",
	", … dropped by routes":                                  "how far a snapshot is",
	"…; the active relay reads it":                           "how far a snapshot is",
	"…; the lane has stopped":                                "how far a snapshot is",
	"snapshot: asked for, and not begun yet":                 "how far a snapshot is",
	"…; the lane is paused: `relay resume …` lets it go on":  "how far a snapshot is",
	", the last at …":                                        figures,
	"; a lane waits until …":                                 figures,
	"; … 429 since relay started":                            figures,
	"requests to WorkOS: …/s of at most …/s":                 figures,
	"less than 1 ms":                                         figures,
	"; the routes drop … more":                               summary,
	"; dead letters among them: …":                           summary,
	"published … again, marked …: …":                         summary,
	"would publish … again to … of lane …":                   summary,
	"another body than relay makes of the event":             finding,
	"begins with a message stored at …":                      finding,
	"copies beside the first; replays apart":                 finding,
	"directly behind a later event":                          finding,
	"; at_least_once allows them":                            finding,
	"no message carries the event":                           finding,
	"on another topic than the routes say":                   finding,

	"… no longer kept by the bus":                                verifying,
	"no fault found in the state":                                verifying,
	"another lane verifies itself":                               verifying,
	"; `…` shows the faults":                                     verifying,
	"relay verify --since=TIME --until=TIME [flags]":             "a line of --help",
	"relay verify (--since=TIME --until=TIME | --state) [flags]": "a line of --help",
	"one is under way":                                           verifying,
	"one is under way and waits: …":                              verifying,
	"the next one waits: …":                                      verifying,
	"the attempt … ago was not finished because …":               verifying,
	"missing in the state":                                       verifying,
	"stale in the state":                                         verifying,
	"only in the state":                                          verifying,
	"another relay carries the lane":                             verifying,
	"faults were found, and are looked at again":                 verifying,
	"lane … publishes a snapshot":                                verifying,
	"the lane publishes a snapshot":                              verifying,
	"the lane has not begun":                                     verifying,
	"the lane has not caught up since it was started or moved":   verifying,
	"the lane has stopped":                                       verifying,
	"the lane is paused":                                         verifying,
	"the lane tries again: …":                                    verifying,
	"relay verify --lane … --since … --until …":                  "a command, beside a message that is found",

	", on the bus …":                                        finding,
	"Not compared: …, since ….":                             summary,
	"Snapshot … of …: published …, removed …":               summary,
	"WorkOS has no list of it":                              finding,
	"WorkOS has one list for each user":                     finding,
	"WorkOS has the object, the bus has not":                finding,
	"the bus has another version of the object than WorkOS": finding,
	"the bus has the object, WorkOS has not":                finding,
	"the key, which is not that of the object":              finding,
	"updated_at, which is newer on the bus":                 finding,
	"updated_at, which is older on the bus":                 finding,
	"updated_at, which the bus lacks":                       finding,
	"…, which the bus lacks":                                finding,
	"reading the lists of …":                                summary,
	"reading the state of …":                                summary,
	"looking at differences again":                          summary,
	"looking at differences by id":                          summary,

	"200 while every lane makes progress, else 503; with the reasons for who may read them": index,
	"200 while the process lives":                             index,
	"the status page, and for others than browsers this list": index,
	"the status page's updates, as server-sent events":        index,
	"every lane as JSON":                                      index,
	"read the configuration again":                            index,
	"read what WorkOS has and publish it to the state topics: {\"entities\": [...]}, else all": index,
	"stop reading, keep everything; ?lane=NAME, else all lanes":                                index,
	"go on from elsewhere: {\"to\": an event id, a time, earliest or latest}":                  index,

	"2026-11-01, 2026-11-01 15:04 or 2026-11-01T15:04:05Z (UTC unless an offset such as +02:00 follows), today, yesterday, or 2h, 90m or 3d for that long ago": "the forms of a time, at the end of a message that is found",

	"earliest, latest, an event id, or a time: …": "the forms of a start, at the end of a message that is found",
	"reading the Events API":                      "what a lane was doing, beside an error",
	"reading a list of WorkOS":                    "what a lane was doing, beside an error",

	"secret or list of secrets": "a kind of value, in configuration.md",

	"… was restarted from its position": reloaded,
	"… was stopped and released":        reloaded,

	"the Events API at …":         "a part of a message that is found by its other words",
	", which `relay run` creates": inspected,
	"the state of each …":         inspected,
	"a relay is running with this configuration: …, version …, started …": inspected,
	"a relay is running with this configuration, and cannot be asked: …":  inspected,
	"to be created: …, replication …":                                     inspected,
	"stream …, replicas …, kept …, duplicate window …":                    inspected,
	"as the cluster sets it":                                              inspected,
	"WorkOS events, in the order of the Events API":                       "description of a stream that relay makes",
	"Current state of each … of WorkOS":                                   "description of a bucket that relay makes",
	"it copies the stream that was made again":                            "a change that relay has made, in the log",
	"…: the header … of a message of bucket …":                            "a part of a message that is found",
	"bucket …, to be created; …":                                          inspected,
	", … behind the stream":                                               inspected,
	"…: create it, or set create.enabled":                                 "the end of a message that is found",
	"allow_rollup_hdrs and allow_msg_ttl":                                 "settings of a stream, named in a message that is found",
	"allow_atomic, allow_rollup_hdrs and allow_msg_ttl":                   "settings of a stream, named in a message that is found",
	"relay replay --since … --until …":                                    "a command, beside a message that is found",
	"relay replay --since TIME":                                           "a command, beside a message that is found",
	"event … (…): …; …":                                                   "an event that replay cannot publish, found by the other words",
	"User:<distinguished name in …>":                                      acl,

	"In exactly_once, read with isolation.level=read_committed. Make handlers idempotent by the header event-id.":    document,
	"JetStream stream …. Read it through a consumer with a filter; make handlers idempotent by the header event-id.": document,

	"User:<subject of the token>":                                 acl,
	"kafka-acls --bootstrap-server … --add --allow-principal '…'": acl,
}

// TestEveryMessageIsFound: docs/troubleshoot.md has every message that relay prints about a fault.
func TestEveryMessageIsFound(t *testing.T) {
	texts := textsOf(t, "../..")
	require.Greater(t, len(texts), 1000)
	var missing []string
	met := map[string]bool{}
	for _, x := range texts {
		found := noFault[x.text] != "" || !x.message
		met[x.text] = true
		said := strings.ToLower(x.text)
		for _, e := range Entries() {
			for i := range e.Patterns {
				if p := &e.Patterns[i]; p.within(said) {
					found, met[p.Text] = true, true
				}
			}
		}
		if !found {
			missing = append(missing, x.file+": "+x.text)
		}
	}
	slices.Sort(missing)
	require.Empty(t, missing, "docs/troubleshoot.md says nothing of these messages. Add each, with … for what differs, to the list under the heading "+
		"under which an operator should find it, or to a new one; or to noFault above if it is not a fault:\n%s", strings.Join(missing, "\n"))
	var dead []string
	for _, e := range Entries() {
		require.NotEmpty(t, e.Patterns, "the entry %q has no list of messages", e.Title)
		require.NotEmpty(t, e.Advice, "the entry %q gives no advice", e.Title)
		for _, p := range e.Patterns {
			if p.Kind == Outside { // TestWordsFromOutside
				continue
			}
			require.Greater(t, p.Length(), 5, "%q under %q would match anything", p.Text, e.Title)
			if !met[p.Text] {
				dead = append(dead, p.Text+" under "+e.Title)
			}
		}
	}
	require.Empty(t, dead, "no message matches these patterns of docs/troubleshoot.md any more")
	for text := range noFault {
		require.True(t, met[text], "noFault: no message is %q any more", text)
	}
}

// text is one that stands in the program, verbs replaced by gaps.
type text struct {
	text, file string
	message    bool // may be what an operator meets when something is wrong
}

// textsOf returns every text of the packages.
func textsOf(t *testing.T, root string) []text {
	t.Helper()
	var out []text
	for _, pkg := range speaking {
		files, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files, pkg)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			require.NoError(t, err)
			v := &visitor{file: pkg + "/" + filepath.Base(file), to: &out}
			v.quiet = slices.Contains(written, v.file)
			ast.Walk(v, parsed)
		}
	}
	return out
}

// visitor collects the texts of a file.
type visitor struct {
	file  string
	quiet bool
	to    *[]text
}

// Visit implements ast.Visitor.
func (v *visitor) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.Field:
		if n.Tag != nil {
			return nil
		}
	case *ast.CallExpr:
		if quiet.MatchString(called(n)) {
			return &visitor{file: v.file, quiet: true, to: v.to}
		}
	case ast.Expr:
		if words, ok := literal(n); ok {
			words = normal(words)
			*v.to = append(*v.to, text{text: words, file: v.file, message: !v.quiet && speaks(words)})
			return nil
		}
	}
	return v
}

func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// literal is a string that stands in the program, or a sum of such and of others.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, one := literal(e.X)
		right, other := literal(e.Y)
		if !one {
			left = Gap
		}
		if !other {
			right = Gap
		}
		return left + right, one || other
	}
	return "", false
}

var (
	verb = regexp.MustCompile(`%[-+#0-9.\[\]]*[a-zA-Z]`)
	// doing is what was under way when something failed. What failed is said behind it, and is
	// found by its own words.
	doing = regexp.MustCompile(`^[a-z]+ing( [^:;]*)?: …$`)
)

func normal(text string) string { return strings.TrimSpace(verb.ReplaceAllString(text, Gap)) }

// speaks reports whether text is long enough to be looked for. Shorter ones stand within others, or
// are names.
func speaks(text string) bool {
	const words = 4
	return len(strings.Fields(strings.ReplaceAll(text, Gap, " "))) >= words && !doing.MatchString(text)
}
