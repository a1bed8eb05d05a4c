package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// mirror is WorkOS and a bus that follows it with a lag. It implements what a StateCheck needs.
type mirror struct {
	mu      sync.Mutex
	here    map[string]string // by key: the object in WorkOS
	there   map[string]string // on the bus
	carried func() time.Time  // nil: the lane is current
	unknown bool              // how far the lane has come
	asked   map[string]int
	noGet   bool
	refuses error
	onGet   func(key string)
	out     map[string]bool
}

func newMirror(n int) *mirror {
	m := &mirror{here: map[string]string{}, there: map[string]string{}, asked: map[string]int{}, out: map[string]bool{}}
	for i := range n {
		key := fmt.Sprintf("user_%05d", i)
		m.here[key] = userOf(key, 0, time.Unix(8e8, 0))
		m.there[key] = m.here[key]
	}
	return m
}

func userOf(key string, n int, at time.Time) string {
	return fmt.Sprintf(`{"object":"user","id":%q,"n":%d,"updated_at":%q}`, key, n, at.UTC().Format(time.RFC3339Nano))
}

func (m *mirror) List(_ context.Context, entity string, fn func(*state.Change) error) error {
	m.mu.Lock()
	here := maps.Clone(m.here)
	m.mu.Unlock()
	e, _ := state.Lookup(entity)
	for _, key := range slices.Sorted(maps.Keys(here)) {
		c, _ := e.Of([]byte(here[key]))
		if err := fn(&c); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) Get(_ context.Context, ref lists.Ref) (lists.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked[ref.Key]++
	if m.onGet != nil {
		m.onGet(ref.Key)
	}
	o, ok := m.here[ref.Key]
	switch {
	case m.refuses != nil:
		return lists.Object{}, m.refuses
	case m.noGet:
		return lists.Object{}, lists.ErrNoGet
	case !ok:
		return lists.Object{}, lists.ErrNotFound
	}
	return lists.Object{Data: []byte(o)}, nil
}

func (m *mirror) Carried(context.Context) (now, carried time.Time, known bool, err error) {
	now = time.Now()
	if m.carried == nil {
		return now, now, !m.unknown, nil
	}
	return now, m.carried(), !m.unknown, nil
}

func (m *mirror) Each(_ context.Context, _ string, fn func(key string, value []byte, headers []sink.Header) error) error {
	m.mu.Lock()
	there := maps.Clone(m.there)
	m.mu.Unlock()
	for key, value := range there {
		if err := fn(key, []byte(value), nil); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) Object(_ string, object []byte) ([]byte, bool) {
	return object, m.out[string(object)]
}
func (m *mirror) MayLeaveOut(string, []byte) bool { return false }

func (m *mirror) run(t *testing.T) *StateResult {
	t.Helper()
	r, err := m.check(t).Run(t.Context())
	require.NoError(t, err)
	return r
}

func (m *mirror) check(t *testing.T) *StateCheck {
	t.Helper()
	return &StateCheck{Source: m, Form: m, Stored: m, Entities: []string{"user"}, Dir: t.TempDir(), Wait: 20 * time.Second, Examples: 3}
}

// tally is missing, stale, ghosts, left out, undecided, unsettled and unchecked.
func tally(r *StateReport) [7]int {
	c := r.of("user")
	return [7]int{c.Missing, c.Stale, c.Ghosts, c.LeftOut, c.Undecided, c.Unsettled, c.Unchecked}
}

func TestDifferencesOfTheState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(3 * partEvents / 2)
		delete(m.there, "user_00001")
		m.there["user_00002"] = userOf("user_00002", 0, time.Unix(7e8, 0))
		m.there["user_00003"] = userOf("user_00003", 1, time.Unix(8e8, 0))
		m.there["user_00004"] = userOf("user_00005", 0, time.Unix(8e8, 0))
		m.there["user_00006"] = "null"
		m.there["ghost"] = userOf("ghost", 0, time.Unix(8e8, 0))
		m.there[""] = "{}"
		m.out[m.here["user_00007"]] = true
		delete(m.there, "user_00007")
		r := m.run(t)
		require.Equal(t, [7]int{1, 4, 2, 1}, tally(&r.Report))
		require.Equal(t, 7, r.Report.Total)
		require.Equal(t, "user_00001", r.Report.Missing.Examples[0].Key)
		require.Len(t, r.Report.Stale.Examples, 3, "as many as were asked for")
		require.Equal(t, []string{isOlder, "n", hasAnother}, []string{r.Report.Stale.Examples[0].Differs, r.Report.Stale.Examples[1].Differs, r.Report.Stale.Examples[2].Differs})
		require.Equal(t, []string{"user"}, r.Faulty())

		maps.Copy(m.there, m.here)
		left, err := r.Again(t.Context())
		require.NoError(t, err)
		require.Len(t, left, 2)
		require.Equal(t, 2, r.Report.Total, "the ghosts")
		require.Equal(t, [7]int{1, 4, 2, 1}, tally(&r.Report), "what was found stays")
	})
}

