package sourcetest

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// sequence is a list in the order of creation. Deleted objects keep their place in it, so that a
// cursor that names one can be continued.
type sequence interface {
	len() int
	at(i int) *object
	index(id string) (int, bool)
}

func (t *table) len() int {
	if t == nil {
		return 0
	}
	return len(t.objects)
}

func (t *table) at(i int) *object { return t.objects[i] }

// directoryUsers are the users of one directory: those of the base population, then those that
// were created.
type directoryUsers struct {
	w        *World
	from, to int
	*table
}

func (w *World) usersOf(dir string) directoryUsers {
	from, to := w.baseUsers(dir)
	return directoryUsers{w: w, from: from, to: to, table: w.lists[directoryUser][dir]}
}

func (s directoryUsers) len() int { return s.to - s.from + s.table.len() }

func (s directoryUsers) at(i int) *object {
	if n := s.to - s.from; i >= n {
		return s.objects[i-n]
	}
	return s.w.baseUser(s.from + i)
}

func (s directoryUsers) index(id string) (int, bool) {
	if k, ok := s.w.baseNumber(id); ok && k >= s.from && k < s.to {
		return k - s.from, true
	}
	i, ok := s.table.index(id)
	return s.to - s.from + i, ok
}

// few are some objects in order.
type few []*object

func (f few) len() int         { return len(f) }
func (f few) at(i int) *object { return f[i] }

func (f few) index(id string) (int, bool) {
	i := slices.IndexFunc(f, func(o *object) bool { return o.id == id })
	return i, i >= 0
}

// listQuery is a request for a list that passed the checks that all lists share.
type listQuery struct {
	query
	values  url.Values
	parents []string // ids in the path
}

// worldRoute is a path of the API that a World answers.
type worldRoute struct {
	path    string   // with * for an id
	filters []string // parameters besides those of every list
	unpaged bool
	// list returns the objects of a list. It is nil for a path of one object.
	list func(w *World, q *listQuery) (sequence, *apiError)
	one  func(w *World, ids []string) (*object, bool)
}

// worldRoutes follow the API description of PyPI's workos 10.8.0.
var worldRoutes = []worldRoute{
	{path: "/organizations", filters: []string{"domains", "search"}, list: everyObject(organization)},
	{path: "/organizations/*", one: oneObject(organization)},
	{path: "/user_management/users", filters: []string{"organization", "organization_id", "email"}, list: everyObject(user)},
	{path: "/user_management/users/*", one: oneObject(user)},
	{path: "/user_management/organization_memberships", filters: []string{"organization_id", "statuses", "user_id"}, list: listMemberships},
	{path: "/user_management/organization_memberships/*", one: oneObject(organizationMembership)},
	{path: "/connections", filters: []string{"connection_type", "domain", "organization_id", "search"}, list: everyObject(connection)},
	{path: "/connections/*", one: oneObject(connection)},
	{path: "/directories", filters: []string{"organization_id", "search", "domain"}, list: everyObject(directory)},
	{path: "/directories/*", one: oneObject(directory)},
	{path: "/directory_users", filters: []string{"directory", "group", "idp_id", "email"}, list: listDirectoryUsers},
	{path: "/directory_users/*", one: oneObject(directoryUser)},
	{path: "/directory_groups", filters: []string{"directory", "user"}, list: listDirectoryGroups},
	{path: "/directory_groups/*", one: oneObject(directoryGroup)},
	{path: "/authorization/roles", unpaged: true, list: everyObject(role)},
	{path: "/authorization/roles/*", one: func(w *World, ids []string) (*object, bool) { return w.byKey(role, ids[0]) }},
	{path: "/authorization/organizations/*/roles", unpaged: true, list: listOrganizationRoles},
	{path: "/authorization/organizations/*/roles/*", one: func(w *World, ids []string) (*object, bool) {
		return w.byKey(organizationRole, ids[0]+"/"+ids[1])
	}},

	// Of these a World has none.
	{path: "/authorization/permissions", list: noObject("")},
	{path: "/user_management/invitations", filters: []string{"organization_id", "email"}, list: noObject("")},
	{path: "/feature-flags", list: noObject("")},
	{path: "/agents/blueprints", list: noObject("")},
	{path: "/agents/instances", filters: []string{"organization_id", "agent_blueprint_id"}, list: noObject("")},
	{path: "/agents/sessions", filters: []string{"organization_id", "agent_blueprint_id", "agent_instance_id"}, list: noObject("")},
	{path: "/organizations/*/groups", filters: []string{"search"}, list: noObject(organization)},
	{path: "/organizations/*/api_keys", list: noObject(organization)},
	{path: "/user_management/users/*/sessions", list: noObject(user)},
}

