package pipeline_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/hint"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

var (
	errOldServer = errors.New("server is too old")
	errPassing   = errors.New("no leader at the moment")
)

// fussyLedger fails to get ready.
type fussyLedger struct {
	memoryLedger
	prepare, load error
}

func (l *fussyLedger) Prepare(context.Context, []string) error { return l.prepare }

func (l *fussyLedger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	if l.load != nil {
		return checkpoint.Checkpoint{}, l.load
	}
	return l.memoryLedger.Load(ctx)
}

// P8: every combination of records.
func TestTheModeIsWhatIsRecorded(t *testing.T) {
	const none, file, bus, both = "nowhere", "file", "bus", "both"
	const fileLeft, busLeft, fileToBus = "file, taken to a bus that has none", "bus, taken to a file that is gone", "taken from file to bus"
	alo, eo, auto := checkpoint.AtLeastOnce, checkpoint.ExactlyOnce, pipeline.Auto
	for name, c := range map[string]struct {
		want          checkpoint.Mode
		where         string
		prepare, load error
		noLedger      bool
		mode          checkpoint.Mode // found; Auto for none
		err           error
		says          string
	}{
		"first start":                              {want: auto, where: none, mode: eo},
		"first start, bus cannot":                  {want: auto, where: none, prepare: errOldServer, mode: alo},
		"first start, sink never can":              {want: auto, where: none, noLedger: true, mode: alo},
		"first start, bus is down":                 {want: auto, where: none, prepare: errPassing, mode: auto, err: errPassing},
		"first start, at_least_once asked for":     {want: alo, where: none, mode: alo},
		"first start, exactly_once asked for":      {want: eo, where: none, mode: eo},
		"exactly_once on a bus that cannot":        {want: eo, where: none, prepare: errOldServer, mode: auto, err: errOldServer},
		"exactly_once on a sink that never can":    {want: eo, where: none, noLedger: true, mode: auto, says: "cannot do exactly_once"},
		"auto keeps at_least_once":                 {want: auto, where: file, mode: alo},
		"auto keeps exactly_once":                  {want: auto, where: bus, mode: eo},
		"auto keeps exactly_once with a worse bus": {want: auto, where: bus, prepare: errOldServer, mode: eo},
		"two positions":                            {want: auto, where: both, mode: auto, err: checkpoint.ErrForeign, says: "--from file` or `--from bus"},
		"to exactly_once":                          {want: eo, where: file, mode: auto, err: checkpoint.ErrForeign, says: "checkpoint set --lane lane --from file"},
		"to at_least_once":                         {want: alo, where: bus, mode: auto, err: checkpoint.ErrForeign, says: "checkpoint set --lane lane --from bus"},
		"taken to the bus":                         {want: auto, where: fileToBus, mode: eo},
		"taken to the bus, and lost there":         {want: auto, where: fileLeft, mode: auto, err: checkpoint.ErrLost, says: "checkpoint set"},
		"taken to the file, and lost there":        {want: alo, where: busLeft, mode: auto, err: checkpoint.ErrLost, says: "checkpoint set"},
		"bus cannot be asked, position in file":    {want: auto, where: file, load: errPassing, mode: auto, err: errPassing},
	} {
		t.Run(name, func(t *testing.T) {
			position := checkpoint.Checkpoint{Source: testIdentity}
			store := checkpoint.NewMemory(testIdentity)
			ledger := &fussyLedger{memoryLedger: memoryLedger{store: checkpoint.NewMemory(testIdentity)}, prepare: c.prepare, load: c.load}
			commit := func(store checkpoint.Store, mode checkpoint.Mode) {
				position.Mode = mode
				_, err := store.Commit(t.Context(), checkpoint.Checkpoint{}, position)
				require.NoError(t, err)
			}
			switch c.where {
			case file:
				commit(store, alo)
			case bus:
				commit(ledger.store, eo)
			case both:
				commit(store, alo)
				commit(ledger.store, eo)
			case fileToBus:
				commit(store, eo)
				commit(ledger.store, eo)
			case fileLeft:
				commit(store, eo)
			case busLeft:
				commit(ledger.store, alo)
			}
			owner := pipeline.Ownership{
				Identity: testIdentity, Holder: "holder", Logger: nopLogger,
				Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
			}
			d := &pipeline.Delivery{
				Want:        c.want,
				AtLeastOnce: &pipeline.AtLeastOnce{Ownership: owner, Sink: &scriptedBus{}, Store: store},
				ExactlyOnce: &pipeline.ExactlyOnce{Ownership: owner, Ledger: ledger},
				Incapable:   func(err error) bool { return errors.Is(err, errOldServer) },
			}
			if c.noLedger {
				d.ExactlyOnce = nil
			}
			_, err := d.Load(t.Context())
			require.Equal(t, c.mode, d.Mode())
			require.Equal(t, c.mode == eo, d.Shared())
			if c.mode == auto {
				require.Error(t, err)
				require.Contains(t, hint.Text("lane", err), c.says)
				if c.err != nil {
					require.ErrorIs(t, err, c.err)
				}
				var fatal *sink.FatalError
				require.Equal(t, errors.Is(err, errOldServer) || c.noLedger, errors.As(err, &fatal))
				return
			}
			if err != nil {
				require.ErrorIs(t, err, checkpoint.ErrNotFound)
			}
		})
	}
}
