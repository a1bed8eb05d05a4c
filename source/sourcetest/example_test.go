package sourcetest_test

import (
	"fmt"
	"io"
	"net/http"

	"workos-relay/source/sourcetest"
)

func Example() {
	srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 1000, Seed: 1}))
	srv.Fail(1, sourcetest.Status(http.StatusServiceUnavailable)) // the first request fails

	for range 2 {
		req, _ := http.NewRequest(http.MethodGet, srv.URL()+"/events?events=organization.created&order=asc&limit=1", nil)
		req.Header.Set("Authorization", "Bearer "+sourcetest.DefaultAPIKey)
		resp, err := srv.Client().Do(req) // in memory; srv.Start gives it a socket
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		fmt.Println(resp.Status)
	}
	fmt.Println(srv.Count(), "requests,", srv.Stats().Events, "event")
	// Output:
	// 503 Service Unavailable
	// 200 OK
	// 2 requests, 1 event
}
