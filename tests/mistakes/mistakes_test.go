//go:build unix

package mistakes

import "testing"

// TestMistakes: each mistake has an exit code and a message that names what, where and what next.
func TestMistakes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, group := range []struct {
		name string
		rows []mistake
	}{
		{"the configuration", fileMistakes},
		{"secrets", secretMistakes},
		{"reaching", reachMistakes},
		{"commands", commandMistakes},
		{"files and ports", placeMistakes},
		{"a running relay", runningMistakes},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			runAll(t, s, group.rows)
		})
	}
}
