package source

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// A pause that ends after the last look at what may be started, and before the window goes to sleep, wakes it all the same. With
// nothing under way nothing else would.
func TestAPauseThatIsJustOverIsNotSleptThrough(t *testing.T) {
	for name, pause := range map[string]func(w *window, until time.Time){
		"of a segment":    func(w *window, until time.Time) { w.segs[0].notBefore = until },
		"of every reader": func(w *window, until time.Time) { w.r.quiet.Store(&until) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := (&fakeAPI{}).stream()
				s.Readers = 2
				r, err := newReader(s, checkpoint.Position{EventID: "event_000001", CreatedAt: time.Now().Add(-24 * time.Hour)})
				require.NoError(t, err)
				w := newWindow(t.Context(), r)
				looked := time.Now()
				pause(w, looked.Add(time.Millisecond))
				time.Sleep(2 * time.Millisecond)
				w.wait(looked)
				require.Equal(t, 2*time.Millisecond, time.Since(looked))
				w.close()
			})
		})
	}
}