// TestWhatIsOnItsWayIsNoDifference: the bus follows 15 seconds after WorkOS, and everything changes
// all the time.
func TestWhatIsOnItsWayIsNoDifference(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lag = 15 * time.Second
		m := newMirror(40)
		m.carried = func() time.Time { return time.Now().Add(-lag) }
		ctx, cancel := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-time.After(700 * time.Millisecond):
				}
				key, at := fmt.Sprintf("user_%05d", i*7%60), time.Now()
				m.mu.Lock()
				if i%3 == 0 {
					delete(m.here, key)
				} else {
					m.here[key] = userOf(key, i, at)
				}
				now, ok := m.here[key]
				m.mu.Unlock()
				time.AfterFunc(lag, func() {
					m.mu.Lock()
					defer m.mu.Unlock()
					if m.there[key] = now; !ok {
						delete(m.there, key)
					}
				})
			}
		})
		for range 20 {
			r := m.run(t)
			require.Zero(t, r.Report.Total, "%+v", r.Report)
			time.Sleep(time.Second)
		}
		cancel()
		busy.Wait()
		time.Sleep(lag)
		r := m.run(t)
		require.Equal(t, [7]int{}, tally(&r.Report))
	})
}

func TestALaneThatIsBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(10)
		behind := time.Now()
		m.carried = func() time.Time { return behind }
		time.Sleep(time.Hour)
		m.here["user_00001"] = userOf("user_00001", 1, time.Now())
		m.here["new"] = userOf("new", 1, time.Now())
		delete(m.here, "user_00002")
		delete(m.there, "user_00003") // long ago
		m.there["user_00004"] = userOf("user_00004", 0, time.Unix(7e8, 0))
		r := m.run(t)
		require.Equal(t, [7]int{1, 1, 0, 0, 0, 3}, tally(&r.Report))

		m.unknown = true
		r = m.run(t)
		require.Equal(t, [7]int{2, 2, 1}, tally(&r.Report), "it counts as current")
	})
}

func TestWhatCannotBeAskedForIsNoGhost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(5)
		m.there["ghost"] = userOf("ghost", 0, time.Unix(8e8, 0))
		m.noGet = true
		r := m.run(t)
		require.Equal(t, [7]int{0, 0, 0, 0, 1}, tally(&r.Report))
		require.Zero(t, r.Report.Total)
	})
}

func TestOnlySoManyAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(maxCandidates + 50)
		clear(m.there)
		r := m.run(t)
		require.Equal(t, [7]int{maxCandidates, 0, 0, 0, 0, 0, 50}, tally(&r.Report))
		require.Equal(t, maxCandidates, r.Report.Total)
		require.Len(t, m.asked, maxCandidates)
	})
}

