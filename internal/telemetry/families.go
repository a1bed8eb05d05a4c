package telemetry

import (
	"strings"

	"workos-relay/pipeline"
)

// family declares one metric: the collectors and the reference page are made of it.
type family struct {
	section  section
	kind     kind
	name     string
	help     string // one sentence, complete without the name
	labels   []string
	buckets  []float64 // of a histogram
	native   bool      // a native histogram as well, for a Prometheus that asks for it
	snapshot bool      // a gauge that is read from a lane's Status at each scrape, not counted as things happen
}

type kind string

const (
	counter   kind = "counter"
	gauge     kind = "gauge"
	histogram kind = "histogram"
)

type section string

const (
	sectionLane    section = "Lanes"
	sectionEvents  section = "Events"
	sectionSource  section = "Events API"
	sectionProcess section = "Process"
)

// Labels, and what they stand for on the reference page.
const (
	labelLane      = "lane"
	labelType      = "type"
	labelOutcome   = "outcome"
	labelState     = "state"
	labelHealth    = "health"
	labelHolder    = "holder"
	labelSelf      = "self"
	labelDoing     = "doing"
	labelEntity    = "entity"
	labelFinding   = "finding"
	labelOf        = "of"
	labelStage     = "stage"
	labelStatus    = "status"
	labelReason    = "reason"
	labelResult    = "result"
	labelVersion   = "version"
	labelGoVersion = "go_version"
)

var labelHelp = []struct{ name, help string }{
	{labelLane, "name of the sink"},
	{labelType, "event type; `other` for every type that this version of relay does not know"},
	{labelOutcome, "published; dropped: a route drops it; parked: as a dead letter, since it could never be published; of objects of a snapshot also removed: " +
		"WorkOS does not have it any more; skipped: it could never be published"},
	{labelEntity, "kind of object, as in `state.entities`"},
	{labelFinding, "what [verify](operate.md#see-whether-the-bus-holds-what-workos-has-relay-verify) found: missing, duplicate, misrouted, altered, out_of_order; of the state: state_missing, state_stale, state_ghost"},
	{labelOf, "events or objects"},
	{labelState, listed(pipeline.States())},
	{labelHolder, "a process, by `instance` or host, process id and start time, and the checkpoint directory of the lane that it uses"},
	{labelSelf, "this process, in the words of `holder`"},
	{labelHealth, "healthy; degraded: it is not ready, or the Events API or the bus has failed for 10 seconds, and that may pass; action_needed: an operator has to act"},
	{labelStage, "publish and commit: the two of at_least_once; publish_and_commit: the one act of exactly_once"},
	{labelDoing, "what failed: publishing, taking up the position, renewing the position, reading the state back (for a snapshot), or other"},
	{labelStatus, "status code of the answer; codes that are rare by class, such as `5xx`"},
	{labelResult, "of spans and exports: exported or failed; of webhooks: accepted; repeated: accepted before; wrong_signature; wrong_time; wrong_method; too_large; broken"},
	{labelReason, "of requests to the admin address: no_credentials; wrong_credentials; too_many_guesses: the client sends too many wrong tokens, so " +
		"this one was not compared; other_host: without a token, addressed to another name than loopback; other_origin: made by a web page of another " +
		"origin; no_header: without `Relay-Request`. Of retries: transport: no answer; response: an answer cut off or malformed; rate_limited: 429; server: 408 or 5xx; " +
		"unauthorized: 401 or 403; redirect: to another host; refused: another 4xx, or an error page that is not WorkOS's"},
	{labelVersion, "version of relay"},
	{labelGoVersion, "version of Go that it was built with"},
}

// listed is "starting, running or stopped".
func listed[T ~string](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	last := len(texts) - 1
	return strings.Join(texts[:last], ", ") + " or " + texts[last]
}

// declared is every family, in the order of the reference page.
var declared []*family

func declare(f family) *family {
	declared = append(declared, &f)
	return &f
}

var lane = []string{labelLane}

