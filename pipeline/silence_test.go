package pipeline_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
)

func TestAwaitSilence(t *testing.T) {
	held := checkpoint.Checkpoint{Holder: "other", Generation: 1, Revision: 7, UpdatedAt: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)}
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		after  time.Duration
		load   func(since time.Duration) (checkpoint.Checkpoint, error)
		within time.Duration
		err    error
		least  time.Duration
		most   time.Duration
	}{
		"nobody moves it": {
			after: time.Minute, load: func(time.Duration) (checkpoint.Checkpoint, error) { return held, nil }, within: time.Hour,
			least: 48 * time.Second, most: time.Minute,
		},
		"it moves": {
			after: time.Minute, within: time.Hour, err: pipeline.ErrActive, least: 20 * time.Second, most: 22 * time.Second,
			load: func(since time.Duration) (checkpoint.Checkpoint, error) {
				cp := held
				cp.Revision += uint64(since / (20 * time.Second)) //nolint:gosec // small
				return cp, nil
			},
		},
		"it is released meanwhile": {
			after: time.Minute, within: time.Hour, least: 10 * time.Second, most: 12 * time.Second,
			load: func(since time.Duration) (checkpoint.Checkpoint, error) {
				cp := held
				cp.Released = since >= 10*time.Second
				return cp, nil
			},
		},
		"there is not enough time": {
			after: time.Minute, load: func(time.Duration) (checkpoint.Checkpoint, error) { return held, nil }, within: 10 * time.Second,
			err: context.DeadlineExceeded, least: 10 * time.Second, most: 10 * time.Second,
		},
		"it is this process's own": {
			after: time.Minute, within: time.Hour,
			load: func(time.Duration) (checkpoint.Checkpoint, error) {
				cp := held
				cp.Holder = "me"
				return cp, nil
			},
		},
		"it cannot be read": {
			after: time.Minute, within: time.Hour, err: gone,
			load: func(time.Duration) (checkpoint.Checkpoint, error) { return checkpoint.Checkpoint{}, gone },
		},
		"nobody renews": {
			load: func(time.Duration) (checkpoint.Checkpoint, error) { return held, nil }, within: time.Hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), c.within)
				defer cancel()
				_, err := pipeline.AwaitSilence(ctx, c.after, "me", func(context.Context) (checkpoint.Checkpoint, error) {
					return c.load(time.Since(began))
				})
				require.ErrorIs(t, err, c.err)
				require.GreaterOrEqual(t, time.Since(began), c.least)
				require.LessOrEqual(t, time.Since(began), c.most)
			})
		})
	}
}
