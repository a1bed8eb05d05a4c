package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"syscall"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
)

// The names of attributes and of spans are those of OpenTelemetry's semantic conventions, in the
// version of the SDK. What the conventions have no name for begins with "relay.".
const (
	attrLane       = attribute.Key("relay.lane")
	attrStage      = attribute.Key("relay.stage")
	attrEvents     = attribute.Key("relay.events")
	attrPages      = attribute.Key("relay.pages")
	attrFirst      = attribute.Key("relay.event.first")
	attrLast       = attribute.Key("relay.event.last")
	attrPosition   = attribute.Key("relay.position")
	attrDurable    = attribute.Key("relay.durable")
	attrTopics     = attribute.Key("relay.topics")
	attrTopicCount = attribute.Key("relay.topic_count")
	attrTip        = attribute.Key("relay.tip")
	attrRequestID  = attribute.Key("relay.request_id")
	attrTypes      = attribute.Key("relay.event_types")
	attrBytes      = attribute.Key("relay.response_bytes")
)

// The values of error.type that are relay's own. Besides them it is the status code of an HTTP
// response, or a word of the bus: see sink.Conventions.
const (
	errorTimeout     = "timeout"
	errorCanceled    = "canceled"
	errorNameLookup  = "name_not_resolved"
	errorConnection  = "connection_failed"
	errorCertificate = "server_certificate_invalid"
	errorTLS         = "tls_failed"
	errorProxy       = "proxy_failed"
	errorTooLarge    = "response_too_large"
	errorUnusable    = "response_unusable"
	errorRejected    = "message_rejected"
	errorFenced      = "fenced"
	errorOperator    = "operator_action_required"
)

// requestErrorType returns the value of error.type for a request to WorkOS that failed.
func requestErrorType(i *source.RequestInfo) string {
	var (
		api         *source.APIError
		proxy       *source.ProxyError
		certificate *source.CertificateError
		response    *source.ResponseError
	)
	switch err := i.Err; {
	case errors.As(err, &api):
		return strconv.Itoa(api.Status)
	case errors.As(err, &proxy):
		return errorProxy
	case errors.As(err, &certificate):
		return errorCertificate
	case errors.Is(err, source.ErrTooLarge):
		return errorTooLarge
	case source.IsTimeout(err):
		return errorTimeout
	case errors.As(err, &response):
		return errorUnusable
	default:
		return connectionErrorType(err)
	}
}

// errorType returns the value of error.type for what failed on the bus or the checkpoint. ofBus may
// be nil.
func errorType(err error, ofBus func(error) string) string {
	var (
		rejected *sink.RejectedError
		fatal    *sink.FatalError
	)
	if ofBus != nil {
		if word := ofBus(err); word != "" {
			return word
		}
	}
	switch {
	case errors.As(err, &rejected):
		return errorRejected
	case errors.Is(err, checkpoint.ErrConflict):
		return errorFenced
	case errors.Is(err, sink.ErrTimeout):
		return errorTimeout
	case errors.As(err, &fatal):
		return errorOperator
	default:
		return connectionErrorType(err)
	}
}

// connectionErrorType returns the value of error.type for an error of a connection, or _OTHER.
func connectionErrorType(err error) string {
	var (
		timeout net.Error
		dns     *net.DNSError
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		host    x509.HostnameError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		alert   tls.AlertError
		record  tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return errorCanceled
	case errors.As(err, &dns):
		return errorNameLookup
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errorTimeout
	case errors.As(err, &verify), errors.As(err, &host), errors.As(err, &unknown), errors.As(err, &invalid):
		return errorCertificate
	case errors.As(err, &alert), errors.As(err, &record):
		return errorTLS
	case errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errorConnection
	default:
		return semconv.ErrorTypeOther.Value.AsString()
	}
}

// redacted is what stands in a URL for what is left out.
const redacted = "REDACTED"

