package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/conf/unit"
	"workos-relay/internal/printable"
	"workos-relay/sink"
)

// lastingRefusals are the codes that stay until an operator changes the configuration or the
// account. Missing peers and storage may come back by themselves.
var lastingRefusals = []jetstream.ErrorCode{
	codeMaxStreams, codeInvalidStreamConfig, codeNotClustered, codeMaxBytesRequired, codeNoTier, codeMaxStreamBytes,
}

// account compares a stream of the configuration with the limits of the account and the server.
type account struct{ cfg *Config }

// aloneAdvice is what to do about replicas on a server without a cluster.
const aloneAdvice = "set create.replicas: 1, or use a NATS cluster"

const correctPlacement = "correct create.placement: not enough servers have that cluster and these tags, or room for the stream; " +
	"or lower create.replicas or create.max_bytes"

// refusalAdvice says which key to change if the server has refused a stream because of a limit;
// empty for any other error.
func (a account) refusalAdvice(err error) string {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return ""
	}
	placed := !a.cfg.Create.Placement.isZero()
	switch api.ErrorCode {
	case codeMaxBytesRequired:
		return "set create.max_bytes, which the account requires of every stream"
	case codeMaxStreamBytes:
		return "lower create.max_bytes to what the account allows for one stream"
	case codeMaxStreams:
		return "delete a stream of the account, raise its max_streams, or let stream name one that exists"
	case codeNoTier:
		return fmt.Sprintf("the account has no limits for %d replicas: change create.replicas to a number for which it has some", a.cfg.Create.Replicas)
	case codeNotClustered:
		return aloneAdvice
	case codeNoPeers:
		if placed {
			return correctPlacement
		}
		return "lower create.replicas to what the cluster has servers for, lower create.max_bytes to what they have room for, or add servers"
	case codeServerResources:
		if placed { // what a cluster of clusters answers if none of them is what the placement asks for
			return correctPlacement
		}
		return "the servers take no more streams with several replicas: lower create.replicas, or raise max_ha_assets on the servers"
	case codeAccountResources, codeStorage, codeMemory, codeStreamLimits:
		return a.storageAdvice()
	case codeInvalidStreamConfig:
		return invalidAdvice(api.Description)
	default:
		return ""
	}
}

// storageAdvice is what to do if the account or the server has not as much storage left as the
// stream reserves.
func (a account) storageAdvice() string {
	const free = "free storage, or raise the storage limit of the account or max_file_store of the server"
	switch {
	case a.cfg.URL == Embedded && a.cfg.Create.MaxBytes > 0:
		return "lower create.max_bytes, or raise embedded.max_store"
	case a.cfg.URL == Embedded:
		return "raise embedded.max_store"
	case a.cfg.Create.MaxBytes > 0 && a.cfg.Create.Replicas > 1:
		return "lower create.max_bytes or create.replicas, " + free
	case a.cfg.Create.MaxBytes > 0:
		return "lower create.max_bytes, " + free
	default:
		return free
	}
}

// invalidAdvice names the key behind a configuration that the server calls invalid.
func invalidAdvice(description string) string {
	switch text := strings.ToLower(description); {
	case strings.Contains(text, "duplicate"):
		return "change duplicate_window"
	case strings.Contains(text, "max age"):
		return "change create.max_age"
	case strings.Contains(text, "replicas"):
		return "change create.replicas"
	case strings.Contains(text, "max bytes"), strings.Contains(text, "max_bytes"):
		return "change create.max_bytes"
	}
	return ""
}

// explainUnmade returns the error of a request to create or change the stream. It is a
// *sink.FatalError if only an operator can resolve it, and names the key to change. problems are
// what check says of the account; they know more than the server's refusal.
func (a account) explainUnmade(l *link, doing string, err error, problems []string) error {
	advice, err := a.refusalAdvice(err), printable.Error(err)
	switch {
	case len(problems) > 0:
		return &sink.FatalError{Err: fmt.Errorf("%s: %s: %w", doing, strings.Join(problems, "; "), err)}
	case refusedConfig(err):
		return &sink.FatalError{Err: fmt.Errorf("%s: %w", doing, err), Action: advice}
	case advice != "":
		return fmt.Errorf("%s: %w; %s", doing, err, advice)
	default:
		return l.explainAPI(doing, err)
	}
}

// refusedConfig reports whether the server understood a stream's configuration and will not have it
// until an operator acts.
func refusedConfig(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && slices.Contains(lastingRefusals, api.ErrorCode)
}

// accountPatience bounds the question for the account's limits, which a user may not be allowed to
// ask.
const accountPatience = 2 * time.Second

