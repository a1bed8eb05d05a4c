package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// Reach asks for one event of these types, to see whether the endpoint, the key, the types and the organization are right. It
// retries nothing, except that it leaves out the types that the API refuses, to name them all in a *RefusedTypesError. An
// empty organizationID stands for all. Other errors are those of ListEvents, with what to look at.
func (c *Client) Reach(ctx context.Context, events []string, organizationID string) error {
	asked := slices.Clone(events)
	var refused []string
	var last *APIError
	for {
		_, err := c.ListEvents(ctx, ListEventsOpts{Events: asked, Limit: 1, Order: "asc", OrganizationID: organizationID})
		types := refusedTypes(err)
		if len(types) == 0 {
			if err = explain(err, organizationID); err != nil || len(refused) == 0 {
				return err
			}
			break
		}
		errors.As(err, &last)
		refused = append(refused, types...)
		asked = slices.DeleteFunc(asked, func(name string) bool { return slices.Contains(types, name) })
		if len(asked) == 0 {
			break
		}
	}
	slices.Sort(refused)
	return &RefusedTypesError{Types: refused, Err: last}
}

// explain adds to an error of a request what a person may look at.
func explain(err error, organizationID string) error {
	var (
		api       *APIError
		transport *TransportError
		hint      string
	)
	switch {
	case errors.Is(err, ErrTooLarge):
		return nil // an event was there to be read: everything asked of Reach is right
	case errors.As(err, &transport):
		hint = "check source.endpoint, and that this machine reaches it (DNS, firewall, proxy)"
	case !errors.As(err, &api):
		return err
	case api.Status == http.StatusUnauthorized:
		hint = "check WORKOS_API_KEY or source.api_key: it must be a whole secret key (sk_...), not revoked, of the right environment"
	case api.Status == http.StatusForbidden:
		hint = "the key is known but may not read events; check that the Events API is enabled for its environment"
	case api.Status == http.StatusNotFound, api.Status/100 == 3:
		hint = "check source.endpoint; WorkOS's is " + DefaultEndpoint
	case api.Status == http.StatusTooManyRequests:
		hint = "the key's rate limit is used up for the moment; its other users share it"
	case api.Status/100 == 4 && organizationID != "":
		hint = "check source.organization_id " + organizationID
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}