func TestVersionsOfAnObject(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ entity, listed, stored, want string }{
		"the same":             {"user", `{"id":"u","n":1,"updated_at":"2026-01-01T00:00:00Z"}`, `{ "updated_at":"2026-01-01T00:00:00.000Z", "n":1.0, "id":"u" }`, ""},
		"a large number":       {"user", `{"n":12345678901234567890123}`, `{"n":12345678901234567890124}`, "n"},
		"inside":               {"user", `{"metadata":{"a":1,"b":[1]}}`, `{"metadata":{"b":[2],"a":1}}`, "metadata"},
		"only in the list":     {"user", `{"id":"u","x":1}`, `{"id":"u"}`, ""},
		"only on the bus":      {"user", `{"id":"u"}`, `{"id":"u","previous_attributes":{}}`, ""},
		"what events have":     {"user", `{"id":"u","email":"a"}`, `{"id":"u"}`, "email, which the bus lacks"},
		"another object":       {"organization", `{"domains":[{"object":"organization_domain","id":"d","state":"verified"}]}`, `{"domains":[]}`, ""},
		"a role and its event": {"role", `{"object":"role","id":"r","slug":"a"}`, `{"object":"environment_role","slug":"a"}`, ""},
		"null":                 {"user", `{"first_name":null}`, `{"first_name":"a"}`, "first_name"},
		"no time":              {"user", `{"updated_at":"2026-01-01T00:00:00Z"}`, `{}`, hasNoUpdate},
		"newer":                {"user", `{"updated_at":"2026-01-01T00:00:00Z"}`, `{"updated_at":"2026-01-01T00:00:00.001Z"}`, isNewer},
		"a member of a group":  {"directory_group_membership", `{"user":{"id":"u","n":1}}`, `{"user":{"id":"u","n":2}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPrinter()
			e, ok := state.Lookup(c.entity)
			require.True(t, ok)
			listed, ok := p.of([]byte(c.listed))
			require.True(t, ok)
			stored, ok := p.of([]byte(c.stored))
			require.True(t, ok)
			require.Equal(t, c.want, p.differ(p.shapeOf(&e), &listed, &stored))
		})
	}
	for _, bad := range []string{"", "null", "[]", `"a"`, `{"a":`, `{"a":1}x`} {
		_, ok := newPrinter().of([]byte(bad))
		require.False(t, ok, bad)
	}
}

// TestWhatCannotBeToldIsNotRepaired: a fault counts as repaired only if both sides agree.
func TestWhatCannotBeToldIsNotRepaired(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]func(m *mirror){
		"the lane is behind": func(m *mirror) {
			behind := time.Now()
			m.carried = func() time.Time { return behind }
		},
		"WorkOS does not tell":  func(m *mirror) { m.noGet = true },
		"nothing has happened":  func(*mirror) {},
		"the ghost has changed": func(m *mirror) { m.there["ghost"] = userOf("ghost", 1, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMirror(5)
				m.there["ghost"] = userOf("ghost", 0, time.Unix(8e8, 0))
				m.there["other"] = userOf("other", 0, time.Unix(8e8, 0))
				r := m.run(t)
				require.Equal(t, 2, r.Report.Total)
				delete(m.there, "other")
				after(m)
				left, err := r.Again(t.Context())
				require.NoError(t, err)
				require.Equal(t, 1, r.Report.Total)
				require.Len(t, left, 1)
				require.Equal(t, "ghost", left[0].Key)

				m.carried, m.noGet = nil, false
				delete(m.there, "ghost")
				left, err = r.Again(t.Context())
				require.NoError(t, err)
				require.Zero(t, r.Report.Total)
				require.Equal(t, []StateExample{}, left)
			})
		})
	}
}

// TestAListedObjectThatCannotBeAskedFor is looked for in the lists again.
func TestAListedObjectThatCannotBeAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(5)
		clear(m.there)
		m.noGet = true
		require.Equal(t, [7]int{5}, tally(&m.run(t).Report))
	})
}

// TestARefusalIsNoAnswer: if WorkOS refuses to show an object, nothing is said of the state.
func TestARefusalIsNoAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(50)
		clear(m.there)
		m.refuses = &source.RefusalError{}
		c := m.check(t)
		_, err := c.Run(t.Context())
		require.ErrorIs(t, err, m.refuses)
		require.LessOrEqual(t, len(m.asked), lookers, "it does not wait for the refusal of each")
	})
}
