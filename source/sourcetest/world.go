package sourcetest

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// WorldConfig says what objects a World has before anything happens in it. No event tells of them,
// as in an environment that is older than the API's events.
type WorldConfig struct {
	Seed           uint64 // chooses the content, and what World.Change does
	Organizations  int
	Users          int // each has a membership of an organization, if there is one
	Connections    int // of the organizations in turn
	Roles          int // of the environment
	Directories    int // of the organizations in turn; there must be an organization
	DirectoryUsers int // spread evenly over the directories; rendered on demand, they take no memory
	Groups         int // of each directory
	GroupMembers   int // of each group, at most as many as the directory has users
	// Start is when the first object was created; zero for 30 days before the server's clock. The
	// last one was created 10 days later.
	Start time.Time
}

// World is the objects behind a Server: organizations, users, organization memberships,
// connections, roles of the environment and of organizations, directories with their users, groups
// and members of groups. The Server's list endpoints show them. Each operation changes the lists
// and appends the events that tell of it, both at once.
//
// What goes with an object is deleted with it. The members of a directory group, the memberships of
// a user, and the memberships, connections, roles and directories of an organization have events
// then. The users, groups and members of a deleted directory have none, as WorkOS documents.
//
// A World is safe for concurrent use. The same seed and the same operations give the same objects,
// except for times.
type World struct {
	s   *Server
	cfg WorldConfig
	mu  sync.RWMutex // taken before store.mu
	rng rng
	n   uint64 // objects made by operations, which numbers them
	at  int64  // of the last event, Unix milliseconds

	tables map[string]*table             // by entity
	lists  map[string]map[string]*table  // by entity and parent
	edited map[int]*object               // users of the base population that were changed or deleted
	groups map[string]map[string]bool    // members of groups by id, once they were looked at
	roles  map[string]map[string]*object // roles of an organization by slug
}

// The entities of a World.
const (
	organization           = "organization"
	user                   = "user"
	organizationMembership = "organization_membership"
	connection             = "connection"
	role                   = "role"
	organizationRole       = "organization_role"
	directory              = "directory"
	directoryUser          = "directory_user"
	directoryGroup         = "directory_group"
	groupMembership        = "directory_group_membership"
)

// object is one object. Its JSON is rendered from these fields.
type object struct {
	entity  string
	id      string
	slug    string // of a role
	n       uint64 // decides the content
	version int    // how often it was updated
	created int64  // Unix milliseconds
	updated int64
	org     string
	dir     string
	user    string
	deleted bool
}

// table is objects in the order of their creation. Deleted ones keep their place.
type table struct {
	objects []*object
	byID    map[string]int
}

func (t *table) add(o *object) {
	if t.byID == nil {
		t.byID = map[string]int{}
	}
	t.byID[o.id] = len(t.objects)
	t.objects = append(t.objects, o)
}

func newWorld(s *Server, c WorldConfig) *World {
	if c.Start.IsZero() {
		c.Start = s.cfg.now().Add(-30 * 24 * time.Hour)
	}
	w := &World{
		s: s, cfg: c, rng: rng(mix(c.Seed, 1, 91)),
		tables: map[string]*table{}, lists: map[string]map[string]*table{}, edited: map[int]*object{},
		groups: map[string]map[string]bool{}, roles: map[string]map[string]*object{},
	}
	of := func(entity string, k int) *object { // the parent of the k-th object, or nil
		t := w.tables[entity]
		if t == nil || len(t.objects) == 0 {
			return &object{}
		}
		return t.objects[k%len(t.objects)]
	}
	for k := range c.Organizations {
		w.addBase(&object{entity: organization}, k, c.Organizations)
		s.AddOrganizations(w.tables[organization].objects[k].id)
	}
	for k := range c.Users {
		w.addBase(&object{entity: user}, k, c.Users)
	}
	for k := range c.Users {
		if c.Organizations > 0 {
			w.addBase(&object{entity: organizationMembership, org: of(organization, k).id, user: of(user, k).id}, k, c.Users)
		}
	}
	for k := range c.Connections {
		w.addBase(&object{entity: connection, org: of(organization, k).id}, k, c.Connections)
	}
	for k := range c.Roles {
		w.addBase(&object{entity: role}, k, c.Roles)
	}
	for k := range c.Directories {
		w.addBase(&object{entity: directory, org: of(organization, k).id}, k, c.Directories)
	}
	for k := range c.Directories * c.Groups {
		d := of(directory, k)
		w.addBase(&object{entity: directoryGroup, org: d.org, dir: d.id}, k, c.Directories*c.Groups)
	}
	return w
}

