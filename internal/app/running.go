package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"workos-relay/internal/admin"
	"workos-relay/internal/config"
)

// Running returns a client of the running relay with this configuration. It fails if none
// answers, or if it lacks one of lanes.
func Running(ctx context.Context, cfg *config.Config, lanes ...string) (*admin.Client, error) {
	client, _, err := AskRunning(ctx, cfg, lanes...)
	return client, err
}

// AskRunning is like Running, and also returns the status that the relay answered with.
func AskRunning(ctx context.Context, cfg *config.Config, lanes ...string) (*admin.Client, admin.Status, error) {
	if cfg.Admin.Listen == "" {
		return nil, admin.Status{}, ErrNoAdmin
	}
	client, err := admin.NewClient(cfg.Admin.Listen, adminSecurity(cfg))
	if err != nil {
		return nil, admin.Status{}, Usage(err)
	}
	status, err := client.Status(ctx)
	if err != nil {
		return nil, status, err
	}
	if status.ID != cfg.ID {
		return nil, status, &otherRelayError{fmt.Sprintf("the relay on %s has the id %q, and this configuration has %q: name the configuration of that relay with --config, or correct admin.listen",
			client.Addr(), status.ID, cfg.ID)}
	}
	for _, name := range lanes {
		if !slices.ContainsFunc(status.Lanes, func(l admin.LaneStatus) bool { return l.Name == name }) {
			return nil, status, &otherRelayError{fmt.Sprintf("the relay on %s has no lane %q: `relay status` lists its lanes, and `relay reload` makes it read a changed configuration", client.Addr(), name)}
		}
	}
	return client, status, nil
}

// ErrNoAdmin says that a running relay cannot be asked, because it has no admin server.
var ErrNoAdmin = errors.New("admin.listen is switched off, so a running relay cannot be asked; set it to an address, such as 127.0.0.1:8080, and start relay again")

// otherRelayError says that another relay listens on the address.
type otherRelayError struct{ text string }

func (e *otherRelayError) Error() string { return e.text }