// requestAttributes are those of a span of a request to WorkOS.
func requestAttributes(i *source.RequestInfo) []attribute.KeyValue {
	out := []attribute.KeyValue{
		semconv.HTTPRequestMethodGet, semconv.ServerAddress(i.URL.Hostname()), semconv.ServerPort(portOf(i.URL)),
		semconv.URLFull(fullURL(i.URL)), semconv.URLTemplate(i.Template),
	}
	if i.Status != 0 {
		out = append(out, semconv.HTTPResponseStatusCode(i.Status))
	}
	if i.Resend > 0 {
		out = append(out, semconv.HTTPRequestResendCount(i.Resend))
	}
	if i.RequestID != "" {
		out = append(out, attrRequestID.String(i.RequestID))
	}
	if i.Types > 0 {
		out = append(out, attrTypes.Int(i.Types))
	}
	if i.Size > 0 {
		out = append(out, attrBytes.Int(i.Size))
	}
	if i.Err != nil {
		out = append(out, semconv.ErrorTypeKey.String(requestErrorType(i)))
	}
	return out
}

func portOf(u *url.URL) int {
	if port, err := strconv.Atoi(u.Port()); err == nil {
		return port
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}

// fullURL is url.full: without credentials, and without the list of event types, which is long and
// the same in every request.
func fullURL(u *url.URL) string {
	shown := *u
	if u.User != nil {
		shown.User = url.UserPassword(redacted, redacted)
	}
	query := u.Query()
	for _, name := range []string{"events", "events[]"} {
		if query.Has(name) {
			query.Set(name, redacted)
		}
	}
	shown.RawQuery = query.Encode()
	return shown.String()
}

// busAttributes are those of every message that goes to a bus.
func busAttributes(c *sink.Conventions) []attribute.KeyValue {
	out := []attribute.KeyValue{semconv.MessagingSystemKey.String(c.System)}
	host, port, err := net.SplitHostPort(c.Server)
	if err != nil {
		host = c.Server
	}
	if host != "" {
		out = append(out, semconv.ServerAddress(host))
	}
	if n, err := strconv.Atoi(port); err == nil && n > 0 {
		out = append(out, semconv.ServerPort(n))
	}
	return out
}

// maxTopics bounds how many topics of a batch a span names.
const maxTopics = 32

// sendAttributes are those of a span that publishes a batch, which is not empty, and the
// destination that all of its messages go to. That is empty if their topics differ, and no stream
// holds all of them: the conventions then leave the destination out.
func sendAttributes(c *sink.Conventions, batch []sink.Message) (destination string, out []attribute.KeyValue) {
	topics, more := topicsOf(batch)
	if destination = c.Destination; destination == "" && len(topics) == 1 {
		destination = topics[0]
	}
	out = []attribute.KeyValue{
		semconv.MessagingOperationTypeSend, semconv.MessagingOperationName(c.Operation),
		attrTopics.StringSlice(topics), attrTopicCount.Int(len(topics) + more),
	}
	if destination != "" {
		out = append(out, semconv.MessagingDestinationName(destination))
	}
	if len(batch) > 1 {
		return destination, append(out, semconv.MessagingBatchMessageCount(len(batch)))
	}
	m := &batch[0]
	out = append(out, semconv.MessagingMessageBodySize(len(m.Body)))
	if id := m.ID; id != "" {
		out = append(out, semconv.MessagingMessageID(id))
	} else if m.Entity == "" && !m.Snapshot {
		out = append(out, semconv.MessagingMessageID(m.Position.EventID))
	}
	if m.Removes() && c.System == semconv.MessagingSystemKafka.Value.AsString() {
		out = append(out, semconv.MessagingKafkaMessageTombstone(true))
	}
	return destination, out
}

// topicsOf returns the first topics of a batch, and how many others it has.
func topicsOf(batch []sink.Message) (topics []string, more int) {
	var rest map[string]bool
	last := ""
	for i := range batch {
		topic := batch[i].Topic
		if topic == last || slices.Contains(topics, topic) {
			continue
		}
		if last = topic; len(topics) < maxTopics {
			topics = append(topics, topic)
			continue
		}
		if rest == nil {
			rest = map[string]bool{}
		}
		rest[topic] = true
	}
	return topics, len(rest)
}
