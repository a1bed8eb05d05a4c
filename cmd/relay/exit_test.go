package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/app"
	"workos-relay/internal/operator"
	"workos-relay/internal/republish"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// P4: exit codes.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	passing := errors.New("connection refused")
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"anything that may pass":    {passing, exitFailed},
		"a conflict":                {checkpoint.ErrConflict, exitFailed},
		"no checkpoint":             {checkpoint.ErrNotFound, exitFailed},
		"an answer that may pass":   {&source.APIError{Status: 503}, exitFailed},
		"too many requests":         {&source.APIError{Status: 429}, exitFailed},
		"no answer":                 {&source.TransportError{Err: passing}, exitFailed},
		"a damaged answer":          {&source.ResponseError{Reason: "cut off"}, exitFailed},
		"the end of the context":    {context.DeadlineExceeded, exitFailed},
		"the configuration":         {app.Usage(passing), exitUsage},
		"the configuration, joined": {errors.Join(passing, app.Usage(passing)), exitUsage},

		"checkpoint lost":                {checkpoint.ErrLost, exitOperator},
		"checkpoint corrupt":             {checkpoint.ErrCorrupt, exitOperator},
		"checkpoint foreign":             {checkpoint.ErrForeign, exitOperator},
		"checkpoint foreign, a field":    {&checkpoint.ForeignError{Field: "lane"}, exitOperator},
		"checkpoint locked":              {checkpoint.ErrLocked, exitOperator},
		"another mode":                   {&pipeline.ModeError{Text: "two positions", Action: "choose"}, exitOperator},
		"no start":                       {pipeline.ErrOrigin, exitOperator},
		"no start, for a passing reason": {fmt.Errorf("%w: %w", pipeline.ErrOrigin, passing), exitOperator},
		"an event that cannot be stored": {&pipeline.StopError{Err: passing}, exitOperator},
		"an event of a replay":           {&republish.StopError{Err: passing}, exitOperator},
		"a bus that was set up wrongly":  {&sink.PublishError{Err: &sink.FatalError{Err: passing}}, exitOperator},
		"cursor lost":                    {source.ErrCursorLost, exitOperator},
		"cursor lost, where":             {&source.CursorLostError{Err: passing}, exitOperator},
		"newest first":                   {source.ErrDescending, exitOperator},
		"newest first, where":            {&source.DescendingError{}, exitOperator},
		"too large":                      {source.ErrTooLarge, exitOperator},
		"too large, an answer":           {&source.ResponseError{Err: source.ErrTooLarge}, exitOperator},
		"all types refused":              {source.ErrAllRefused, exitOperator},
		"a client misconfigured":         {source.ErrMisconfigured, exitOperator},
		"an answer that is final":        {&source.APIError{Status: 400}, exitOperator},
		"a key that is refused":          {&source.APIError{Status: 401}, exitOperator},
		"a redirect":                     {&source.APIError{Status: 302}, exitOperator},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, exitCode(c.err))
			lane := &pipeline.LaneError{Lane: "nats", Err: fmt.Errorf("carrying: %w", c.err)}
			require.Equal(t, c.want, exitCode(errors.Join(errors.New("another lane, which may go on"), lane)), "wrapped and joined")
			if c.want == exitOperator {
				require.NotEmpty(t, operator.Action(c.err))
			}
		})
	}
}

// The unit, the help and the documentation agree with the codes above.
func TestTheUnitAndTheManualKnowTheExitCodes(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../../deploy/systemd/relay.service")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("RestartPreventExitStatus=%d %d", exitUsage, exitOperator), regexp.MustCompile(`(?m)^RestartPreventExitStatus=.*$`).FindString(string(unit)))
	list := fmt.Sprintf("%d failed, %d usage or configuration, %d operator action required", exitFailed, exitUsage, exitOperator)
	require.Contains(t, description, list)
	for _, page := range []string{"../../README.md", "../../docs/troubleshoot.md"} {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		require.Contains(t, string(text), list, page)
	}
}
