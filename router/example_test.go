package router_test

import (
	"fmt"
	"time"

	"workos-relay/router"
	"workos-relay/source"
)

// Events of one directory go to one topic, so that they keep their order in Kafka too. Every other
// event goes to the topic that is named like its type.
func Example() {
	r, err := router.New(router.Config{
		Prefix: "workos.",
		Routes: []router.Route{{Events: []string{"dsync.user.*"}, Topic: "dsync.user", Key: "data.directory_id"}},
	})
	if err != nil {
		panic(err)
	}
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, e := range []source.Event{
		{ID: "event_01", Event: "dsync.user.created", CreatedAt: at, Data: []byte(`{"id":"directory_user_1","directory_id":"directory_1","organization_id":"org_1"}`)},
		{ID: "event_02", Event: "user.created", CreatedAt: at, Data: []byte(`{"id":"user_1"}`)},
	} {
		e.Raw = fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":%s}`, e.ID, e.Event, e.Data)
		messages, err := r.Route(&e)
		if err != nil {
			panic(err)
		}
		for _, m := range messages {
			fmt.Printf("%s, key %s\n", m.Topic, m.Key)
			for _, h := range m.Headers {
				fmt.Printf("  %s: %s\n", h.Key, h.Value)
			}
		}
	}
	// Output:
	// workos.dsync.user, key directory_1
	//   event-id: event_01
	//   event-type: dsync.user.created
	//   event-created-at: 2026-01-01T12:00:00.000Z
	//   organization-id: org_1
	// workos.user.created, key user_1
	//   event-id: event_02
	//   event-type: user.created
	//   event-created-at: 2026-01-01T12:00:00.000Z
}
