package sink

import (
	"context"

	"workos-relay/checkpoint"
)

// Ledger is a bus that stores messages and a checkpoint in one atomic act: there is no moment at
// which only one of them is stored. It refuses a writer that was overtaken.
type Ledger interface {
	// Prepare also creates the place of the position.
	Destination
	// Fence shuts out every earlier writer, if the bus can do that in an operation other than
	// Commit. When it returns nil, nothing that they left open will be stored.
	Fence(ctx context.Context) error
	// Load reads the current checkpoint, with the errors of checkpoint.Store.Load. It fences
	// nobody.
	Load(ctx context.Context) (checkpoint.Checkpoint, error)
	// Commit stores the batch and replaces prev by next, both or neither, with the results of
	// checkpoint.Store.Commit. If a message can never be stored, Commit stores nothing and returns
	// an error like that of Sink.Publish.
	Commit(ctx context.Context, batch []Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error)
	// LoadForReplace is like Load for an operator who has decided to replace the position, after
	// Fence. A corrupt, foreign, lost or missing position is not an error. Commit accepts the
	// result as prev, which it would refuse otherwise. If the position is corrupt, only its
	// Revision is returned.
	LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error)
	// Forget makes the ledger forget that it has seen a position, so that Prepare may create what
	// is missing: an operator has decided to continue without it.
	Forget()
}

// Positions returns a ledger as a store of its position, to move that without messages.
func Positions(l Ledger) checkpoint.Store { return positions{l} }

type positions struct{ Ledger }

// Commit implements checkpoint.Store.
func (p positions) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return p.Ledger.Commit(ctx, nil, prev, next)
}