var (
	laneState = declare(family{section: sectionLane, kind: gauge, name: "relay_lane_state", snapshot: true, labels: []string{labelLane, labelState},
		help: "1 for the state that the lane is in, 0 for the others."})
	laneReady = declare(family{section: sectionLane, kind: gauge, name: "relay_lane_ready", snapshot: true, labels: lane,
		help: "1 if /readyz finds the lane ready: it makes progress, or stands by; else 0."})
	laneHealth = declare(family{section: sectionLane, kind: gauge, name: "relay_lane_health", snapshot: true, labels: []string{labelLane, labelHealth},
		help: "1 for the health that the status page and `relay status` show of the lane, 0 for the others."})
	laneHolder = declare(family{section: sectionLane, kind: gauge, name: "relay_lane_holder_info", snapshot: true, labels: []string{labelLane, labelHolder, labelSelf},
		help: "1. `holder` holds the lane's lease, as this process read it last, and is empty if nobody is known to hold it; `self` is this process. A process whose two labels are equal is the active one."})
	laneLag = declare(family{section: sectionLane, kind: gauge, name: "relay_lag_seconds", snapshot: true, labels: lane,
		help: "How far the lane is behind the Events API, by the API's clock: the age of the oldest event that is not committed; 0 if its last good answer had nothing more. Absent before the first answer, on a standby, once the lane has stopped, and if the API does not answer a lane that had everything."})
	laneUnacked = declare(family{section: sectionLane, kind: gauge, name: "relay_unacknowledged_seconds", snapshot: true, labels: lane,
		help: "How long the oldest event that was read has waited for the bus to acknowledge it; 0 if none waits."})
	lanePrefetch = declare(family{section: sectionLane, kind: gauge, name: "relay_prefetch_bytes", snapshot: true, labels: lane,
		help: "Bytes of responses that are read and not committed; what a backfill reads ahead is in `relay_source_backfill_buffered_bytes`."})
	laneLastPoll = declare(family{section: sectionLane, kind: gauge, name: "relay_last_poll_timestamp_seconds", snapshot: true, labels: lane,
		help: "When the Events API last gave a good answer; 0 before the first."})
	laneAtTip = declare(family{section: sectionLane, kind: gauge, name: "relay_at_tip", snapshot: true, labels: lane,
		help: "1 if everything that the Events API has is committed, else 0."})
	laneTip = declare(family{section: sectionLane, kind: gauge, name: "relay_tip_timestamp_seconds", snapshot: true, labels: lane,
		help: "When everything that the Events API had was last committed; 0 if that has not happened since the start."})
	lanePosition = declare(family{section: sectionLane, kind: gauge, name: "relay_position_timestamp_seconds", snapshot: true, labels: lane,
		help: "The created_at of the committed position; absent if it has none."})
	snapshotRunning = declare(family{section: sectionLane, kind: gauge, name: "relay_snapshot_running", snapshot: true, labels: lane,
		help: "1 while this process reads a snapshot of the lane, for which its events wait, else 0. Absent of a lane without a snapshot."})
	snapshotObjects = declare(family{section: sectionLane, kind: gauge, name: "relay_snapshot_objects", snapshot: true, labels: []string{labelLane, labelEntity, labelOutcome},
		help: "Objects of the lane's last snapshot, or of the one that goes on, by entity and outcome. It begins at 0 with the next one; what was read again after a restart counts again."})
	snapshotLeft = declare(family{section: sectionLane, kind: gauge, name: "relay_snapshot_remaining_entities", snapshot: true, labels: lane,
		help: "Entities that the snapshot has not read to the end. Absent of a lane without a snapshot."})
	snapshotTime = declare(family{section: sectionLane, kind: gauge, name: "relay_snapshot_remaining_seconds", snapshot: true, labels: lane,
		help: "About how much longer the snapshot takes. Absent if none goes on, or if nothing tells: WorkOS does not say how many objects it has."})
	snapshotSuccess = declare(family{section: sectionLane, kind: gauge, name: "relay_snapshot_last_success_timestamp_seconds", snapshot: true, labels: lane,
		help: "When a snapshot of the lane was last finished, by WorkOS's clock; 0 if none was. Absent of a lane without a snapshot."})
	stateUnread = declare(family{section: sectionLane, kind: gauge, name: "relay_state_unread_entities", snapshot: true, labels: lane,
		help: "Entities whose state topics may lack objects that no event has told of: no snapshot has read them as a whole, since none was asked for or WorkOS refuses a list."})
	verifySuccess = declare(family{section: sectionLane, kind: gauge, name: "relay_verify_last_success_timestamp_seconds", labels: lane,
		help: "When a verification of the lane by itself (`verify.every`) last came to its end, with faults or without. A run that could compare no event, or not the state as well, does not count. This and the other `relay_verify_*` but the counter are absent before the first, and once another relay has the lane."})
	verifyDuration = declare(family{section: sectionLane, kind: gauge, name: "relay_verify_duration_seconds", labels: lane,
		help: "How long the last verification of the lane took, with its waits while a lane was behind."})
	verifyChecked = declare(family{section: sectionLane, kind: gauge, name: "relay_verify_checked", labels: []string{labelLane, labelOf},
		help: "How many events and objects of the state the last verification of the lane compared. Events that the bus does not keep any more do not count."})
	verifyFaults = declare(family{section: sectionLane, kind: gauge, name: "relay_verify_faults", labels: []string{labelLane, labelFinding},
		help: "Faults that the last verification of the lane found, by finding. `relay verify` shows each."})
	verifyFailures = declare(family{section: sectionLane, kind: counter, name: "relay_verify_failed_runs_total", labels: lane,
		help: "Verifications of the lane that were not finished, since WorkOS or the bus did not answer. Runs that were put off, because the lane was paused for example, do not count."})
	laneEvents = declare(family{section: sectionLane, kind: counter, name: "relay_committed_events_total", labels: lane,
		help: "Committed events: the sum of `relay_events_total` over its types and outcomes."})

	eventsTotal = declare(family{section: sectionEvents, kind: counter, name: "relay_events_total", labels: []string{labelLane, labelType, labelOutcome},
		help: "Committed events by type and outcome; series of dropped and parked exist from the first such event on."})
	droppedEvents = declare(family{section: sectionEvents, kind: counter, name: "relay_dropped_events_total", labels: lane,
		help: "Committed events that a route drops."})
	whereFailures = declare(family{section: sectionEvents, kind: counter, name: "relay_where_failures_total", labels: lane,
		help: "How often the `where` of a route could not be evaluated for an event, which went on to the next route; an event that is tried again counts again."})
	deadLetters = declare(family{section: sectionEvents, kind: counter, name: "relay_dead_letters_total", labels: lane,
		help: "Committed events that could never be published as they are, and were parked as a dead letter."})
	publishedMessages = declare(family{section: sectionEvents, kind: counter, name: "relay_published_messages_total", labels: lane,
		help: "Messages that the bus has acknowledged, dead letters included."})
	publishedBytes = declare(family{section: sectionEvents, kind: counter, name: "relay_published_bytes_total", labels: lane,
		help: "Bytes in the bodies of those messages."})
	eventDelivery = declare(family{section: sectionEvents, kind: histogram, name: "relay_event_delivery_seconds", labels: lane, native: true,
		buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600},
		help: "Time from an event's created_at, by WorkOS's clock, until the bus had acknowledged it and the position was committed, dead letters included. " +
			"Events that are older than this process waited for it to start, and do not count. " +
			"If the clock of this machine is off, relay corrects the time by what the Date headers of the API prove, which leaves an error below about a second; a time is never negative."})
	appendDuration = declare(family{section: sectionEvents, kind: histogram, name: "relay_append_duration_seconds", labels: lane, native: true,
		buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		help:    "Time to publish a batch, have it acknowledged and move the position."})
	stageDuration = declare(family{section: sectionEvents, kind: histogram, name: "relay_stage_duration_seconds", labels: []string{labelLane, labelStage}, native: true,
		buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		help:    "Time of each successful operation on the bus or the checkpoint; commits of the position alone renew the lease."})
	appendEvents = declare(family{section: sectionEvents, kind: histogram, name: "relay_append_events", labels: lane,
		buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 400, 600, 800, 1000, 2000, 3000},
		help:    "Events committed by one batch; large ones mean that the lane was behind."})
	appendMessages = declare(family{section: sectionEvents, kind: histogram, name: "relay_append_messages", labels: lane,
		buckets: []float64{0, 1, 2, 5, 10, 20, 50, 100, 200, 400, 600, 800, 1000, 2000, 3000},
		help:    "Messages of such a batch."})
	appendBytes = declare(family{section: sectionEvents, kind: histogram, name: "relay_append_bytes", labels: lane,
		buckets: []float64{0, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 32 << 20},
		help:    "Bytes in the bodies of such a batch."})
	appendFailures = declare(family{section: sectionEvents, kind: counter, name: "relay_append_failures_total", labels: []string{labelLane, labelDoing},
		help: "Failed attempts on the bus or the checkpoint, which were retried."})

	sourceRequests = declare(family{section: sectionSource, kind: counter, name: "relay_source_requests_total", labels: []string{labelLane, labelStatus},
		help: "Requests that were answered, by status; those without an answer are in `relay_source_retries_total`."})
	sourceDuration = declare(family{section: sectionSource, kind: histogram, name: "relay_source_request_duration_seconds", labels: lane, native: true,
		buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		help:    "Time from sending a request to the last byte of its answer."})
	sourceBytes = declare(family{section: sectionSource, kind: counter, name: "relay_source_response_bytes_total", labels: lane,
		help: "Bytes in the bodies of answers 200, decompressed."})
	sourceEvents = declare(family{section: sectionSource, kind: counter, name: "relay_source_events_total", labels: lane,
		help: "Events read; what is read again counts again."})
	sourceRetries = declare(family{section: sectionSource, kind: counter, name: "relay_source_retries_total", labels: []string{labelLane, labelReason},
		help: "Requests that failed temporarily and were retried."})
	sourceRetryWait = declare(family{section: sectionSource, kind: counter, name: "relay_source_retry_wait_seconds_total", labels: lane,
		help: "Time set aside between failed requests and the next attempt."})
	sourceRateLimited = declare(family{section: sectionSource, kind: counter, name: "relay_source_rate_limited_total", labels: lane,
		help: "Answers 429: the API key's rate limit, which your own application shares, was used up."})
	sourceLimiterWait = declare(family{section: sectionSource, kind: counter, name: "relay_source_limiter_wait_seconds_total", labels: lane,
		help: "Time that requests waited for relay's own `source.rate_limit`."})
	sourcePollInterval = declare(family{section: sectionSource, kind: gauge, name: "relay_source_poll_interval_seconds", labels: lane,
		help: "Time from the last poll to the next one: `source.poll_interval`, less while events come, see `source.poll_fastest`; a webhook polls sooner. 0 before everything has been read once."})
	sourceRefused = declare(family{section: sectionSource, kind: gauge, name: "relay_source_refused_type", labels: []string{labelLane, labelType},
		help: "1 while the Events API refuses an event type, or until what came meanwhile is published; for `other` how many; absent for types never refused."})
	sourceInversions = declare(family{section: sectionSource, kind: counter, name: "relay_source_inversions_total", labels: lane,
		help: "Events that the API listed after a younger one; they are relayed in the API's order."})
	sourceRepeated = declare(family{section: sectionSource, kind: counter, name: "relay_source_repeated_events_total", labels: lane,
		help: "Events that the API sent again although they had been read, as pages that overlap do; they are left out."})
	sourceUnexpected = declare(family{section: sectionSource, kind: counter, name: "relay_source_unexpected_events_total", labels: lane,
		help: "Events of a type that was not asked for; they are left out, or relayed with `source.unexpected: relay`."})
	sourceOddPayloads = declare(family{section: sectionSource, kind: counter, name: "relay_source_odd_payloads_total", labels: []string{labelLane, labelType},
		help: "Events whose payload does not fit the schema that WorkOS publishes; they are relayed as they are. Of each type the first 40 are compared, then one in 32."})

	backfillReaders = declare(family{section: sectionSource, kind: gauge, name: "relay_source_backfill_readers", labels: lane,
		help: "Requests of the lane's backfill in flight; 0 if it reads page after page."})
	backfillBuffered = declare(family{section: sectionSource, kind: gauge, name: "relay_source_backfill_buffered_bytes", labels: lane,
		help: "Bytes that the lane's backfill has read ahead; bounded by `source.backfill.memory`."})
	backfillDropped = declare(family{section: sectionSource, kind: counter, name: "relay_source_backfill_dropped_segments_total", labels: lane,
		help: "Parts of a backlog that were read, discarded and read again."})
	webhookRequests = declare(family{section: sectionSource, kind: counter, name: "relay_webhook_requests_total", labels: []string{labelResult},
		help: "Requests to the webhook address, by result; only accepted ones wake relay."})
	webhookUnasked = declare(family{section: sectionSource, kind: counter, name: "relay_webhook_unasked_total", labels: []string{labelType},
		help: "Accepted webhooks of an event type that relay does not ask for, so that its events are not published; `other` for types that it does not know."})

	reloadTaken = declare(family{section: sectionProcess, kind: gauge, name: "relay_config_last_reload_successful",
		help: "1 if the last reload of the configuration succeeded, or there was none; 0 if it was rejected, so that the earlier configuration stays in effect."})
	reloadTime = declare(family{section: sectionProcess, kind: gauge, name: "relay_config_last_reload_success_timestamp_seconds",
		help: "When the current configuration was loaded, by a reload or at startup."})
	adminRefused = declare(family{section: sectionProcess, kind: counter, name: "relay_admin_refused_total", labels: []string{labelReason},
		help: "Requests to the admin address that were refused access, and probes that carry a wrong token. The first request of each browser has no credentials."})
	traceSpans = declare(family{section: sectionProcess, kind: counter, name: "relay_trace_spans_total", labels: []string{labelResult},
		help: "Spans handed to the collector, or lost because it did not take them; 0 if traces are off."})
	metricExports = declare(family{section: sectionProcess, kind: counter, name: "relay_metric_exports_total", labels: []string{labelResult},
		help: "Exports of all metrics to the collector, and those that it did not take; 0 if `telemetry.metrics` is off."})
	buildInfo = declare(family{section: sectionProcess, kind: gauge, name: "relay_build_info", labels: []string{labelVersion, labelGoVersion},
		help: "Always 1; the labels say what runs."})
)