// route finds what answers a path, and the ids in it.
func (w *World) route(path string) (*worldRoute, []string) {
	if w == nil {
		return nil, nil
	}
	names := strings.Split(path, "/")
next:
	for i := range worldRoutes {
		pattern := strings.Split(worldRoutes[i].path, "/")
		if len(pattern) != len(names) {
			continue
		}
		var ids []string
		for k, part := range pattern {
			switch {
			case part == "*" && names[k] != "":
				ids = append(ids, names[k])
			case part != names[k]:
				continue next
			}
		}
		return &worldRoutes[i], ids
	}
	return nil, nil
}

// respond answers a request for a path that route has found.
func (w *World) respond(route *worldRoute, ids []string, req *http.Request, f Fault) *reply {
	q, e := w.parse(route, ids, req.URL.RawQuery)
	if e != nil {
		return errorReply(e)
	}
	if f.query != nil {
		f.query(&q.query)
	}
	w.mu.Lock() // members may be looked at for the first time
	defer w.mu.Unlock()
	var body []byte
	if route.one != nil {
		o, ok := route.one(w, ids)
		if !ok {
			return errorReply(noSuch(w.kindOf(route), ids[len(ids)-1]))
		}
		body = show(o).Listed
	} else {
		seq, e := route.list(w, q)
		if e != nil {
			return errorReply(e)
		}
		if body, e = w.list(route, seq, q, f); e != nil {
			return errorReply(e)
		}
	}
	r := newReply(http.StatusOK, "application/json; charset=utf-8", body)
	if f.reply != nil {
		f.reply(r)
	}
	return r
}

// kindOf is what the API calls the object of a path.
func (*World) kindOf(route *worldRoute) string {
	names := strings.Split(strings.TrimSuffix(route.path, "/*"), "/")
	return strings.TrimSuffix(strings.ReplaceAll(names[len(names)-1], "_", " "), "s")
}

// noSuch is the answer about an object that does not exist.
func noSuch(kind, id string) *apiError {
	kind = strings.ToUpper(kind[:1]) + kind[1:]
	return &apiError{status: http.StatusNotFound, body: errorBody("", kind+" not found: '"+id+"'.")}
}

