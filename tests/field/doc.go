// Package field shows that relay keeps its promises under the conditions that users report from the
// field: connections that stall, error pages of load balancers, deleted streams, rotated
// credentials, full quotas. Each test runs the built binary with the defaults that users get
// (delivery: auto, the default takeover_after, a configuration file) against real parts.
//
// A file holds one kind of condition. harness_test.go, api_test.go, nats_test.go and kafka_test.go
// hold what the tests share.
//
// What it does not show: how relay behaves over hours, and what happens when several conditions
// come together (see tests/chaos and
// tests/soak).
package field