// baseTime is when the k-th of n objects was created.
func (w *World) baseTime(k, n int) int64 {
	const span = 10 * dayMS
	return w.cfg.Start.UnixMilli() + int64(float64(span)*float64(k)/float64(n))
}

// addBase adds the k-th of n objects of an entity that exist from the start.
func (w *World) addBase(o *object, k, n int) {
	o.n = mix(w.cfg.Seed, uint64(k), 92)
	o.created = w.baseTime(k, n)
	o.updated = o.created
	o.id = w.newID(o.entity, uint64(k), o.created)
	w.add(o)
}

// add puts an object into the lists.
func (w *World) add(o *object) {
	if o.entity == role || o.entity == organizationRole {
		o.slug = fmt.Sprintf("%s-%d", pickBy(o.n, roles), o.n%1e9)
	}
	if w.tables[o.entity] == nil {
		w.tables[o.entity] = &table{}
	}
	w.tables[o.entity].add(o)
	for _, parent := range []string{o.org, o.dir, o.user} {
		if parent == "" {
			continue
		}
		if w.lists[o.entity] == nil {
			w.lists[o.entity] = map[string]*table{}
		}
		if w.lists[o.entity][parent] == nil {
			w.lists[o.entity][parent] = &table{}
		}
		w.lists[o.entity][parent].add(o)
	}
	if o.entity == organizationRole {
		if w.roles[o.org] == nil {
			w.roles[o.org] = map[string]*object{}
		}
		w.roles[o.org][o.slug] = o
	}
}

// newID returns the id of an object, which holds its number.
func (w *World) newID(entity string, number uint64, ms int64) string {
	prefix := idPrefix(entity)
	if entity == organization {
		prefix = "org_"
	}
	seed := mix(w.cfg.Seed, uint64(len(entity)), uint64(entity[0]))
	return string(appendULID([]byte(prefix), ms, uint16(number>>24), number<<40|mix(seed, number, 93)>>24))
}

// The users of the base population. They are numbered from 0, directory after directory.

// perDirectory is how many users a directory has at the start.
func (w *World) perDirectory() int {
	if w.cfg.Directories == 0 {
		return 0
	}
	return (w.cfg.DirectoryUsers + w.cfg.Directories - 1) / w.cfg.Directories
}

// baseUsers returns the numbers of the users that a directory has at the start.
func (w *World) baseUsers(dir string) (from, to int) {
	k, ok := w.tables[directory].index(dir)
	if !ok || k >= w.cfg.Directories {
		return 0, 0
	}
	per := w.perDirectory()
	return min(k*per, w.cfg.DirectoryUsers), min((k+1)*per, w.cfg.DirectoryUsers)
}

func (t *table) index(id string) (int, bool) {
	if t == nil {
		return 0, false
	}
	k, ok := t.byID[id]
	return k, ok
}

// baseUser returns a user of the base population as it is now.
func (w *World) baseUser(k int) *object {
	if o := w.edited[k]; o != nil {
		return o
	}
	dir := w.tables[directory].objects[k/w.perDirectory()]
	created := w.baseTime(k, w.cfg.DirectoryUsers)
	return &object{
		entity: directoryUser, id: w.newID(directoryUser, uint64(k), created), n: mix(w.cfg.Seed, uint64(k), 94),
		created: created, updated: created, org: dir.org, dir: dir.id, deleted: dir.deleted,
	}
}

// baseNumber returns the number of a user of the base population.
func (w *World) baseNumber(id string) (int, bool) {
	rest, ok := strings.CutPrefix(id, idPrefix(directoryUser))
	if !ok {
		return 0, false
	}
	_, hi, lo, ok := parseULID(rest)
	k := int(uint64(hi)<<24 | lo>>40)
	if !ok || k >= w.cfg.DirectoryUsers || w.newID(directoryUser, uint64(k), w.baseTime(k, w.cfg.DirectoryUsers)) != id {
		return 0, false
	}
	return k, true
}

// find returns an object that exists.
func (w *World) find(entity, id string) (*object, bool) {
	if entity == directoryUser {
		if k, ok := w.baseNumber(id); ok {
			o := w.baseUser(k)
			return o, !o.deleted
		}
	}
	t := w.tables[entity]
	k, ok := t.index(id)
	if !ok || t.objects[k].deleted {
		return nil, false
	}
	return t.objects[k], true
}