// parse checks the query of a request.
func (w *World) parse(route *worldRoute, ids []string, raw string) (*listQuery, *apiError) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badRequest("invalid_request", "The query string cannot be read: "+err.Error())
	}
	q := &listQuery{values: v, parents: ids}
	var known []string
	if route.list != nil && !route.unpaged {
		known = append([]string{"limit", "after", "before", "order"}, route.filters...)
	}
	for name, values := range v {
		switch {
		case !slices.Contains(known, name):
			return nil, badRequest("unknown_parameter", "Unknown query parameter '"+name+"'.")
		case len(values) > 1:
			return nil, badRequest("invalid_request", "Query parameter '"+name+"' is given more than once.")
		case values[0] == "":
			return nil, badRequest("invalid_request", "Query parameter '"+name+"' is empty.")
		}
	}
	q.limit, q.desc, q.overlap = 10, true, w.s.cfg.overlap
	if route.unpaged {
		q.limit, q.desc = 1<<30, false
	}
	if v.Has("limit") {
		n, err := strconv.Atoi(v.Get("limit"))
		if err != nil || n < 1 || n > 100 {
			return nil, unprocessable("limit", "limit_out_of_range", "limit must be a number from 1 to 100")
		}
		q.limit = n
	}
	q.after, q.before = v.Get("after"), v.Get("before")
	switch v.Get("order") {
	case "asc":
		q.desc = false
	case "desc", "":
	case "normal":
		q.after, q.before = q.before, q.after
	default:
		return nil, unprocessable("order", "order_invalid", "order must be asc, desc or normal")
	}
	if q.after != "" && q.before != "" {
		return nil, badRequest("invalid_request", "'after' and 'before' cannot be used together.")
	}
	return q, nil
}

// list renders a page of a list.
func (w *World) list(route *worldRoute, seq sequence, q *listQuery, f Fault) ([]byte, *apiError) {
	var found []int
	cursor, back := q.after+q.before, q.before != ""
	step, from := 1, 0
	if q.desc != back {
		step, from = -1, seq.len()-1
	}
	if cursor != "" {
		i, ok := seq.index(cursor)
		if ok && w.s.cfg.deletedCursors && seq.at(i).deleted {
			ok = false
		}
		switch {
		case ok:
			from = i + step - step*q.overlap
			if from < 0 && step > 0 {
				from = 0
			} else if step < 0 {
				from = min(from, seq.len()-1)
			}
		case w.s.cfg.lostCursor == LostEmpty:
			from = -1
		case w.s.cfg.lostCursor == LostReplay:
		default:
			return nil, lostCursorError(w.s.cfg.lostCursor, cursor)
		}
	}
	for i := from; i >= 0 && i < seq.len() && len(found) <= q.limit; i += step {
		if o := seq.at(i); !o.deleted && q.wants(o) {
			found = append(found, i)
		}
	}
	more := len(found) > q.limit
	found = found[:min(len(found), q.limit)]
	if back {
		slices.Reverse(found)
	}
	if n := len(found); f.page != nil && n > 0 {
		last := found[n-1]
		f.page(found)
		more = more || found[n-1] != last // what was pushed out is still to come
	}
	b := []byte(`{"object":"list","data":[`)
	for i, k := range found {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, show(seq.at(k)).Listed...)
	}
	b = append(b, ']')
	if !route.unpaged {
		b = append(b, `,"list_metadata":{"before":null,"after":`...)
		if (more || back) && len(found) > 0 {
			b = append(b, `"`+seq.at(found[len(found)-1]).id+`"`...)
		} else {
			b = append(b, `null`...)
		}
		b = append(b, '}')
	}
	return append(b, '}'), nil
}

// wants reports whether an object passes the filters that are no choice of the list.
func (q *listQuery) wants(o *object) bool {
	switch o.entity {
	case organizationMembership:
		statuses := q.values.Get("statuses")
		if statuses == "" {
			statuses = "active"
		}
		return slices.Contains(strings.Split(statuses, ","), o.status()) &&
			(!q.values.Has("user_id") || o.user == q.values.Get("user_id")) && (!q.values.Has("organization_id") || o.org == q.values.Get("organization_id"))
	case connection, directory:
		return !q.values.Has("organization_id") || o.org == q.values.Get("organization_id")
	}
	return true
}

// unsupported refuses filters of the API that a World does not have.
func unsupported(q *listQuery, names ...string) *apiError {
	for _, name := range names {
		if q.values.Has(name) {
			return badRequest("unsupported_parameter", "sourcetest does not filter by '"+name+"'.")
		}
	}
	return nil
}

