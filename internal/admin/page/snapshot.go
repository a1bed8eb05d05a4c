package page

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/journal"
)

// snapshot is everything that the page shows at one moment. It is the same for every reader, and is
// not changed once it is made.
type snapshot struct {
	at        time.Time
	Shape     string // changes where updates are not enough and the page must be loaded again
	Title     string
	Icon      string // path
	Status    *admin.Status
	States    []string // of the lanes, in their order
	Lanes     []card   // in the same order
	Fragments map[string]template.HTML
}

// document is what the template of the whole page is given.
type document struct {
	*snapshot
	Style, Script, LostIcon string
	Paths                   []link
	Ranges                  []rangeLink
}

// Several reports whether there is more than one lane.
func (s *snapshot) Several() bool { return len(s.Lanes) > 1 }

// Fragment is the content of the element whose id this is.
func (s *snapshot) Fragment(id string) (template.HTML, error) {
	html, ok := s.Fragments[id]
	if !ok {
		return "", fmt.Errorf("there is no fragment %q", id)
	}
	return html, nil
}

// rangeLink leads to the page with plots of a range.
type rangeLink struct {
	Name, Text string
	Current    bool
}

// ranges are the values of the parameter range, and what they stand for. The first is the default.
var ranges = []struct {
	name string
	journal.Range
}{{"1h", journal.Hour}, {"5m", journal.FiveMinutes}, {"6h", journal.SixHours}}

// rangeOf returns the range that a request asks for.
func rangeOf(r *http.Request) (journal.Range, error) {
	asked := r.URL.Query().Get("range")
	for _, known := range ranges {
		if asked == known.name || asked == "" {
			return known.Range, nil
		}
	}
	return journal.Range{}, errors.New("range is one of 5m, 1h, 6h")
}

// links returns the choice of ranges, the shortest first.
func links(current journal.Range) []rangeLink {
	var out []rangeLink
	for _, r := range journal.Ranges() {
		for _, known := range ranges {
			if known.Range == r {
				out = append(out, rangeLink{Name: known.name, Text: span(r.Span), Current: r == current})
			}
		}
	}
	return out
}

// snapshot is the present one with plots of this range: however many readers there are, one is made
// for each interval.
func (p *Page) snapshot(r journal.Range) (*snapshot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Now()
	if s := p.last[r]; s != nil && now.Sub(s.at) < p.cfg.Every*3/4 && !now.Before(s.at) {
		return s, nil
	}
	s, err := p.render(now, r)
	if err == nil {
		p.last[r] = s
	}
	return s, err
}

// render renders each part that an update may bring; the whole page is put together of the same.
func (p *Page) render(now time.Time, r journal.Range) (*snapshot, error) {
	status := p.cfg.Status(false)
	s := &snapshot{at: now, Status: &status, Fragments: map[string]template.HTML{}, Title: title(&status), Icon: iconOf(status.Health).path}
	shape := []string{release, status.ID, status.Version}
	parts := map[string]any{"verdict": verdictOf(&status), "clock": clockOf(&status), "requests": requestsOf(&status)}
	w := windowOf(r, status.Now.Sub(status.Started))
	for i := range status.Lanes {
		l := &status.Lanes[i]
		shape = append(shape, l.Name)
		s.States = append(s.States, string(l.State))
		s.Lanes = append(s.Lanes, cardOf(l, len(status.Lanes) > 1))
		for part, data := range laneParts(l, status.Now, p.cfg.Journal.Lane(l.Name).History(r), w) {
			parts[fmt.Sprintf("lane-%d-%s", i, part)] = data
		}
	}
	if len(status.Lanes) > 1 {
		parts["overview"] = overviewOf(&status)
	}
	parts["unasked"] = status.Unasked
	parts["types"] = typesOf(p.cfg.Journal.Types())
	parts["errors"] = errorsOf(p.cfg.Journal.Errors(shownErrors))
	parts["events"] = eventsOf(p.cfg.Journal.Events(shownEvents))
	s.Shape = digest([]byte(strings.Join(shape, "\n")))
	for id, data := range parts {
		var b strings.Builder
		if err := templates.ExecuteTemplate(&b, id[strings.LastIndexByte(id, '-')+1:], data); err != nil {
			return nil, err
		}
		s.Fragments[id] = template.HTML(strings.TrimSpace(b.String())) //nolint:gosec // the template has escaped it
	}
	return s, nil
}
