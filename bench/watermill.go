package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"workos-relay/source"
)

// afterAnother is for what waits for each event to be acknowledged.
func afterAnother(events int, latency time.Duration) int {
	if latency == 0 {
		return max(events/8, 1)
	}
	return min(baseline(events, latency), 30_000)
}

// errNotBuilt: the rival on Watermill is missing, since its module could not be built here.
var errNotBuilt = errors.New("the loop on Watermill is left out")

// buildWatermill builds the rival, once.
func (l *lab) buildWatermill(ctx context.Context) (string, error) {
	if l.rival == "" && l.rivalErr == nil {
		exe := filepath.Join(l.dir, "watermill")
		if _, err := output(ctx, filepath.Join(l.module, "bench", "watermill"), "go", "build", "-trimpath", "-o", exe, "."); err != nil {
			l.rivalErr = fmt.Errorf("%w: %w", errNotBuilt, err)
		} else {
			l.rival = exe
		}
	}
	return l.rival, l.rivalErr
}

// watermill is the loop that a team would write on Watermill: see the directory of that name.
func (l *lab) watermill(name string, open func(context.Context) (bus, error)) rival {
	return rival{name: name, share: afterAnother, run: func(ctx context.Context, api string, events int) (carried, error) {
		exe, err := l.buildWatermill(ctx)
		if err != nil {
			return carried{}, err
		}
		types, err := source.Expand([]string{"*"})
		if err != nil {
			return carried{}, err
		}
		return l.into(ctx, open, events, func(b bus) (*process, *relayProcess, error) {
			dir, err := os.MkdirTemp(l.dir, "watermill-")
			if err != nil {
				return nil, nil, err
			}
			args := append([]string{"-api", api, "-key", apiKey, "-types", strings.Join(types, ","), "-cursor", filepath.Join(dir, "cursor")}, b.flags()...)
			p := &process{name: "watermill", cmd: exec.CommandContext(ctx, exe, args...)}
			return p, nil, p.start()
		})
	}}
}
