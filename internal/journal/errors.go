package journal

import (
	"errors"
	"strings"
	"time"

	"workos-relay/internal/manual"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// What a lane was doing when an error came, beside pipeline.Activities.
const (
	Reading  = "reading the Events API"
	Listing  = "reading a list of WorkOS" // for a snapshot
	Parking  = "parking an event"
	Stopping = "stopped"
)

// Error is a failure, or several in a row that differ in nothing but time and request.
type Error struct {
	Lane      string
	Doing     string // Reading, Listing, Parking, Stopping, or one of pipeline.Activities
	Text      string // on one line, without secrets
	Code      string // of Text in docs/troubleshoot.md; empty if it has none
	RequestID string // of the last one, where the Events API named it
	At        time.Time
	Last      time.Time
	Count     int
}

// failed records that doing has failed with err.
func (l *Lane) failed(doing string, err error) {
	if err == nil {
		return
	}
	e := Error{Doing: doing, Text: err.Error(), RequestID: requestID(err), At: l.cfg.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record(e)
}

// Code returns the code in docs/troubleshoot.md of an error, with its action if it has one, that
// came when a lane was doing something. If the page does not know the error, it is the code of what
// was being done.
func Code(doing string, texts ...string) string {
	around := doing + " failed, will try again"
	switch doing {
	case Reading, pipeline.Reading:
		around = "a request to the Events API failed; trying again"
	case Listing:
		around = "a request for a list of WorkOS failed; trying again"
	case Parking:
		around = "an event cannot be published to its topic"
	case Stopping:
		around = "a lane has stopped; the others go on"
	}
	return manual.Code(append([]string{around}, texts...)...)
}

// record is called with l.mu held.
func (l *Lane) record(e Error) {
	e.Lane, e.Last, e.Count = l.name, e.At, 1
	e.Text, e.RequestID = l.clean(withoutRequest(e.Text, e.RequestID), maxText), l.clean(e.RequestID, maxName)
	if last := l.errors.last(); last != nil && last.Doing == e.Doing && last.Text == e.Text {
		last.Last, last.RequestID = e.At, e.RequestID
		last.Count++
		return
	}
	e.Code = Code(e.Doing, e.Text)
	l.errors.add(e)
}

// clean makes a text one printable line of at most n bytes. It hides secrets before it cuts, so
// that none is left in part.
func (l *Lane) clean(s string, n int) string {
	const most, longestSecret = 64 << 10, 4 << 10
	hidden := l.cfg.Hide(s[:min(len(s), most)])
	if len(s) > most {
		hidden = hidden[:max(0, len(hidden)-longestSecret)]
	}
	return strings.Clone(printable.Clip(hidden, n))
}

// requestID is the X-Request-Id that the Events API gave with the answer err is about; empty where
// there was none.
func requestID(err error) string {
	if e, ok := errors.AsType[*source.APIError](err); ok {
		return e.RequestID
	}
	if e, ok := errors.AsType[*source.ResponseError](err); ok {
		return e.RequestID
	}
	if e, ok := errors.AsType[*source.CursorLostError](err); ok {
		return e.RequestID
	}
	if e, ok := errors.AsType[*source.DescendingError](err); ok {
		return e.RequestID
	}
	return ""
}

// withoutRequest takes the request id out of the text of an error of source, so that a failure that
// repeats has one text.
func withoutRequest(text, id string) string {
	if id == "" {
		return text
	}
	text = strings.ReplaceAll(text, " (request id "+id+")", "")
	return strings.ReplaceAll(text, ", request id "+id, "")
}

// stopped records why a lane has stopped: that is told by its status alone.
func (l *Lane) stopped(now time.Time, s *pipeline.Status) {
	if s.Reason != "" {
		l.record(Error{Doing: Stopping, Text: s.Reason, At: now})
	}
}

// Hooks returns hooks that record failed requests, and do all that next does, which may be nil.
// They may be given to several
// streams.
func (l *Lane) Hooks(next *source.Hooks) *source.Hooks {
	var out source.Hooks
	if next != nil {
		out = *next
	}
	onRetry, onRefused := out.OnRetry, out.OnTypeRefused
	out.OnRetry = func(i source.RetryInfo) {
		doing := Reading
		if source.AboutList(i.Err) {
			doing = Listing
		}
		l.failed(doing, i.Err)
		if onRetry != nil {
			onRetry(i)
		}
	}
	out.OnTypeRefused = func(i source.TypeRefusedInfo) {
		l.failed(Reading, errors.New("the Events API refuses the event type "+i.Type+", which is left out until "+
			i.Until.UTC().Format("2006-01-02 15:04 MST")))
		if onRefused != nil {
			onRefused(i)
		}
	}
	return &out
}
