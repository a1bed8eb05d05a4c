package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Reach asks for one event of these types, to see whether the endpoint, the key, the types and the
// organization are right. It retries nothing. If the API refuses some of the types, it finds all of
// them with further requests and names them in a *RefusedTypesError. An empty organizationID stands
// for all organizations. Other errors are those of ListEvents, with what to check.
func (c *Client) Reach(ctx context.Context, events []string, organizationID string) error {
	send := func(ctx context.Context, opts ListEventsOpts) (answer, error) {
		if _, err := c.wait(ctx); err != nil {
			return answer{}, err
		}
		return c.fetchAs(ctx, opts, reading{explain: true})
	}
	base := ListEventsOpts{Events: events, Limit: 1, OrganizationId: organizationID}
	_, err := send(ctx, base)
	var cause *APIError
	if !mayRefuseTypes(err) || !errors.As(err, &cause) {
		return addRequestHint(err, organizationID)
	}
	found, searchErr := findRefused(ctx, send, base, events, nil, cause, true)
	switch {
	case searchErr != nil:
		return addRequestHint(searchErr, organizationID)
	case len(found.refused) == 0 || !found.good && !cause.blamesEvents():
		return addRequestHint(err, organizationID)
	case !found.good && len(found.refused) < len(events):
		return fmt.Errorf("%w: %w", ErrAllRefused, err)
	}
	slices.Sort(found.refused)
	return &RefusedTypesError{Types: found.refused, Err: found.errs[found.refused[0]]}
}

// addRequestHint adds to an error of a request what an operator should check.
func addRequestHint(err error, organizationID string) error {
	var (
		api       *APIError
		transport *TransportError
		unusable  *ResponseError
		hint      string
	)
	switch {
	case errors.Is(err, ErrTooLarge):
		return nil // an event was there to be read: everything asked of Reach is right
	case errors.As(err, &transport) && saysWhatToDo(transport.Err):
		return err
	case errors.As(err, &transport) && errors.Is(err, http.ErrSchemeMismatch):
		hint = "what answers there speaks no TLS: write http:// in source.endpoint, or name its TLS port"
	case errors.As(err, &transport):
		hint = "check source.endpoint, and that this machine reaches it (DNS, firewall, proxy)"
	case errors.As(err, &unusable):
		hint = "check source.endpoint, and any proxy, firewall or load balancer in between; WorkOS's is " + DefaultEndpoint
	case !errors.As(err, &api):
		return err
	case api.Status == http.StatusBadRequest && strings.Contains(api.Message, "HTTP request to an HTTPS server"):
		hint = "what answers there speaks TLS: write https:// in source.endpoint"
	case api.Foreign && isClientFault(err):
		hint = "the answer is not WorkOS's: check source.endpoint, and any proxy, firewall or load balancer in between"
	case api.Status == http.StatusUnauthorized:
		hint = "check WORKOS_API_KEY or source.api_key: it must be a whole secret key (sk_...), not revoked, of the right environment"
	case api.Status == http.StatusForbidden:
		hint = "the key is known but may not read events; check that the Events API is enabled for its environment"
	case api.Status == http.StatusNotFound, api.Status/100 == 3:
		hint = "check source.endpoint; WorkOS's is " + DefaultEndpoint
	case api.Status == http.StatusTooManyRequests:
		hint = "the key's rate limit is used up for the moment; its other users share it"
	case api.Status/100 == 5:
		hint = "the fault is on the side of WorkOS, or of a proxy or load balancer in between: try again later"
	case api.Status/100 == 4 && organizationID != "":
		hint = "check source.organization_id " + organizationID
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}

// saysWhatToDo reports whether an error of the connection names its own remedy.
func saysWhatToDo(err error) bool {
	var proxy *ProxyError
	var certificate *CertificateError
	return errors.As(err, &proxy) || errors.As(err, &certificate) || clientCertificateHint(err, true) != ""
}
