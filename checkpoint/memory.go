package checkpoint

import (
	"context"
	"sync"
)

// Memory is a Store for tests. It keeps the checkpoint in memory.
type Memory struct {
	id Identity

	mu       sync.Mutex
	document []byte
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store for the checkpoint of id.
func NewMemory(id Identity) *Memory { return &Memory{id: id} }

// Load implements Store.
func (m *Memory) Load(ctx context.Context) (Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return Checkpoint{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.document == nil {
		return Checkpoint{}, ErrNotFound
	}
	return decodeOwn(m.id, m.document)
}

// Commit implements Store. Nothing is durable.
func (m *Memory) Commit(ctx context.Context, prev, next Checkpoint) (Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return Checkpoint{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	committed, document, err := swap(m.id, m.document, prev, next)
	if err != nil {
		return Checkpoint{}, err
	}
	m.document = document
	return committed, nil
}
