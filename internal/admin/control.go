package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// Control steers the running relay. Its methods are called from several goroutines at once. They
// return a *Refusal where the request is at fault; any other error is relay's own.
type Control interface {
	// Pause, Resume and Poll act on the lane of that name, and do not wait.
	Pause(lane string) error
	Resume(lane string) error
	Poll(lane string) error
	// Snapshot makes a lane read a snapshot of these entities before its next event, of all that it
	// keeps if there are none. It does not wait.
	Snapshot(lane string, entities []string) error
	// Reload reads the configuration again and applies it, as far as that is possible without a
	// stop; else it changes nothing.
	Reload(ctx context.Context) (Reloaded, error)
	// SetCheckpoint makes a lane go on from elsewhere. It bounds its time itself, by MoveTime and
	// by what it takes to see whether another relay is active.
	SetCheckpoint(ctx context.Context, lane string, to Destination) (Moved, error)
}

// Reloaded is the answer of POST /api/v1/reload.
type Reloaded struct {
	Changes []string `json:"changes"` // key by key, secrets only as changed; never null
	Lanes   []string `json:"lanes"`   // what became of each lane that did not stay as it was; never null
	// Settings are those of the destinations of these lanes that differ from the new configuration:
	// what relay changes now, and what it does not and why. Never null.
	Settings []sink.Setting `json:"settings"`
}

// Destination is where a lane is to go on, the body of PUT /api/v1/lanes/{sink}/checkpoint. One of
// To, From and Reset is set.
type Destination struct {
	// To is an event id (go on after it), earliest, latest, or a time as config.Start takes it.
	To string `json:"to,omitempty"`
	// From takes the position from elsewhere: another lane, by the name of its sink; file or bus,
	// for this lane's own position in the other mode of delivery.
	From string `json:"from,omitempty"`
	// Reset begins at source.start, like a lane without a checkpoint.
	Reset bool `json:"reset,omitempty"`
	// Skip permits a move that skips events which are not published. Without it such a move is
	// refused.
	Skip bool `json:"skip,omitempty"`
	// Unchecked does without asking the Events API whether the event exists.
	Unchecked bool `json:"unchecked,omitempty"`
	// DryRun moves nothing: the answer says what would be.
	DryRun bool `json:"dry_run,omitempty"`
}

// Moved is the answer of PUT /api/v1/lanes/{sink}/checkpoint.
type Moved struct {
	Lane       string          `json:"lane"`
	Place      string          `json:"place"`  // where the position is kept: file or bus
	Mode       checkpoint.Mode `json:"mode"`   // exactly_once or at_least_once
	Before     *Position       `json:"before"` // null if there was none, or, with Unreadable, none that could be read
	After      Position        `json:"after"`
	Unreadable bool            `json:"unreadable"`
	// Skipped is how many events that are not published the move has skipped; null if that is not
	// known. SkippedFirst and SkippedLast are the first and the last of them. SkippedUnknown is why
	// they could not be counted.
	Skipped        *int   `json:"skipped"`
	SkippedFirst   string `json:"skipped_first,omitempty"`
	SkippedLast    string `json:"skipped_last,omitempty"`
	SkippedUnknown string `json:"skipped_unknown,omitempty"`
	// Repeated is how many events that are published already come again; null if that is not known,
	// and RepeatedUnknown says why.
	Repeated        *int   `json:"repeated"`
	RepeatedUnknown string `json:"repeated_unknown,omitempty"`
	DryRun          bool   `json:"dry_run"` // nothing was moved
	Kept            string `json:"kept"`    // file beside the checkpoints in which the one from before is kept; empty if there was none, or none that could be read
}

// LaneState is what of a lane POST /api/v1/{pause,resume,poll} tells.
type LaneState struct {
	Name   string         `json:"name"`
	State  pipeline.State `json:"state"`
	Reason string         `json:"reason"`
}

const (
	// stateTimeout is how long an answer waits for lanes to come to rest. It stays below
	// listener.Admin.WriteTime.
	stateTimeout  = 15 * time.Second
	stateInterval = 10 * time.Millisecond
	// MoveTime is how long a move of a position may take, beside the time that it takes to see
	// whether another relay is active.
	MoveTime = 40 * time.Second
	// maxMoveTime bounds a move even if the Control allows more. No takeover_after is longer than
	// an
	// hour.
	maxMoveTime = time.Hour + time.Minute
	reloadTime  = 10 * time.Minute
)

func (s *Server) controls() []*path {
	return []*path{
		{method: http.MethodPost, name: "/api/v1/pause", help: "stop reading, keep everything; ?lane=NAME, else all lanes", handler: s.steering("paused by hand", s.cfg.Control.Pause, isAtRest)},
		{method: http.MethodPost, name: "/api/v1/resume", help: "end a pause", handler: s.steering("resumed by hand", s.cfg.Control.Resume, isNotPaused)},
		{method: http.MethodPost, name: "/api/v1/poll", help: "ask WorkOS now", handler: s.steering("polling by hand", s.cfg.Control.Poll, nil)},
		{method: http.MethodPost, name: "/api/v1/reload", help: "read the configuration again", handler: s.reload},
		{method: http.MethodPost, name: "/api/v1/lanes/{sink}/snapshot", help: `read what WorkOS has and publish it to the state topics: {"entities": [...]}, else all`, handler: s.snapshot},
		{method: http.MethodPut, name: "/api/v1/lanes/{sink}/checkpoint", help: `go on from elsewhere: {"to": an event id, a time, earliest or latest}`, handler: s.setCheckpoint},
	}
}

