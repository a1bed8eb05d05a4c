package verify

import (
	"context"
	"slices"
	"time"
)

// StateReport is what a StateCheck found.
type StateReport struct {
	Entities []*StateCount `json:"entities"` // in the order in which they were compared

	Missing StateFinding `json:"missing"` // objects that WorkOS has and the bus has not
	Stale   StateFinding `json:"stale"`   // objects of which the bus has another version than WorkOS
	Ghosts  StateFinding `json:"ghosts"`  // objects that the bus has and WorkOS has not

	Total int `json:"faults"` // what is left of all findings

	examples int
}

// StateCount counts what was found of one entity.
type StateCount struct {
	Entity  string `json:"entity"`
	Listed  int    `json:"listed"` // objects that the lists have
	Stored  int    `json:"stored"` // objects that the bus has
	Missing int    `json:"missing"`
	Stale   int    `json:"stale"`
	Ghosts  int    `json:"ghosts"`
	// LeftOut are objects that were not compared since a route drops events about them, or may do
	// so, or since another organization has them.
	LeftOut int `json:"left_out"`
	// Undecided are objects on the bus that no list has, and of which WorkOS does not tell whether
	// they are gone.
	Undecided int `json:"undecided"`
	// Unsettled are differences that may be explained by events that are still on their way, or
	// that changed whenever they were looked at.
	Unsettled int `json:"unsettled"`
	// Unchecked are differences beyond the first 10,000, which were not looked at again.
	Unchecked int `json:"unchecked"`

	opened int
}

// StateFinding is how often something was found, and the first cases of each entity.
type StateFinding struct {
	Count    int            `json:"count"`
	Examples []StateExample `json:"examples"`
}

// StateExample is one object of a finding.
type StateExample struct {
	Entity string `json:"entity"`
	Key    string `json:"key"`
	// UpdatedAt is the object's updated_at in WorkOS, and StoredUpdatedAt on the bus. They are
	// absent if that side has none.
	UpdatedAt       *time.Time `json:"updated_at,omitempty"`
	StoredUpdatedAt *time.Time `json:"stored_updated_at,omitempty"`
	Differs         string     `json:"differs,omitempty"` // of a stale object: in what
}

func newStateReport(examples int) StateReport {
	return StateReport{
		Entities: []*StateCount{}, examples: examples,
		Missing: StateFinding{Examples: []StateExample{}}, Stale: StateFinding{Examples: []StateExample{}}, Ghosts: StateFinding{Examples: []StateExample{}},
	}
}

// of returns the count of an entity.
func (r *StateReport) of(entity string) *StateCount {
	if i := slices.IndexFunc(r.Entities, func(c *StateCount) bool { return c.Entity == entity }); i >= 0 {
		return r.Entities[i]
	}
	c := &StateCount{Entity: entity}
	r.Entities = append(r.Entities, c)
	return c
}

func (r *StateReport) add(f stateFault) {
	count := r.of(f.entity)
	finding, n := &r.Stale, &count.Stale
	switch f.kind {
	case isMissing:
		finding, n = &r.Missing, &count.Missing
	case isGhost:
		finding, n = &r.Ghosts, &count.Ghosts
	}
	r.Total++
	finding.Count++
	if *n++; *n > r.examples {
		return
	}
	finding.Examples = append(finding.Examples, StateExample{
		Entity: f.entity, Key: f.key, UpdatedAt: f.here.updatedAt(), StoredUpdatedAt: f.there.updatedAt(), Differs: f.differs,
	})
}

func (v *view) updatedAt() *time.Time {
	if !v.exists || v.print.updated == 0 {
		return nil
	}
	at := time.Unix(0, v.print.updated).UTC()
	return &at
}

// Sum returns the sum of a count over all entities.
func (r *StateReport) Sum(count func(*StateCount) int) (sum int) {
	for _, c := range r.Entities {
		sum += count(c)
	}
	return sum
}

// StateResult is a finished StateCheck.
type StateResult struct {
	Report StateReport
	run    *stateRun
	found  []stateFault
}

// Faulty returns the entities of which differences were found.
func (r *StateResult) Faulty() []string {
	var out []string
	for _, c := range r.Report.Entities {
		if c.Missing+c.Stale+c.Ghosts+c.Unchecked > 0 {
			out = append(out, c.Entity)
		}
	}
	return out
}

// Again looks at the faults again, after something has mended them, and returns the first that are
// left: those too of which it cannot be told. It changes Total of the report, and nothing else of
// it.
func (r *StateResult) Again(ctx context.Context) (left []StateExample, err error) {
	open := make([]*candidate, len(r.found))
	for i := range r.found {
		open[i] = r.found[i].candidate
	}
	was := r.run.report
	r.run.report = newStateReport(was.examples)
	faults, err := r.run.settle(ctx, open)
	lasting := map[*candidate]stateFault{}
	for _, f := range faults {
		lasting[f.candidate] = f
	}
	for _, f := range r.found {
		if now, lasts := lasting[f.candidate]; lasts {
			f = now
		}
		if !f.settled {
			r.run.report.add(f)
		}
	}
	now := r.run.report
	r.run.report = was
	if err != nil {
		return nil, err
	}
	r.Report.Total = now.Total
	left = append([]StateExample{}, now.Missing.Examples...) // not nil
	return append(append(left, now.Stale.Examples...), now.Ghosts.Examples...), nil
}
