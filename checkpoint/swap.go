package checkpoint

import (
	"fmt"

	"workos-relay/internal/operator"
)

// swap implements compare and swap for stores that count revisions themselves. have is the current
// document, nil if there is none. It returns next with its revision, and the document that replaces
// have.
func swap(id Identity, have []byte, prev, next Checkpoint) (Checkpoint, []byte, error) {
	var revision uint64
	if have != nil {
		current, err := decodeOwn(id, have)
		if err != nil {
			return Checkpoint{}, nil, err
		}
		revision = current.Revision
	}
	if prev.Revision != revision {
		return Checkpoint{}, nil, fmt.Errorf("%w: %s is current, not %s as expected; load it again and continue from there",
			ErrConflict, revisionName(revision), revisionName(prev.Revision))
	}
	if err := id.Check(next.Source); err != nil {
		return Checkpoint{}, nil, fmt.Errorf("refused to commit for another: %w", err)
	}
	next.Revision = revision + 1
	document := Encode(next)
	kept, err := Decode(document)
	if err != nil { // a document that cannot be read again must never take the place of one that can
		// The cause is in the text and not wrapped: the current checkpoint is not corrupt.
		return Checkpoint{}, nil, operator.New("refused to commit what could not be read again: "+err.Error(), "report it: relay cannot record this position")
	}
	return kept, document, nil
}

// decodeOwn decodes a document and checks whose it is.
func decodeOwn(id Identity, document []byte) (Checkpoint, error) {
	c, err := Decode(document)
	if err != nil {
		return Checkpoint{}, err
	}
	if err := id.Check(c.Source); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

func revisionName(revision uint64) string {
	if revision == 0 {
		return "no checkpoint"
	}
	return fmt.Sprintf("revision %d", revision)
}
