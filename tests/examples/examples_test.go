package examples

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

const (
	topic   = "directory" // the topic that the consumers read
	patient = 4 * time.Minute
)

// program starts a consumer of one bus, or what follows the state on it, in one language.
type program struct {
	dir     string
	args    func(bus string) []string
	state   func(bus string) []string // nil if the language has no such example
	stopped int                       // exit code after a stop in order
}

// requireStopped takes what Wait returned for the program after SIGTERM.
func (p program) requireStopped(t *testing.T, err error) {
	t.Helper()
	code := 0
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		code = failed.ExitCode() // -1 if the signal has killed it
	} else {
		require.NoError(t, err)
	}
	require.Equal(t, p.stopped, code, "exit code of a stop in order")
}

// programs are the consumers whose languages are here: Go always is.
func programs(t *testing.T) map[string]program {
	if runtime.GOOS == "windows" {
		t.Skip("the consumers are stopped by SIGTERM")
	}
	// `go test` takes results from its cache unless a file has changed that the test itself, not a
	// process of it, has looked at.
	for _, pattern := range []string{"../../examples/*/*.*", "../../examples/rust/src/*", "../../examples/java/src/main/*/*", "../../examples/java/src/main/java/*/*"} {
		sources, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, sources)
		for _, file := range sources {
			_, err := os.Stat(file)
			require.NoError(t, err)
		}
	}
	binary := filepath.Join(t.TempDir(), "consumer")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../examples/go").CombinedOutput()
	require.NoError(t, err, string(out))
	all := map[string]program{"go": command(".", binary)}
	if python := os.Getenv("RELAY_TEST_PYTHON"); python != "" {
		all["python"] = program{
			"../../examples/python",
			func(bus string) []string { return []string{python, "consume_" + bus + ".py"} },
			func(bus string) []string { return []string{python, "state_" + bus + ".py"} },
			0,
		}
	}
	if node := os.Getenv("RELAY_TEST_NODE"); node != "" {
		all["typescript"] = program{"../../examples/typescript", func(bus string) []string { return []string{node, "--import", "tsx", bus + ".ts"} }, nil, 0}
	}
	if jar := os.Getenv("RELAY_TEST_JAVA"); jar != "" {
		p := command(".", "java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", jar) // options for a quick start
		p.stopped = 128 + int(syscall.SIGTERM)                                                // of every JVM, once its shutdown hooks have run
		all["java"] = p
	}
	if binary := os.Getenv("RELAY_TEST_RUST"); binary != "" {
		all["rust"] = command(".", binary)
	}
	for _, language := range []string{"python", "typescript", "java", "rust"} {
		if _, here := all[language]; !here {
			t.Logf("NOT TESTED: the consumers in %s, what they need is not here: see .ci/examples", language)
		}
	}
	return all
}

// command is a program that has everything in one, and is told what to do.
func command(dir string, args ...string) program {
	return program{
		dir,
		func(bus string) []string { return append(slices.Clone(args), bus) },
		func(bus string) []string { return append(slices.Clone(args), "state-"+bus) },
		0,
	}
}

// consumer is a program at work, whose results outlive it.
type consumer struct {
	program
	bus  string
	env  []string
	data string
	log  bytes.Buffer
}

