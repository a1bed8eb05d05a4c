package lists

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"workos-relay/source"
)

// finish fills in the fields of an object that depend on the list that it comes from.
func (o *Object) finish(e *Endpoint, q *Query) {
	o.Parents = q.Parents
	o.Data = o.Raw
	switch e.Entity {
	case "organization_role":
		o.Data = withMember(o.Raw, "organization_id", q.Parents[0])
	case "directory_group_membership":
		group := q.Parent
		if group == nil {
			group = []byte(`{"object":"directory_group","id":` + quote(q.Parents[1]) + `}`)
		}
		o.Data = fmt.Appendf(nil, `{"directory_id":%s,"user":%s,"group":%s}`, quote(q.Parents[0]), o.Raw, group)
	case "group_membership":
		o.Data = fmt.Appendf(nil, `{"group_id":%s,"organization_membership_id":%s}`, quote(q.Parents[1]), quote(o.ID))
	}
}

// withMember returns an object with a member of text before its own.
func withMember(object []byte, name, value string) []byte {
	out := fmt.Appendf(nil, "{%s:%s", quote(name), quote(value))
	if inner := strings.TrimSpace(string(object[1:])); inner != "}" {
		out = append(out, ',')
	}
	return append(out, object[1:]...)
}

func quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string has a JSON form
	}
	return string(text)
}

// Ref names one object.
type Ref struct {
	Entity string
	Key    string // of the object in its state topic, as package state makes it
	// Known is the object as it is known, in the shape of Object.Data. It is needed for an entity
	// that the API names by more than its key: a feature_flag and a permission (their slug), and a
	// group (its organization_id).
	Known []byte
}

// Get looks at one object. Its errors are ErrNotFound if WorkOS itself says that the object does
// not exist, ErrNoGet if no endpoint can tell, and those of source.Getter.Get. Of a membership of a
// group it finds out only whether there is one: Raw and Data of the object are nil.
func (c *Client) Get(ctx context.Context, ref Ref) (Object, error) {
	switch ref.Entity {
	case "directory_group_membership":
		group, user, ok := cutKey(ref.Key)
		if !ok {
			return Object{}, badRef(ref, "its key is not that of a group and a user")
		}
		groups := Endpoint{Path: "/directory_groups", Fixed: url.Values{"user": {user}}}
		return c.member(ctx, ref, groups, group, user)
	case "group_membership":
		group, membership, ok := cutKey(ref.Key)
		if !ok {
			return Object{}, badRef(ref, "its key is not that of a group and a membership")
		}
		const before, after = "/user_management/organization_memberships/", "/groups"
		groups := Endpoint{Path: before + url.PathEscape(membership) + after, Fixed: url.Values{}, shape: before + "{id}" + after}
		return c.member(ctx, ref, groups, group, membership)
	}
	e, ok := Lookup(ref.Entity)
	switch {
	case !ok:
		return Object{}, badRef(ref, "WorkOS has no list of such objects")
	case e.One == "":
		return Object{}, fmt.Errorf("look at %s %s: %w", ref.Entity, ref.Key, ErrNoGet)
	}
	id, parents, err := e.names(ref)
	if err != nil {
		return Object{}, err
	}
	names := slices.Clone(parents)
	if !e.Slug { // a slug may be a word of any text
		names = append(names, id)
	}
	var o Object
	_, err = c.Getter.Get(ctx, source.GetRequest{
		Path: e.path(e.One, parents, id), Pattern: e.One,
		Read: func(body []byte) (err error) {
			if o, err = decodeObject(body, &e); err == nil && o.ID != id && o.slug != id {
				err = fmt.Errorf("it is %s instead of %s", o.ID, id)
			}
			return err
		},
		Final:    func(e *source.APIError) bool { return isNotFound(e, names...) },
		Patience: c.patience(),
	})
	switch {
	case err != nil:
		return Object{}, notFound(ref, err, names...)
	case e.only != "" && o.typ != "" && o.typ != e.only: // an organization also has the roles of the environment
		return Object{}, fmt.Errorf("look at %s %s: %w: it is of type %s", ref.Entity, ref.Key, ErrNotFound, o.typ)
	}
	o.finish(&e, &Query{Entity: ref.Entity, Parents: parents})
	return o, nil
}

// names returns the id by which the API names an object, and its parents as far as the path of the
// object holds them.
func (e *Endpoint) names(ref Ref) (id string, parents []string, err error) {
	id = ref.Key
	parents = make([]string, len(e.Parents))
	switch e.Entity {
	case "organization_role":
		org, slug, ok := cutKey(ref.Key)
		if !ok {
			return "", nil, badRef(ref, "its key is not that of an organization and a role")
		}
		return slug, []string{org}, nil
	case "role":
		return id, parents, nil
	}
	var known struct {
		Slug         string `json:"slug"`
		Organization string `json:"organization_id"`
	}
	needsKnown := e.Slug || strings.Contains(e.One, "{organization}")
	if err := json.Unmarshal(ref.Known, &known); err != nil && needsKnown {
		return "", nil, badRef(ref, "the object that is known cannot be read")
	}
	if e.Slug {
		id = known.Slug
	}
	if strings.Contains(e.One, "{organization}") {
		parents[0] = known.Organization
	}
	if id == "" || strings.Contains(e.One, "{organization}") && parents[0] == "" {
		return "", nil, badRef(ref, "the object that is known does not say by what WorkOS names it")
	}
	return id, parents, nil
}

// unescape undoes what package state does to an id before it makes it a part of a key.
var unescape = strings.NewReplacer("%2F", "/", "%25", "%")

// cutKey returns both ids that a key is made of.
func cutKey(key string) (before, after string, ok bool) {
	before, after, ok = strings.Cut(key, "/")
	return unescape.Replace(before), unescape.Replace(after), ok
}

// member looks for a group among the groups of a member.
func (c *Client) member(ctx context.Context, ref Ref, groups Endpoint, group, member string) (Object, error) {
	groups.Entity = "group"
	r := reading{c: c, e: &groups, q: Query{Entity: ref.Entity, Parents: []string{member}}}
	for after := (cursor{}); ; {
		p, err := r.page(ctx, after)
		if err != nil {
			return Object{}, notFound(ref, err, member)
		}
		for i := range p.Objects {
			if p.Objects[i].ID == group {
				return Object{Entity: ref.Entity, ID: member}, nil
			}
		}
		if p.Next == "" {
			return Object{}, fmt.Errorf("look at %s %s: %w", ref.Entity, ref.Key, ErrNotFound)
		}
		if after, err = parseCursor(p.Next); err != nil {
			return Object{}, err
		}
	}
}

func badRef(ref Ref, why string) error {
	return fmt.Errorf("look at %s %s: %w: %s", ref.Entity, ref.Key, ErrNoGet, why)
}

// notFound makes the answer that an object does not exist ErrNotFound. ids are its own id and those
// of its parents.
func notFound(ref Ref, err error, ids ...string) error {
	var api *source.APIError
	if errors.As(err, &api) && isNotFound(api, ids...) {
		return fmt.Errorf("look at %s %s: %w: %w", ref.Entity, ref.Key, ErrNotFound, err)
	}
	return err
}
