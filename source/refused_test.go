//nolint:bodyclose // a fault is a function that makes a response; the client closes it
package source

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// typeRefusals are ways to refuse an event type. Each is given the first name that is refused, and
// all names asked for.
var typeRefusals = map[string]func(name string, asked []string) *http.Response{
	"live": func(name string, _ []string) *http.Response {
		return respond(400, `{"message":"Invalid event '`+name+`'","code":"invalid_events_request"}`)
	},
	"documented, by code and field": func(string, []string) *http.Response {
		return respond(422, `{"message":"Validation failed","errors":[{"code":"invalid_event","field":"events"}]}`)
	},
	"422 in the live wording": func(name string, _ []string) *http.Response {
		return respond(422, `{"message":"Invalid event '`+name+`'","code":"invalid_events_request"}`)
	},
	"double quotes": func(name string, _ []string) *http.Response {
		return respond(400, fmt.Sprintf(`{"message":"unknown event type \"%s\""}`, name))
	},
	"no quotes, end of sentence": func(name string, _ []string) *http.Response {
		return respond(400, `{"message":"No such event type: `+name+`."}`)
	},
	"by index": func(name string, asked []string) *http.Response {
		return respond(422, fmt.Sprintf(`{"message":"Validation failed","errors":[{"code":"enum","field":"events[%d]"}]}`, slices.Index(asked, name)))
	},
	"errors as texts": func(string, []string) *http.Response {
		return respond(422, `{"message":"Unprocessable","errors":["each value in events must be a valid enum value"]}`)
	},
	"it names every valid type but not the wrong one": func(name string, asked []string) *http.Response {
		return respond(400, `{"message":"each value in events must be one of `+strings.Join(without(asked, []string{name}), ", ")+`"}`)
	},
	"it repeats the whole list": func(_ string, asked []string) *http.Response {
		return respond(400, `{"message":"cannot use `+strings.Join(asked, ",")+`"}`)
	},
	"it names nothing": func(string, []string) *http.Response { return respond(422, `{"message":"Validation failed"}`) },
	"other error shape": func(string, []string) *http.Response {
		return respond(400, `{"error":"invalid_request","error_description":"no"}`)
	},
	"field in another key": func(string, []string) *http.Response {
		return respond(422, `{"message":"m","details":{"events":["bad"]}}`)
	},
}

// refusing answers requests that ask for one of names as how does.
func refusing(how func(string, []string) *http.Response, names ...string) func(int, url.Values) (*http.Response, error) {
	return func(_ int, q url.Values) (*http.Response, error) {
		asked := strings.Split(q.Get("events"), ",")
		for _, name := range asked {
			if slices.Contains(names, name) {
				return how(name, asked), nil
			}
		}
		return nil, nil
	}
}

func TestRefusedTypesAreFoundInAnyWording(t *testing.T) {
	t.Parallel()
	all, err := Expand([]string{"*"})
	require.NoError(t, err)
	for name, how := range typeRefusals {
		for _, bad := range [][]string{
			{all[0]}, {all[len(all)-1]}, {all[3], all[4]}, {all[1], all[40], all[80]},
			{"dsync.user.updated"}, // its name ends like another's
		} {
			if slices.Contains(bad, UserCreated) {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{fault: refusing(how, bad...)}
				api.add(250, epoch.Add(-time.Hour))
				s, _ := api.stream()
				s.Events = all
				var refused []string
				s.Hooks.OnTypeRefused = func(i TypeRefusedInfo) { refused = append(refused, i.Type) }
				s.Hooks.OnRetry = func(i RetryInfo) { t.Errorf("a refused type is not a failure: %v", i) }
				for _, after := range []checkpoint.Position{{}, {EventID: "event_000010", CreatedAt: epoch.Add(-time.Hour)}} {
					refused = nil
					before := api.requests()
					pages, err := take(t, s, after, 1)
					require.NoError(t, err, name)
					require.Len(t, ids(pages), MaxLimit)
					slices.Sort(refused)
					require.Equal(t, slices.Sorted(slices.Values(bad)), refused, name)
					require.LessOrEqual(t, api.requests()-before, 4+16*len(bad), name) // one looks at the position
				}
				c := &Client{APIKey: testKey, EventList: EventListComma, HTTPClient: s.Client.HTTPClient}
				var e *RefusedTypesError
				require.ErrorAs(t, c.Reach(t.Context(), all, ""), &e, name)
				require.Equal(t, slices.Sorted(slices.Values(bad)), e.Types, name)
			})
		}
	}
}

// A refusal of something else leaves no type out, even if its text names types.
func TestAnotherRefusalLeavesNoTypeOut(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"it names a type":      `{"message":"organization of 'user.created' not found"}`,
		"it speaks of events":  `{"message":"the events of this organization are not for you","code":"invalid_events_request"}`,
		"it says nothing":      `{"message":"no"}`,
		"another field":        `{"message":"Validation failed","errors":[{"code":"invalid","field":"organization_id"}]}`,
		"it names all of them": `{"message":"user.created, user.updated and user.deleted are not for you"}`,
	} {
		for _, status := range []int{400, 422} {
			synctest.Test(t, func(t *testing.T) {
				refuse := 1 // the next request; then it is right again
				api := &fakeAPI{}
				api.fault = func(int, url.Values) (*http.Response, error) {
					if refuse--; refuse == 0 {
						return respond(status, body), nil
					}
					return nil, nil
				}
				api.add(5, epoch)
				s, _ := api.stream()
				s.Events = []string{UserCreated, UserUpdated, UserDeleted}
				s.Hooks.OnTypeRefused = func(i TypeRefusedInfo) { t.Errorf("%s: %s is left out", name, i.Type) }
				pages, err := take(t, s, checkpoint.Position{EventID: "event_000001", CreatedAt: epoch}, 1)
				require.NoError(t, err)
				require.Equal(t, numbered(2, 4), ids(pages))
			})
		}
	}
}

// An API that refuses everything is not asked for each type over and over.
func TestTheSearchIsBounded(t *testing.T) {
	t.Parallel()
	all, err := Expand([]string{"*"})
	require.NoError(t, err)
	for body, most := range map[string]int{
		`{"message":"Organization not found"}`:                                        20,
		`{"message":"The events parameter is required","code":"invalid_events_list"}`: 80,
	} {
		api := &fakeAPI{fault: func(int, url.Values) (*http.Response, error) { return respond(400, body), nil }}
		s, _ := api.stream()
		require.Error(t, s.Client.Reach(t.Context(), all, "org_1"))
		require.LessOrEqual(t, api.requests(), most)
	}
}

func TestNamesType(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"user.created": true, `"user.created"`: true, "x 'user.created'.": true, "user.created.": true, "a user.created. b": true, "user.created,b": true,
		"dsync.user.created": false, "user.created.late": false, "user.created_at": false, "user_created": false, "": false,
		"dsync.user.created user.created": true,
	} {
		require.Equal(t, want, namesType(text, UserCreated), text)
	}
}
