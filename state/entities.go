package state

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"workos-relay/source"
)

// Entity is a kind of object.
type Entity struct {
	Name string // "directory_user"; the state topic is state.<name>
	// Key are the paths in the object that make its key, one or two, with dots between names; see
	// Key of Change.
	Key []string
	// Sets are the event types whose data holds the newest version of an object, sorted.
	Sets []string
	// Removes are the event types that tell that an object was removed, sorted. Their data holds
	// its key. Empty if WorkOS sends no such event.
	Removes []string
	// UpdatedAt is set if the objects have a field updated_at.
	UpdatedAt bool
	// within is the path of the object in data, for the types whose data is not the object itself.
	within map[string]string
}

// Types returns the event types that set or remove an object, sorted.
func (e *Entity) Types() []string {
	types := slices.Concat(e.Sets, e.Removes)
	slices.Sort(types)
	return types
}

// Wraps reports whether the data of an event of this type holds the object inside of something
// else.
func (e *Entity) Wraps(eventType string) bool { return e.within[eventType] != "" }

// The paths of keys.
var (
	byID   = []string{"id"}
	bySlug = []string{"slug"}
)

// entities is the table, sorted by name. TestEveryTypeIsDecided compares it with the table of event
// types.
var entities = []Entity{
	{
		Name: "agent_blueprint", Key: byID, UpdatedAt: true,
		Sets:    []string{source.AgentBlueprintCreated, source.AgentBlueprintUpdated},
		Removes: []string{source.AgentBlueprintDeleted},
	},
	{
		Name: "agent_instance", Key: byID, UpdatedAt: true,
		Sets:    []string{source.AgentInstanceCreated},
		Removes: []string{source.AgentInstanceDeleted},
	},
	{
		Name: "agent_instance_session", Key: byID, UpdatedAt: true,
		Sets:    []string{source.AgentInstanceSessionCreated},
		Removes: []string{source.AgentInstanceSessionRevoked},
	},
	{
		Name: "api_key", Key: byID, UpdatedAt: true,
		Sets:    []string{source.APIKeyCreated, source.APIKeyUpdated},
		Removes: []string{source.APIKeyRevoked},
	},
	{
		Name: "connected_account", Key: byID, UpdatedAt: true,
		Sets: []string{
			source.PipesAccountConnectionConnected, source.PipesAccountConnectionReauthorizationNeeded,
			source.PipesConnectedAccountConnected, source.PipesConnectedAccountReauthorizationNeeded,
		},
		Removes: []string{source.PipesAccountConnectionDisconnected, source.PipesConnectedAccountDisconnected},
	},
	{
		Name: "connection", Key: byID, UpdatedAt: true,
		Sets:    []string{source.ConnectionActivated, source.ConnectionDeactivated},
		Removes: []string{source.ConnectionDeleted},
	},
	{
		Name: "directory", Key: byID, UpdatedAt: true,
		Sets:    []string{source.DsyncActivated},
		Removes: []string{source.DsyncDeleted},
	},
	{
		Name: "directory_group", Key: byID, UpdatedAt: true,
		Sets:    []string{source.DsyncGroupCreated, source.DsyncGroupUpdated},
		Removes: []string{source.DsyncGroupDeleted},
	},
	{
		Name: "directory_group_membership", Key: []string{"group.id", "user.id"},
		Sets:    []string{source.DsyncGroupUserAdded},
		Removes: []string{source.DsyncGroupUserRemoved},
	},
	{
		Name: "directory_token", Key: byID,
		Sets:    []string{source.DsyncTokenCreated},
		Removes: []string{source.DsyncTokenRevoked},
	},
	{
		Name: "directory_user", Key: byID, UpdatedAt: true,
		Sets:    []string{source.DsyncUserCreated, source.DsyncUserUpdated},
		Removes: []string{source.DsyncUserDeleted},
	},
	{
		Name: "feature_flag", Key: byID, UpdatedAt: true,
		Sets: []string{
			source.FeatureFlagsFlagCreated, source.FeatureFlagsFlagUpdated,
			source.FlagCreated, source.FlagRuleUpdated, source.FlagUpdated,
		},
		Removes: []string{source.FeatureFlagsFlagDeleted, source.FlagDeleted},
	},
	{
		Name: "flag_rule", Key: byID, UpdatedAt: true,
		Sets:    []string{source.FeatureFlagsFlagRuleCreated, source.FeatureFlagsFlagRuleUpdated},
		Removes: []string{source.FeatureFlagsFlagRuleDeleted},
	},
	{
		Name: "flag_target", Key: byID, UpdatedAt: true,
		Sets:    []string{source.FeatureFlagsFlagTargetCreated},
		Removes: []string{source.FeatureFlagsFlagTargetDeleted},
	},
	{
		Name: "group", Key: byID, UpdatedAt: true,
		Sets:    []string{source.GroupCreated, source.GroupUpdated},
		Removes: []string{source.GroupDeleted},
	},
	{
		Name: "group_membership", Key: []string{"group_id", "organization_membership_id"},
		Sets:    []string{source.GroupMemberAdded},
		Removes: []string{source.GroupMemberRemoved},
	},
	{
		Name: "invitation", Key: byID, UpdatedAt: true,
		Sets: []string{source.InvitationAccepted, source.InvitationCreated, source.InvitationResent, source.InvitationRevoked},
	},
	{
		Name: "organization", Key: byID, UpdatedAt: true,
		Sets:    []string{source.OrganizationCreated, source.OrganizationUpdated},
		Removes: []string{source.OrganizationDeleted},
	},
	{
		Name: "organization_domain", Key: byID, UpdatedAt: true,
		Sets: []string{
			source.OrganizationDomainCreated, source.OrganizationDomainUpdated,
			source.OrganizationDomainVerificationFailed, source.OrganizationDomainVerified,
		},
		Removes: []string{source.OrganizationDomainDeleted},
		within:  map[string]string{source.OrganizationDomainVerificationFailed: "organization_domain"},
	},
	{
		Name: "organization_membership", Key: byID, UpdatedAt: true,
		Sets:    []string{source.OrganizationMembershipCreated, source.OrganizationMembershipUpdated},
		Removes: []string{source.OrganizationMembershipDeleted},
	},
	{
		Name: "organization_role", Key: []string{"organization_id", "slug"}, UpdatedAt: true,
		Sets:    []string{source.OrganizationRoleCreated, source.OrganizationRoleUpdated},
		Removes: []string{source.OrganizationRoleDeleted},
	},
	{
		Name: "permission", Key: byID, UpdatedAt: true,
		Sets:    []string{source.PermissionCreated, source.PermissionUpdated},
		Removes: []string{source.PermissionDeleted},
	},
	{
		Name: "role", Key: bySlug, UpdatedAt: true,
		Sets:    []string{source.RoleCreated, source.RoleUpdated},
		Removes: []string{source.RoleDeleted},
	},
	{
		Name: "session", Key: byID, UpdatedAt: true,
		Sets:    []string{source.SessionCreated},
		Removes: []string{source.SessionRevoked},
	},
	{
		Name: "user", Key: byID, UpdatedAt: true,
		Sets:    []string{source.UserCreated, source.UserUpdated},
		Removes: []string{source.UserDeleted},
	},
	{
		Name: "waitlist_user", Key: byID, UpdatedAt: true,
		Sets: []string{source.WaitlistUserApproved, source.WaitlistUserCreated, source.WaitlistUserDenied},
	},
}