func isAtRest(s pipeline.State) bool    { return s == pipeline.Paused || s == pipeline.Stopped }
func isNotPaused(s pipeline.State) bool { return s != pipeline.Paused }

// steering does something with the lanes that the query names, or all, and waits a while for them
// to come to that. It logs what was done, and who asked for it.
func (s *Server) steering(done string, do func(lane string) error, settled func(pipeline.State) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		names, err := s.choose(r)
		if err != nil {
			fail(w, err)
			return
		}
		s.asked(r, names...)
		for _, name := range names {
			if err := do(name); err != nil {
				fail(w, err)
				return
			}
			s.cfg.Logger.Info(done, zap.String("lane", name), zap.String("by", callerOf(r)))
		}
		states, ok := s.waitForStates(r.Context(), names, settled)
		code := http.StatusOK
		if !ok {
			code = http.StatusAccepted
		}
		reply(w, code, states)
	}
}

// choose returns the lanes that a request is about: those it names, else all that have not stopped.
// It accepts nothing that it does not understand, since a misspelled name would otherwise mean
// every lane.
func (s *Server) choose(r *http.Request) ([]string, error) {
	query, err := readQuery(r, "lane")
	if err != nil {
		return nil, err
	}
	if err := readNothing(r); err != nil {
		return nil, err
	}
	all, alive := []string{}, []string{}
	for _, l := range s.lanes() {
		all = append(all, l.Lane)
		if l.State != pipeline.Stopped {
			alive = append(alive, l.Lane)
		}
	}
	asked := query["lane"]
	for _, name := range asked {
		if !slices.Contains(all, name) {
			return nil, refuse(http.StatusNotFound, "", "there is no lane \"%s\"; the lanes are %s", repeated(name), strings.Join(all, ", "))
		}
	}
	if len(asked) == 0 {
		return alive, nil
	}
	return asked, nil
}

// waitForStates waits until each lane is as it should be.
func (s *Server) waitForStates(ctx context.Context, names []string, settled func(pipeline.State) bool) (states []LaneState, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	look := time.NewTicker(stateInterval)
	defer look.Stop()
	for {
		states, ok = []LaneState{}, true
		for _, l := range s.lanes() {
			if slices.Contains(names, l.Lane) {
				states = append(states, LaneState{l.Lane, l.State, l.Reason})
				ok = ok && (settled == nil || settled(l.State))
			}
		}
		if ok {
			return states, true
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return states, false
		}
	}
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if _, err := readQuery(r); err != nil {
		fail(w, err)
		return
	}
	if err := readNothing(r); err != nil {
		fail(w, err)
		return
	}
	s.asked(r)
	// It may take longer than an answer may, and must not stop halfway because the client has
	// gone.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reloadTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(WithCaller(context.WithoutCancel(r.Context()), callerOf(r)), reloadTime)
	defer cancel()
	done, err := s.cfg.Control.Reload(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, done)
}

func (s *Server) setCheckpoint(w http.ResponseWriter, r *http.Request) {
	lane := r.PathValue("sink")
	to, err := readDestination(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	s.asked(r, lane)
	// It may take longer than an answer may.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxMoveTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(WithCaller(r.Context(), callerOf(r)), maxMoveTime)
	defer cancel()
	done, err := s.cfg.Control.SetCheckpoint(ctx, lane, to)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, done)
}

// Wanted is what a snapshot is to read, the body of POST /api/v1/lanes/{sink}/snapshot.
type Wanted struct {
	Entities []string `json:"entities"` // all that the lane keeps if there are none
}

// snapshot makes a lane read a snapshot, and answers with the state of the lane.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) {
	lane := r.PathValue("sink")
	var wanted Wanted
	_, err := readQuery(r)
	if err == nil {
		err = readBody(w, r, &wanted)
	}
	if err == nil {
		s.asked(r, lane)
		err = s.cfg.Control.Snapshot(lane, wanted.Entities)
	}
	if err != nil {
		fail(w, err)
		return
	}
	s.cfg.Logger.Info("snapshot asked for by hand", zap.String("lane", lane), zap.Strings("entities", wanted.Entities), zap.String("by", callerOf(r)))
	states, _ := s.waitForStates(r.Context(), []string{lane}, nil)
	reply(w, http.StatusAccepted, states)
}

func readDestination(w http.ResponseWriter, r *http.Request) (Destination, error) {
	var to Destination
	if _, err := readQuery(r); err != nil {
		return to, err
	}
	if err := readBody(w, r, &to); err != nil {
		return to, err
	}
	given := 0
	for _, is := range []bool{to.To != "", to.From != "", to.Reset} {
		if is {
			given++
		}
	}
	if given != 1 {
		return to, badRequest("say where to with one of to, from and reset")
	}
	return to, nil
}

// asked tells of a request that may take long. Its outcome is told at info.
func (s *Server) asked(r *http.Request, lanes ...string) {
	s.cfg.Logger.Debug("asked by hand", zap.String("request", r.Method+" "+r.URL.Path), zap.Strings("lanes", lanes), zap.String("by", callerOf(r)))
}