// start runs the program; the function it returns sends a signal and waits for the end.
func (c *consumer) start(t *testing.T) (end func(syscall.Signal) error) {
	t.Helper()
	args := c.args(c.bus)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(append(os.Environ(), "TOPIC="+topic, "DATA="+c.data), c.env...)
	cmd.Stdout, cmd.Stderr = &c.log, &c.log
	require.NoError(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	return func(sig syscall.Signal) error {
		require.NoError(t, cmd.Process.Signal(sig))
		select {
		case err := <-exited:
			return err
		case <-time.After(patient):
			_ = cmd.Process.Kill()
			return fmt.Errorf("still running %s after signal %s: %w", patient, sig, <-exited)
		}
	}
}

// ids returns the event ids in a file of the consumer, in its order.
func (c *consumer) ids(t *testing.T, file string) []string {
	text, err := os.ReadFile(filepath.Join(c.data, file))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	var ids []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") { // being written
			break
		}
		var record struct {
			ID string `json:"event_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &record))
		ids = append(ids, record.ID)
	}
	return ids
}

var handledLine = regexp.MustCompile(`(?m)^handled event (\S+): `)

// printed returns the event ids of the lines that the consumer has printed.
func (c *consumer) printed() []string {
	var ids []string
	for _, match := range handledLine.FindAllStringSubmatch(c.log.String(), -1) {
		ids = append(ids, match[1])
	}
	return ids
}

// parked returns the events put aside, each once: one that came again was put aside again.
func (c *consumer) parked(t *testing.T) []string {
	ids := c.ids(t, "parked.jsonl")
	slices.Sort(ids)
	return slices.Compact(ids)
}

// await returns when the consumer has handled so many events.
func (c *consumer) await(t *testing.T, handled int) {
	t.Helper()
	require.Eventually(t, func() bool { return len(c.ids(t, "handled.jsonl")) >= handled }, patient, 5*time.Millisecond, "events handled")
}

// load is what is put on the bus: parts, between which the consumer is killed.
type load struct {
	parts  [][]sink.Message
	want   []string // ids that have to be handled, in order
	keys   map[string]string
	poison []string
}

// newLoad has, in each of three parts, events that come again, one that is poison, and some of
// another topic.
func newLoad(t *testing.T, binding router.Binding) *load {
	t.Helper()
	r, err := router.New(router.Config{Relay: "test", Binding: binding, Routes: []router.Route{{Events: []string{"*"}, Topic: topic, Key: "data.id"}}})
	require.NoError(t, err)
	events := sourcetest.NewGenerator(sourcetest.Population{Seed: 7, Events: 120})
	l := &load{keys: map[string]string{}}
	for n := range events.Len() {
		if n%40 == 0 {
			l.parts = append(l.parts, nil)
		}
		part := &l.parts[len(l.parts)-1]
		e := source.Event{Raw: events.Event(n)}
		require.NoError(t, json.Unmarshal(e.Raw, &e))
		batch, err := r.Route(&e)
		require.NoError(t, err)
		m := batch[0]
		switch {
		case n%11 == 5:
			m.Topic = "other"
		case n%40 == 17:
			m.Body = []byte(`{"event":` + fmt.Sprint(n))
			l.poison = append(l.poison, e.ID)
		default:
			l.want, l.keys[e.ID] = append(l.want, e.ID), string(m.Key)
		}
		*part = append(*part, m)
		if n%5 == 3 { // as after a crash of a relay that delivers at least once: what was in flight comes again
			*part = append(*part, (*part)[max(0, len(*part)-3):]...)
		}
	}
	require.NotEmpty(t, l.poison)
	return l
}

// run kills the consumer behind each part but the last, and then lets it end in order.
func (l *load) run(t *testing.T, c *consumer, publish func([]sink.Message)) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the consumer said:\n" + c.log.String())
		}
	})
	for i, part := range l.parts {
		end := c.start(t)
		publish(part)
		if i < len(l.parts)-1 {
			c.await(t, len(l.want)*i/len(l.parts)+3)
			require.Error(t, end(syscall.SIGKILL))
			continue
		}
		c.await(t, len(l.want))
		require.Eventually(t, func() bool { return len(c.parked(t)) >= len(l.poison) }, patient, 5*time.Millisecond)
		c.requireStopped(t, end(syscall.SIGTERM))
	}
}

// check compares what was handled with what should have been; order tells whether all events have
// one order, or those of a key only.
func (l *load) check(t *testing.T, c *consumer, order bool) {
	t.Helper()
	handled := c.ids(t, "handled.jsonl")
	if order {
		require.Equal(t, l.want, handled)
	} else {
		require.ElementsMatch(t, l.want, handled)
		require.Equal(t, byKey(l.want, l.keys), byKey(handled, l.keys))
	}
	require.ElementsMatch(t, l.poison, c.parked(t))
	printed := c.printed()
	require.Subset(t, handled, printed)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(printed))), len(printed), "one line for each event")
	killed := len(l.parts) - 1
	require.GreaterOrEqual(t, len(printed), len(handled)-2*killed, "only a kill takes a line away, and the rest of the line that it tears")
}

func byKey(ids []string, keys map[string]string) map[string][]string {
	out := map[string][]string{}
	for _, id := range ids {
		out[keys[id]] = append(out[keys[id]], id)
	}
	return out
}
