package source_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-querystring/query"
	"github.com/stretchr/testify/require"

	events "workos-relay/source"
	"workos-relay/source/common"
)

// The tests below are a program for the events package of WorkOS's Go SDK, written from its
// documentation. Only its import paths are those of this module.

// listed is the response that the program expects: nothing but what the SDK's type has.
var listed = events.ListEventsResponse{
	Data: []events.Event{{
		ID: "event_01HZX3", Event: events.DirectoryUserCreated, Data: json.RawMessage(`{"id":"directory_user_01"}`),
		CreatedAt: time.Date(2026, 11, 1, 12, 0, 0, 5e6, time.UTC),
	}},
	ListMetadata: common.ListMetadata{After: "event_01HZX3"},
}

// serveListed answers as a test server of such a program does: with the marshalled response, which
// has no "object".
func serveListed(t *testing.T, seen *url.Values) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer test" {
			http.Error(w, "bad auth", http.StatusUnauthorized)
			return
		}
		if !strings.Contains(r.Header.Get("User-Agent"), "workos-go/") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		*seen = r.URL.Query()
		_ = json.NewEncoder(w).Encode(struct{ events.ListEventsResponse }{listed})
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestSeedClient(t *testing.T) {
	t.Parallel()
	var seen url.Values
	srv := serveListed(t, &seen)
	for name, httpClient := range map[string]*http.Client{"the server's": srv.Client(), "the zero one": {}, "none": nil} {
		client := &events.Client{HTTPClient: httpClient, Endpoint: srv.URL, APIKey: "test"}
		got, err := client.ListEvents(context.Background(), events.ListEventsOpts{
			Events:         []string{events.DirectoryUserCreated, events.ConnectionActivated},
			OrganizationId: "org_1234",
			RangeStart:     "2026-11-01T00:00:00Z",
			RangeEnd:       "2026-11-02T00:00:00Z",
		})
		require.NoError(t, err, name)
		require.Equal(t, listed, got, name)
		require.Equal(t, url.Values{
			"events": {"dsync.user.created", "connection.activated"}, "limit": {"10"}, "organization_id": {"org_1234"},
			"range_start": {"2026-11-01T00:00:00Z"}, "range_end": {"2026-11-02T00:00:00Z"},
		}, seen, name)
	}
}

func TestSeedDefaultClient(t *testing.T) {
	t.Parallel()
	require.Equal(t, "https://api.workos.com", events.DefaultClient.Endpoint)
	require.Equal(t, 10, events.ResponseLimit)
	var seen url.Values
	srv := serveListed(t, &seen)
	before := events.DefaultClient
	defer func() { events.DefaultClient = before }()
	events.DefaultClient = &events.Client{HTTPClient: srv.Client(), Endpoint: srv.URL}
	events.SetAPIKey("test")

	var all []events.Event
	after := ""
	for range 2 {
		page, err := events.ListEvents(context.Background(), events.ListEventsOpts{Events: []string{events.UserCreated}, Limit: 1, After: after})
		require.NoError(t, err)
		require.Equal(t, after, seen.Get("after"))
		all = append(all, page.Data...)
		after = page.ListMetadata.After
	}
	require.Len(t, all, 2)
	require.Equal(t, url.Values{"events": {"user.created"}, "limit": {"1"}, "after": {"event_01HZX3"}}, seen)

	events.SetAPIKey("wrong")
	_, err := events.ListEvents(context.Background(), events.ListEventsOpts{Events: []string{events.UserCreated}})
	require.ErrorContains(t, err, "401")
}

// TestSeedQuery encodes the options as a program does that builds its own requests.
func TestSeedQuery(t *testing.T) {
	t.Parallel()
	values, err := query.Values(events.ListEventsOpts{Events: []string{"a.b", "c.d"}, Limit: 5, After: "event_1"})
	require.NoError(t, err)
	require.Equal(t, "after=event_1&events=a.b&events=c.d&limit=5", values.Encode())
	text, err := json.Marshal(struct{ events.ListMetadata }{common.ListMetadata{Before: "a", After: "b"}})
	require.NoError(t, err)
	require.JSONEq(t, `{"before":"a","after":"b"}`, string(text))
}

func TestSeedConstants(t *testing.T) {
	t.Parallel()
	for have, want := range map[string]string{
		events.ConnectionActivated:                      "connection.activated",
		events.ConnectionDeactivated:                    "connection.deactivated",
		events.ConnectionDeleted:                        "connection.deleted",
		events.DirectoryActivated:                       "dsync.activated",
		events.DirectoryDeleted:                         "dsync.deleted",
		events.DirectoryUserCreated:                     "dsync.user.created",
		events.DirectoryUserUpdated:                     "dsync.user.updated",
		events.DirectoryUserDeleted:                     "dsync.user.deleted",
		events.DirectoryGroupCreated:                    "dsync.group.created",
		events.DirectoryGroupUpdated:                    "dsync.group.updated",
		events.DirectoryGroupDeleted:                    "dsync.group.deleted",
		events.DirectoryGroupUserAdded:                  "dsync.group.user_added",
		events.DirectoryGroupUserRemoved:                "dsync.group.user_removed",
		events.OrganizationCreated:                      "organization.created",
		events.OrganizationUpdated:                      "organization.updated",
		events.OrganizationDeleted:                      "organization.deleted",
		events.AuthenticationEmailVerificationSucceeded: "authentication.email_verification_succeeded",
		events.AuthenticationMagicAuthFailed:            "authentication.magic_auth_failed",
		events.AuthenticationMagicAuthSucceeded:         "authentication.magic_auth_succeeded",
		events.AuthenticationMfaSucceeded:               "authentication.mfa_succeeded",
		events.AuthenticationOauthFailed:                "authentication.oauth_failed",
		events.AuthenticationOauthSucceeded:             "authentication.oauth_succeeded",
		events.AuthenticationPasswordFailed:             "authentication.password_failed",
		events.AuthenticationPasswordSucceeded:          "authentication.password_succeeded",
		events.AuthenticationSsoFailed:                  "authentication.sso_failed",
		events.AuthenticationSsoSucceeded:               "authentication.sso_succeeded",
		events.UserCreated:                              "user.created",
		events.UserUpdated:                              "user.updated",
		events.UserDeleted:                              "user.deleted",
		events.OrganizationMembershipAdded:              "organization_membership.added", //nolint:staticcheck // the SDK still has it
		events.OrganizationMembershipCreated:            "organization_membership.created",
		events.OrganizationMembershipDeleted:            "organization_membership.deleted",
		events.OrganizationMembershipUpdated:            "organization_membership.updated",
		events.OrganizationMembershipRemoved:            "organization_membership.removed", //nolint:staticcheck // the SDK still has it
		events.SessionCreated:                           "session.created",
		events.EmailVerificationCreated:                 "email_verification.created",
		events.InvitationCreated:                        "invitation.created",
		events.MagicAuthCreated:                         "magic_auth.created",
		events.PasswordResetCreated:                     "password_reset.created",
		events.OrganizationDomainVerified:               "organization_domain.verified",
		events.OrganizationDomainVerificationFailed:     "organization_domain.verification_failed",
	} {
		require.Equal(t, want, have)
	}
	require.Equal(t, events.DirectoryGroupUserRemoved, events.DirectroyGroupUserRemoved) //nolint:staticcheck // the SDK's own misspelling
}
