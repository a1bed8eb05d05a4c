package sourcetest

import (
	"fmt"
	"slices"
	"strings"
)

// eventNames are the types of the events that tell of an entity: created, updated, deleted.
var eventNames = map[string][3]string{
	organization:           {"organization.created", "organization.updated", "organization.deleted"},
	user:                   {"user.created", "user.updated", "user.deleted"},
	organizationMembership: {"organization_membership.created", "organization_membership.updated", "organization_membership.deleted"},
	connection:             {"connection.activated", "connection.deactivated", "connection.deleted"},
	role:                   {"role.created", "role.updated", "role.deleted"},
	organizationRole:       {"organization_role.created", "organization_role.updated", "organization_role.deleted"},
	directory:              {"dsync.activated", "", "dsync.deleted"},
	directoryUser:          {"dsync.user.created", "dsync.user.updated", "dsync.user.deleted"},
	directoryGroup:         {"dsync.group.created", "dsync.group.updated", "dsync.group.deleted"},
}

const (
	created = iota
	updated
	deleted
)

// Create makes an object and returns its key. The parents are: of an organization_membership the
// organization and the user, of a connection, a directory and an organization_role the
// organization, and of a directory_user and a directory_group the directory.
func (w *World) Create(entity string, parents ...string) (key string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := &object{entity: entity}
	kinds := map[string][]string{
		organization: {}, user: {}, role: {}, organizationMembership: {organization, user}, connection: {organization}, directory: {organization},
		organizationRole: {organization}, directoryUser: {directory}, directoryGroup: {directory},
	}
	want, ok := kinds[entity]
	if !ok || len(want) != len(parents) {
		return "", fmt.Errorf("sourcetest: a %s is not made with %d parents", entity, len(parents))
	}
	for i, kind := range want {
		p, ok := w.find(kind, parents[i])
		if !ok {
			return "", fmt.Errorf("sourcetest: there is no %s %s", kind, parents[i])
		}
		switch kind {
		case organization:
			o.org = p.id
		case user:
			o.user = p.id
		case directory:
			o.dir, o.org = p.id, p.org
		}
	}
	w.n++
	o.n = mix(w.cfg.Seed, w.n, 95)
	o.created = w.now(0)
	o.updated = o.created
	o.id = w.newID(entity, 1<<38+w.n, o.created) // beyond the numbers of the base population
	w.add(o)
	w.tell(eventNames[entity][created], o.created, o.data())
	return o.key(), nil
}

// Update changes an object. A connection becomes active and inactive in turn. A directory has no
// event for that and cannot be updated.
func (w *World) Update(entity, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.byKey(entity, key)
	if !ok || entity == directory {
		return fmt.Errorf("sourcetest: there is no %s %s to update", entity, key)
	}
	o = w.own(o)
	o.version++
	o.updated = w.now(o.updated)
	name := eventNames[entity][updated]
	if entity == connection && o.version%2 == 0 {
		name = eventNames[entity][created]
	}
	w.tell(name, o.updated, o.data())
	return nil
}

// Delete deletes an object and what goes with it.
func (w *World) Delete(entity, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.byKey(entity, key)
	if !ok {
		return fmt.Errorf("sourcetest: there is no %s %s to delete", entity, key)
	}
	w.remove(w.own(o))
	return nil
}

// Vanish deletes an object and nothing else, and tells nobody.
func (w *World) Vanish(entity, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.byKey(entity, key)
	if !ok {
		return fmt.Errorf("sourcetest: there is no %s %s to forget", entity, key)
	}
	w.own(o).deleted = true
	return nil
}

// AddMember puts a user of a directory into a group of it. It does nothing if it is there.
func (w *World) AddMember(group, directoryUserID string) error {
	return w.setMember(group, directoryUserID, true)
}

// RemoveMember takes a user out of a group. It does nothing if it is not there.
func (w *World) RemoveMember(group, directoryUserID string) error {
	return w.setMember(group, directoryUserID, false)
}