// problems returns which limits of the account keep the stream from being created, each with
// the key to change. It returns nil if the account cannot be asked: the server decides then.
func (a account) problems(ctx context.Context, l *link) []string {
	ctx, cancel := context.WithTimeout(ctx, accountPatience)
	defer cancel()
	info, err := l.js.AccountInfo(ctx)
	if err != nil {
		return nil
	}
	return limitProblems(info, a.cfg.Create)
}

// limitProblems compares a stream that is to be created with what the account allows. Limits of -1,
// and of 0 but for storage, are
// none.
func limitProblems(info *jetstream.AccountInfo, want Create) []string {
	account, copies := info.Tier, int64(max(want.Replicas, 1))
	if len(info.Tiers) > 0 {
		tier, ok := info.Tiers[fmt.Sprintf("R%d", copies)]
		if !ok {
			return []string{fmt.Sprintf("the account has no limits for streams with %d replicas, only for %s: change create.replicas",
				copies, strings.Join(slices.Sorted(maps.Keys(info.Tiers)), " and "))}
		}
		account, copies = tier, 1 // the limits of a tier count a stream once
	}
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	limits, size := account.Limits, int64(want.MaxBytes)
	if limits.MaxStreams > 0 && account.Streams >= limits.MaxStreams {
		problem("the account has %d streams and may have no more than %d: delete one, raise its max_streams, or let stream name one that exists",
			account.Streams, limits.MaxStreams)
	}
	most := limits.StoreMaxStreamBytes
	switch {
	case limits.MaxBytesRequired && size <= 0 && most > 0:
		problem("the account requires a size of every stream: set create.max_bytes to at most %v", unit.Bytes(most))
	case limits.MaxBytesRequired && size <= 0:
		problem("the account requires a size of every stream: set create.max_bytes")
	case most > 0 && size > most:
		problem("the account allows at most %v for one stream: lower create.max_bytes", unit.Bytes(most))
	}
	if limits.MaxStore < 0 {
		return problems
	}
	left := max(limits.MaxStore-int64(min(account.ReservedStore, 1<<62)), 0) //nolint:gosec // no account has as much
	switch {
	case limits.MaxStore == 0 || left == 0:
		problem("the account has no file storage left (%v in all): raise its storage limit, or delete a stream", unit.Bytes(limits.MaxStore))
	case size > left/copies && copies > 1:
		problem("the account has %v of storage left, and %d replicas need %d times create.max_bytes: lower create.max_bytes to at most %v, or create.replicas",
			unit.Bytes(left), copies, copies, unit.Bytes(left/copies))
	case size > left:
		problem("the account has %v of storage left: lower create.max_bytes to at most that, or raise its storage limit", unit.Bytes(left))
	}
	return problems
}

// checkChanges says of each change to the stream that the limits of the account do not let it
// through.
func (a account) checkChanges(ctx context.Context, l *link, conf jetstream.StreamConfig, changes []tunable) {
	affected := slices.ContainsFunc(changes, func(t tunable) bool { return t.takesMore() })
	if !affected {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, accountPatience)
	defer cancel()
	info, err := l.js.AccountInfo(ctx)
	if err != nil {
		return // the server decides
	}
	without := withoutStream(info, conf)
	for i := range changes {
		t := &changes[i]
		if !t.takesMore() {
			continue
		}
		next := conf
		t.set(&next)
		want := Create{Replicas: next.Replicas, MaxBytes: unit.Bytes(max(next.MaxBytes, 0))}
		if problems := limitProblems(without, want); problems != nil {
			t.Outcome, t.Why = sink.Unchanged, strings.Join(problems, "; ")
		}
	}
}

// takesMore reports whether the limits of an account may stand against the change.
func (t *tunable) takesMore() bool {
	return t.Outcome == sink.Changes && (t.Key == keyMaxBytes || t.Key == keyReplicas)
}

// withoutStream is the account as it would be without a stream.
func withoutStream(info *jetstream.AccountInfo, conf jetstream.StreamConfig) *jetstream.AccountInfo {
	less := func(t jetstream.Tier, copies int) jetstream.Tier {
		t.Streams = max(t.Streams-1, 0)
		if reserved := uint64(max(conf.MaxBytes, 0)) * uint64(copies); conf.Storage == jetstream.FileStorage { //nolint:gosec // neither is negative
			t.ReservedStore -= min(t.ReservedStore, reserved)
		}
		return t
	}
	out := *info
	if len(info.Tiers) == 0 {
		out.Tier = less(info.Tier, max(conf.Replicas, 1))
		return &out
	}
	out.Tiers = maps.Clone(info.Tiers)
	name := fmt.Sprintf("R%d", max(conf.Replicas, 1))
	if tier, ok := out.Tiers[name]; ok {
		out.Tiers[name] = less(tier, 1)
	}
	return &out
}
