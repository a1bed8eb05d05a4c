// Package telemetry is what relay tells about itself: its logger, and its metrics for Prometheus.
// Every metric is declared in one table, from which both the collectors and docs/metrics.md are
// made.
package telemetry
