package nats

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

var (
	_ sink.Surveyor = (*Sink)(nil)
	_ sink.Surveyor = (*Ledger)(nil)
)

// shorterLooks is how often a stream that ends earlier than before is looked at: a new leader may
// have yet to apply what is committed.
const shorterLooks = 20

// Survey implements sink.Surveyor: the one part is the stream, and its end is the sequence after
// the last.
func (s *Sink) Survey(ctx context.Context, _ []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	l, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.atHome(ctx, l); err != nil {
		return nil, err
	}
	for look := 1; ; look++ {
		info, err := s.streamInfo(ctx, l)
		var parts []checkpoint.Part
		switch {
		case err == nil:
			parts = []checkpoint.Part{s.part(info)}
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, err
		}
		if !goneBack(known, parts) || madeAgain(known, parts) && look >= deletedLooks || look >= shorterLooks {
			return parts, nil
		}
		select {
		case <-time.After(deletedPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.closing:
			return nil, errClosed
		}
	}
}

func (s *Sink) part(info *jetstream.StreamInfo) checkpoint.Part {
	return checkpoint.Part{
		Name:   "stream " + s.cfg.Stream,
		ID:     createdText(info),
		Ends:   []int64{int64(info.State.LastSeq) + 1}, //nolint:gosec // no stream holds 2^63 messages
		Events: info.State.Msgs,
	}
}

// goneBack reports whether a known part is missing or ends earlier than it did.
func goneBack(known, now []checkpoint.Part) bool {
	return slices.ContainsFunc(known, func(k checkpoint.Part) bool {
		at := slices.IndexFunc(now, func(p checkpoint.Part) bool { return p.Name == k.Name })
		return at < 0 || len(k.Ends) > 0 && now[at].Ends[0] < k.Ends[0]
	})
}

// madeAgain reports whether a known part is missing or another one now.
func madeAgain(known, now []checkpoint.Part) bool {
	return slices.ContainsFunc(known, func(k checkpoint.Part) bool {
		return !slices.ContainsFunc(now, func(p checkpoint.Part) bool { return p.Name == k.Name && p.ID == k.ID })
	})
}

// Survey implements sink.Surveyor. The stream holds the position, too.
func (l *Ledger) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	parts, err := l.s.Survey(ctx, topics, known)
	for i := range parts {
		parts[i].Position = true
		parts[i].Events -= min(parts[i].Events, 1) // the position
	}
	return parts, err
}