// Entities returns the table of all entities, sorted by name. The slice belongs to the caller, what
// its elements refer to is shared and must not be changed.
func Entities() []Entity { return slices.Clone(entities) }

// Lookup returns an entity by its name.
func Lookup(name string) (Entity, bool) {
	i, ok := slices.BinarySearchFunc(entities, name, func(e Entity, name string) int { return strings.Compare(e.Name, name) })
	if !ok {
		return Entity{}, false
	}
	return entities[i], true
}

// NameError says that a name is not that of an entity.
type NameError struct {
	Name    string
	Nearest string // name that was most likely meant; empty if none is near
}

// Error implements error.
func (e *NameError) Error() string {
	if e.Nearest != "" {
		return fmt.Sprintf("%q is not a known entity; did you mean %q?", e.Name, e.Nearest)
	}
	names := make([]string, len(entities))
	for i := range entities {
		names[i] = entities[i].Name
	}
	return fmt.Sprintf("%q is not a known entity; write \"*\" for all, or some of %s", e.Name, strings.Join(names, ", "))
}

// nameError returns the error for a name that is none.
func nameError(name string) error {
	const longest = 256
	out := &NameError{Name: name}
	if len(name) > longest {
		return out
	}
	limit := max(2, len(name)/3) + 1
	for i := range entities {
		if d := levenshtein.ComputeDistance(name, entities[i].Name); d < limit {
			out.Nearest, limit = entities[i].Name, d
		}
	}
	return out
}

// Check returns a *NameError if name is neither "*" nor the name of an entity.
func Check(name string) error {
	if _, ok := Lookup(name); ok || name == All {
		return nil
	}
	return nameError(name)
}

// All stands for every entity that a lane can keep: see Select.
const All = "*"

// MissingError says that an entity cannot be kept because the lane does not carry all events that
// change it.
type MissingError struct {
	Entity string
	Types  []string // event types that are missing, sorted
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s cannot be kept, because this sink does not carry %s: add to events what is missing, or leave the entity out",
		e.Entity, strings.Join(e.Types, ", "))
}

// Select returns the entities that names stand for, sorted and each once. types are the event types
// that the lane carries. "*" stands for each entity of which the lane carries every event type,
// those with a successor excepted. An entity that is named although the lane does not carry all of
// these is a *MissingError, since its objects would go stale. A name that is unknown is a
// *NameError.
func Select(names, types []string) ([]Entity, error) {
	var out []Entity
	for i := range entities {
		e := &entities[i]
		named := slices.Contains(names, e.Name)
		if !named && !slices.Contains(names, All) {
			continue
		}
		var missing []string
		for _, t := range e.Types() {
			// What has a successor may have ended; WorkOS says the same in events of the successor.
			if known, _ := source.Lookup(t); known.Successor == "" && !slices.Contains(types, t) {
				missing = append(missing, t)
			}
		}
		switch {
		case len(missing) == 0:
			out = append(out, *e)
		case named:
			return nil, &MissingError{Entity: e.Name, Types: missing}
		}
	}
	for _, name := range names {
		if err := Check(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}