// members returns the members of a group, by id of the user.
func (w *World) members(group *object) map[string]bool {
	if m := w.groups[group.id]; m != nil {
		return m
	}
	m := map[string]bool{}
	if k, ok := w.tables[directoryGroup].index(group.id); ok && k < w.cfg.Directories*w.cfg.Groups {
		from, to := w.baseUsers(group.dir)
		for j := range min(w.cfg.GroupMembers, to-from) {
			m[w.newID(directoryUser, uint64(from+(k*7+j)%(to-from)), w.baseTime(from+(k*7+j)%(to-from), w.cfg.DirectoryUsers))] = true
		}
	}
	w.groups[group.id] = m
	return m
}

// sortedMembers returns the members of a group in the order of their creation.
func (w *World) sortedMembers(group *object) []*object {
	var out []*object
	for id := range w.members(group) {
		if o, ok := w.find(directoryUser, id); ok {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *object) int {
		if a.created != b.created {
			return int(a.created - b.created)
		}
		return strings.Compare(a.id, b.id)
	})
	return out
}

// WorldObject is an object as an event and as a list shows it.
type WorldObject struct {
	// Data is the object in the shape that the data of its events have. A membership of a group has
	// its user and its group as they are now, which no event has told of if they were updated
	// since.
	Data []byte
	// Listed is the object as a list has it. It is Data, except for an organization_role, which has
	// no organization_id there, and for a membership of a group, which is its user there.
	Listed    []byte
	UpdatedAt time.Time // zero for a membership of a group, which has none
}

// State returns every object there is, by entity and key. The key of a membership of a group is
// group/user, that of a role its slug, and that of a role of an organization organization/slug.
// Entities without an object are absent.
func (w *World) State() map[string]map[string]WorldObject {
	out := map[string]map[string]WorldObject{}
	for _, entity := range worldEntities {
		for key, o := range w.Objects(entity) {
			if out[entity] == nil {
				out[entity] = map[string]WorldObject{}
			}
			out[entity][key] = o
		}
	}
	return out
}

var worldEntities = []string{
	organization, user, organizationMembership, connection, role, organizationRole, directory, directoryUser, directoryGroup, groupMembership,
}

// Objects yields the objects of an entity with their keys. Nothing changes in the World meanwhile,
// so the loop must not call its methods.
func (w *World) Objects(entity string) iter.Seq2[string, WorldObject] {
	return func(yield func(string, WorldObject) bool) {
		w.mu.Lock() // members may be looked at for the first time
		defer w.mu.Unlock()
		if entity == groupMembership {
			w.memberships(yield)
			return
		}
		if entity == directoryUser {
			for k := range w.cfg.DirectoryUsers {
				if o := w.baseUser(k); !o.deleted && !yield(o.id, show(o)) {
					return
				}
			}
		}
		if t := w.tables[entity]; t != nil {
			for _, o := range t.objects {
				if !o.deleted && !yield(o.key(), show(o)) {
					return
				}
			}
		}
	}
}

func (w *World) memberships(yield func(string, WorldObject) bool) {
	if w.tables[directoryGroup] == nil {
		return
	}
	for _, g := range w.tables[directoryGroup].objects {
		if g.deleted {
			continue
		}
		for _, u := range w.sortedMembers(g) {
			if !yield(g.id+"/"+u.id, WorldObject{Data: membershipData(g, u), Listed: u.data()}) {
				return
			}
		}
	}
}

func (o *object) key() string {
	switch o.entity {
	case role:
		return o.slug
	case organizationRole:
		return o.org + "/" + o.slug
	default:
		return o.id
	}
}

func show(o *object) WorldObject {
	w := WorldObject{Data: o.data(), UpdatedAt: time.UnixMilli(o.updated).UTC()}
	w.Listed = w.Data
	if o.entity == organizationRole || o.entity == role {
		w.Listed = o.listed()
	}
	return w
}

// Keys returns the keys of the objects of an entity in the order of their creation, except for
// directory_group_membership.
func (w *World) Keys(entity string) []string {
	var out []string
	for key := range w.Objects(entity) {
		out = append(out, key)
	}
	return out
}

// Count returns how many objects there are of an entity.
func (w *World) Count(entity string) int {
	n := 0
	for range w.Objects(entity) {
		n++
	}
	return n
}

// Counts returns how many objects there are of each entity that has any.
func (w *World) Counts() map[string]int {
	out := map[string]int{}
	for _, entity := range worldEntities {
		out[entity] = w.Count(entity)
	}
	maps.DeleteFunc(out, func(_ string, n int) bool { return n == 0 })
	return out
}
