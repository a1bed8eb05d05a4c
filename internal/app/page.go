package app

import (
	"context"
	"sync"

	"workos-relay/internal/admin"
	"workos-relay/internal/admin/page"
	"workos-relay/internal/config"
	"workos-relay/internal/journal"
	"workos-relay/pipeline"
)

// shownPayload is how many bytes of the data of an event the status page shows if it may show any.
const shownPayload = 4 << 10

// newJournal returns the journal that the status page shows. hide removes secrets from a text.
func newJournal(cfg *config.Config, hide func(string) string) *journal.Journal {
	c := journal.Config{Hide: hide}
	if cfg.Admin.ShowPayloads {
		c.Payload = shownPayload
	}
	return journal.New(c)
}

// recordStates records the state of the lanes until the returned function is called.
func recordStates(ctx context.Context, past *journal.Journal, status func() []pipeline.Status) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { past.Run(ctx, status) })
	return func() { cancel(); wg.Wait() }
}

// statusPage returns the status page of a server.
func statusPage(past *journal.Journal) func(*admin.Server) admin.Page {
	return func(s *admin.Server) admin.Page {
		return page.New(page.Config{Status: s.Snapshot, Journal: past, Paths: s.Paths})
	}
}
