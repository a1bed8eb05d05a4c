package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// errPoison is in the error of an event that can never be handled, however often it is tried. After
// any other error it is tried again.
var errPoison = errors.New("poison")

// apply is your work. What it returns is stored together with the id of the event. event.go has the
// type of the event, generated from the JSON Schema that `relay types --schema dsync.user.created`
// prints.
func apply(body []byte) (map[string]any, error) {
	var event struct { // Data is nil if the body has none
		Event string
		Data  *DsyncUserCreatedData
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return nil, fmt.Errorf("the body is not an event: %w: %w", err, errPoison)
	}
	if event.Data == nil {
		return nil, fmt.Errorf("the body is not an event: it has no data: %w", errPoison)
	}
	return map[string]any{"event": event.Event, "about": event.Data.ID}, nil
}

// resultLog holds the results, and the ids of the events that they came from: one line each,
// written to the disk before the message is acknowledged. In a service this is a table whose
// primary key is the event id, and id and result are written in one transaction. One process has
// the files at a time, and one goroutine the ledger.
type resultLog struct {
	seen            map[string]bool
	handled, parked *os.File
}

func openResultLog(folder string) (*resultLog, error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, err
	}
	l := &resultLog{seen: map[string]bool{}}
	const flags = os.O_CREATE | os.O_APPEND | os.O_RDWR
	var err error
	if l.handled, err = os.OpenFile(filepath.Join(folder, "handled.jsonl"), flags, 0o600); err != nil { //nolint:gosec // the user names the folder
		return nil, err
	}
	if l.parked, err = os.OpenFile(filepath.Join(folder, "parked.jsonl"), flags, 0o600); err != nil { //nolint:gosec // the same
		return nil, err
	}
	text, err := os.ReadFile(l.handled.Name())
	if err != nil {
		return nil, err
	}
	whole := bytes.LastIndexByte(text, '\n') + 1 // what follows was torn off by a crash, before it was acknowledged
	for line := range bytes.Lines(text[:whole]) {
		var record struct {
			ID string `json:"event_id"`
		}
		if err := json.Unmarshal(line, &record); err != nil {
			return nil, fmt.Errorf("%s: %w", l.handled.Name(), err)
		}
		l.seen[record.ID] = true
	}
	return l, l.handled.Truncate(int64(whole))
}

// handle returns nil when the message may be acknowledged: the event has been handled, was before,
// or is parked.
func (l *resultLog) handle(id string, body []byte) error {
	if l.seen[id] {
		return nil
	}
	var result map[string]any
	err := fmt.Errorf("the header event-id is missing: %w", errPoison)
	if id != "" {
		result, err = apply(body)
	}
	switch {
	case errors.Is(err, errPoison): // put aside for an operator, so that it does not hold up what comes after it
		reason := err.Error()
		if err := record(l.parked, map[string]any{"event_id": id, "reason": reason, "at": time.Now(), "body": string(body)}); err != nil {
			return err
		}
		fmt.Printf("parked event %s: %s\n", id, reason)
		return nil
	case err != nil:
		return err
	}
	result["event_id"] = id
	if err := record(l.handled, result); err != nil {
		return err
	}
	l.seen[id] = true
	fmt.Printf("handled event %s: %v %v\n", id, result["event"], result["about"])
	return nil
}

func record(file *os.File, line map[string]any) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	if _, err := file.Write(append(text, '\n')); err != nil {
		return err
	}
	return file.Sync()
}