func (w *World) setMember(group, member string, in bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	g, okGroup := w.find(directoryGroup, group)
	u, okUser := w.find(directoryUser, member)
	if !okGroup || !okUser || g.dir != u.dir {
		return fmt.Errorf("sourcetest: there are no group %s and user %s of one directory", group, member)
	}
	if w.members(g)[u.id] != in {
		w.setIn(g, u, in)
	}
	return nil
}

// setIn changes a membership and tells of it.
func (w *World) setIn(g, u *object, in bool) {
	name := "dsync.group.user_removed"
	if in {
		name = "dsync.group.user_added"
		w.members(g)[u.id] = true
	} else {
		delete(w.members(g), u.id)
	}
	w.tell(name, w.now(0), membershipData(g, u))
}

// byKey returns an object that exists.
func (w *World) byKey(entity, key string) (*object, bool) {
	switch entity {
	case organizationRole:
		org, slug, _ := strings.Cut(key, "/")
		o := w.roles[org][slug]
		return o, o != nil && !o.deleted
	case role:
		if t := w.tables[role]; t != nil {
			if i := slices.IndexFunc(t.objects, func(o *object) bool { return o.slug == key && !o.deleted }); i >= 0 {
				return t.objects[i], true
			}
		}
		return nil, false
	}
	return w.find(entity, key)
}

// own returns an object that may be changed, in the place of one of the base population.
func (w *World) own(o *object) *object {
	if k, ok := w.baseNumber(o.id); ok && o.entity == directoryUser {
		w.edited[k] = o
	}
	return o
}

// remove deletes an object and what goes with it, and tells of it. The object is one of own.
func (w *World) remove(o *object) {
	switch o.entity {
	case organization:
		for _, entity := range []string{organizationMembership, connection, organizationRole, directory} {
			w.removeAll(entity, o.id)
		}
	case user:
		w.removeAll(organizationMembership, o.id)
	case directoryUser:
		if t := w.lists[directoryGroup][o.dir]; t != nil {
			for _, g := range t.objects {
				if !g.deleted && w.members(g)[o.id] {
					w.setIn(g, o, false)
				}
			}
		}
	case directoryGroup:
		for _, u := range w.sortedMembers(o) {
			w.setIn(o, u, false)
		}
	case directory:
		from, to := w.baseUsers(o.id)
		for k := from; k < to; k++ {
			if u := w.edited[k]; u != nil {
				u.deleted = true
			}
		}
		for _, entity := range []string{directoryUser, directoryGroup} {
			if t := w.lists[entity][o.id]; t != nil {
				for _, child := range t.objects {
					child.deleted = true
				}
			}
		}
	}
	o.updated = w.now(o.updated)
	w.tell(eventNames[o.entity][deleted], o.updated, o.data())
	o.deleted = true
}

func (w *World) removeAll(entity, parent string) {
	if t := w.lists[entity][parent]; t != nil {
		for _, o := range t.objects {
			if !o.deleted {
				w.remove(o)
			}
		}
	}
}

// now is the time of a change, by the server's clock. It is later than the version before, and not
// before the last event.
func (w *World) now(before int64) int64 {
	return max(w.s.cfg.now().UnixMilli(), w.at, before+1)
}

// tell appends an event.
func (w *World) tell(name string, ms int64, data []byte) {
	st := w.s.store
	st.mu.Lock()
	defer st.mu.Unlock()
	if last := st.len() - 1; last >= 0 {
		ms = max(ms, (st.created(last)+999_999)/1_000_000)
	}
	w.at = ms
	number := uint64(st.len())
	b := append([]byte(`{"object":"event","id":"`), appendULID([]byte(eventPrefix), ms, uint16(number>>24), number<<40|mix(w.cfg.Seed, number, 96)>>24)...)
	b = append(b, `","event":"`+name+`","data":`...)
	b = append(append(b, data...), `,"created_at":"`...)
	b = append(appendTime(b, ms), `","context":{}}`...)
	if err := st.appendRaw(b); err != nil {
		panic("sourcetest: " + err.Error()) // of this package's own making
	}
}