func everyObject(entity string) func(*World, *listQuery) (sequence, *apiError) {
	return func(w *World, q *listQuery) (sequence, *apiError) {
		if entity == user {
			if e := unsupported(q, "organization_id"); e != nil {
				return nil, e
			}
		}
		return w.tables[entity], unsupported(q, "domains", "search", "organization", "email", "connection_type", "domain")
	}
}

// noObject is an empty list. It belongs to an object of the entity parent, if that is not empty.
func noObject(parent string) func(*World, *listQuery) (sequence, *apiError) {
	return func(w *World, q *listQuery) (sequence, *apiError) {
		if parent != "" {
			if _, ok := w.find(parent, q.parents[0]); !ok {
				return nil, noSuch(parent, q.parents[0])
			}
		}
		return few{}, nil
	}
}

func oneObject(entity string) func(*World, []string) (*object, bool) {
	return func(w *World, ids []string) (*object, bool) { return w.find(entity, ids[0]) }
}

func listMemberships(w *World, q *listQuery) (sequence, *apiError) {
	for status := range strings.SplitSeq(q.values.Get("statuses"), ",") {
		if !slices.Contains([]string{"active", "inactive", "pending", ""}, status) {
			return nil, unprocessable("statuses", "statuses_invalid", "statuses must be active, inactive or pending")
		}
	}
	org, member := q.values.Get("organization_id"), q.values.Get("user_id")
	switch {
	case org == "" && member == "":
		return nil, badRequest("missing_user_id_or_organization_id", "At least one of 'user_id' or 'organization_id' must be provided.")
	case org != "":
		if _, ok := w.find(organization, org); !ok {
			return nil, badRequest("", "Organization not found: '"+org+"'.")
		}
		return w.lists[organizationMembership][org], nil
	default:
		if _, ok := w.find(user, member); !ok {
			return nil, badRequest("", "User not found: '"+member+"'.")
		}
		return w.lists[organizationMembership][member], nil
	}
}

func listDirectoryUsers(w *World, q *listQuery) (sequence, *apiError) {
	dir, group := q.values.Get("directory"), q.values.Get("group")
	if e := unsupported(q, "idp_id", "email"); e != nil {
		return nil, e
	}
	switch {
	case (dir == "") == (group == ""):
		return nil, unprocessable("directory", "required", "one of directory and group is required")
	case dir != "":
		if _, ok := w.find(directory, dir); !ok {
			return nil, noSuch(directory, dir)
		}
		return w.usersOf(dir), nil
	}
	g, ok := w.find(directoryGroup, group)
	if !ok {
		return nil, noSuch("directory group", group)
	}
	return few(w.sortedMembers(g)), nil
}

func listDirectoryGroups(w *World, q *listQuery) (sequence, *apiError) {
	dir, member := q.values.Get("directory"), q.values.Get("user")
	switch {
	case (dir == "") == (member == ""):
		return nil, unprocessable("directory", "required", "one of directory and user is required")
	case dir != "":
		if _, ok := w.find(directory, dir); !ok {
			return nil, noSuch(directory, dir)
		}
		return w.lists[directoryGroup][dir], nil
	}
	u, ok := w.find(directoryUser, member)
	if !ok {
		return nil, noSuch("directory user", member)
	}
	var groups few
	if t := w.lists[directoryGroup][u.dir]; t != nil {
		for _, g := range t.objects {
			if !g.deleted && w.members(g)[u.id] {
				groups = append(groups, g)
			}
		}
	}
	return groups, nil
}

// listOrganizationRoles lists the roles of the environment too, as WorkOS does.
func listOrganizationRoles(w *World, q *listQuery) (sequence, *apiError) {
	if _, ok := w.find(organization, q.parents[0]); !ok {
		return nil, noSuch(organization, q.parents[0])
	}
	var out few
	for _, t := range []*table{w.tables[role], w.lists[organizationRole][q.parents[0]]} {
		if t != nil {
			out = append(out, t.objects...)
		}
	}
	return out, nil
}