// Change makes one change that the seed chooses: most often it updates a user of a directory, adds
// or removes a member, or creates or deletes something; now and then it deletes a whole directory
// or organization. It returns what it did, for messages.
func (w *World) Change() (what string) { return w.change(100) }

// ChangeTold makes one change as Change does, but deletes no directory and no organization: events
// tell of everything that changes.
func (w *World) ChangeTold() (what string) { return w.change(99) }

// change makes one of the first kinds of changes, of which there are 100.
func (w *World) change(kinds int) (what string) {
	w.mu.Lock()
	r := &w.rng
	kind, pickUser, pickOther := r.intn(kinds), r.next(), r.next()
	w.mu.Unlock()
	one := func(entity string, h uint64) string { return w.one(entity, h) }
	entity, key := directoryUser, ""
	act := func(verb string, err error) string {
		if err != nil { // there is nothing to do that with; begin with an organization
			key, _ := w.Create(organization)
			return "create organization " + key
		}
		return strings.TrimSpace(verb + " " + entity + " " + key)
	}
	all := []string{organization, user, organizationMembership, connection, role, organizationRole, directoryUser, directoryGroup}
	var err error
	switch {
	case kind < 25:
		key = one(directoryUser, pickUser)
		return act("update", w.Update(entity, key))
	case kind < 35:
		key, err = w.Create(directoryUser, one(directory, pickUser))
		return act("create", err)
	case kind < 40:
		key = one(directoryUser, pickUser)
		return act("delete", w.Delete(entity, key))
	case kind < 60:
		entity, key = groupMembership, one(directoryGroup, pickOther)
		return act("change", w.toggle(key, pickUser))
	case kind < 75:
		entity = pickBy(pickOther, all)
		key = one(entity, pickUser)
		return act("update", w.Update(entity, key))
	case kind < 95:
		entity = pickBy(pickOther, append(all, directory))
		var parents []string
		switch entity {
		case organizationMembership:
			parents = []string{one(organization, pickUser), one(user, pickUser)}
		case connection, organizationRole, directory:
			parents = []string{one(organization, pickUser)}
		case directoryUser, directoryGroup:
			parents = []string{one(directory, pickUser)}
		}
		key, err = w.Create(entity, parents...)
		return act("create", err)
	case kind < 99:
		entity = pickBy(pickOther, []string{user, organizationMembership, connection, role, organizationRole, directoryGroup})
	default:
		entity = pickBy(pickOther, []string{organization, directory})
	}
	key = one(entity, pickUser)
	return act("delete", w.Delete(entity, key))
}

// one returns the key of an object of an entity that exists, by a hash; empty if there is none.
func (w *World) one(entity string, h uint64) string {
	w.mu.RLock()
	defer w.mu.RUnlock()
	t := w.tables[entity]
	base := 0
	if entity == directoryUser {
		base = w.cfg.DirectoryUsers
	}
	n := base
	if t != nil {
		n += len(t.objects)
	}
	for i := range n { // from a place that the hash chooses
		k := int((h + uint64(i)) % uint64(n))
		var o *object
		if k < base {
			o = w.baseUser(k)
		} else {
			o = t.objects[k-base]
		}
		if !o.deleted {
			return o.key()
		}
	}
	return ""
}

// toggle puts a user of the group's directory into the group, or takes it out.
func (w *World) toggle(group string, h uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	g, ok := w.find(directoryGroup, group)
	if !ok {
		return fmt.Errorf("sourcetest: there is no group %q", group)
	}
	users := w.usersOf(g.dir)
	for i := range users.len() {
		if u := users.at(int((h + uint64(i)) % uint64(users.len()))); !u.deleted {
			w.setIn(g, u, !w.members(g)[u.id])
			return nil
		}
	}
	return fmt.Errorf("sourcetest: directory %s has no user", g.dir)
}

func pickBy[T any](h uint64, from []T) T { return from[h%uint64(len(from))] }
