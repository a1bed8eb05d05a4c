package source

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
)

// What an operator has to do about the errors of this package.
const (
	actOnMisconfigured = "correct the section source of the configuration"
	actOnCursorLost    = "choose where to go on"
	actOnDescending    = "ask WorkOS why it answers newest first, and start relay again once it answers oldest first"
	actOnTooLarge      = "raise source.max_response"
	actOnAllRefused    = "correct source.events"
	actOnKey           = "check WORKOS_API_KEY or source.api_key, and that the key's environment has the Events API"
	actOnEndpoint      = "check source.endpoint"
	actOnRequest       = "check source.endpoint; if it is right, ask WorkOS why it refuses the request"
	actOnStranger      = "nothing shows that the answer is WorkOS's: check source.endpoint, and the proxies, firewalls and load balancers in between"
)

// Sentinel errors, matched with errors.Is. Each has a method OperatorAction() string: only an
// operator can resolve them.
var (
	// ErrMisconfigured means that nothing was sent, because a field of Client, Stream or the query
	// is unusable. The error says which.
	ErrMisconfigured = operator.New("the Events API client is misconfigured", actOnMisconfigured)
	// ErrCursorLost means that the API no longer continues from the position. The error is a
	// *CursorLostError.
	ErrCursorLost = operator.New("cursor lost", actOnCursorLost)
	// ErrDescending means that the API answers newest first although asked for oldest first. The
	// error is a *DescendingError.
	ErrDescending = operator.New("page in descending order", actOnDescending)
	// ErrTooLarge means that a response exceeds Client.MaxResponse. From a stream it is final and
	// names the event's position.
	ErrTooLarge = operator.New("larger than the permitted response", actOnTooLarge)
	// ErrAllRefused means that the API refuses every event type asked for.
	ErrAllRefused = operator.New("the Events API refuses every event type asked for", actOnAllRefused)
)

// APIError is an answer of the Events API other than 200. Its texts are those of the answer,
// clipped, printable, and without the API key.
type APIError struct {
	Status     int
	Code       string // such as invalid_events_request; often empty
	Message    string
	RequestID  string        // X-Request-Id: what WorkOS's support asks for
	RetryAfter time.Duration // from the Retry-After header, by the API's clock; zero if there was none
	Refused    []string      // of 400 and 422: the event types of the request that the answer names; no proof that it refuses them
	// Foreign means that the body is none of WorkOS's, such as the error page of a load balancer.
	// Message is its beginning.
	Foreign bool

	path string // of the request, see getRequest
}

// Error implements error.
func (e *APIError) Error() string {
	var b strings.Builder
	if e.path == "" {
		fmt.Fprintf(&b, "the Events API answered %d %s", e.Status, http.StatusText(e.Status))
	} else {
		fmt.Fprintf(&b, "WorkOS answered %d %s to GET %s", e.Status, http.StatusText(e.Status), e.path)
	}
	switch {
	case e.Foreign && e.Status/100 == 4 && e.Message != "":
		b.WriteString(" with a body that is not WorkOS's")
	case e.Foreign && e.Status/100 == 4:
		b.WriteString(" with an empty body")
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	var notes []string
	if e.Code != "" {
		notes = append(notes, "code "+e.Code)
	}
	if e.RequestID != "" {
		notes = append(notes, "request id "+e.RequestID)
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(notes, ", "))
	}
	return b.String()
}

// OperatorAction says what an operator has to do about an answer that blames the request, its key
// or its address. It is empty for 408, 429, 5xx, a Foreign body and every other answer that may
// pass.
func (e *APIError) OperatorAction() string {
	switch retryReason(e) {
	case RetryRefused:
		switch {
		case e.Foreign:
			return ""
		case !e.isWorkOS():
			return actOnStranger
		default:
			return actOnRequest
		}
	case RetryUnauthorized:
		return actOnKey
	case RetryRedirect:
		return actOnEndpoint
	default:
		return ""
	}
}

// ResponseError is an answer of status 200 that cannot be used: cut off, malformed, or too large
// (then it matches ErrTooLarge).
type ResponseError struct {
	Reason    string
	RequestID string
	Err       error // what was found, for errors.Is

	path string // of the request, see getRequest
}

// Error implements error.
func (e *ResponseError) Error() string {
	s := "the answer of the Events API cannot be used: " + e.Reason
	if e.path != "" {
		s = "the answer of WorkOS to GET " + e.path + " cannot be used: " + e.Reason
	}
	if e.RequestID != "" {
		s += " (request id " + e.RequestID + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *ResponseError) Unwrap() error { return e.Err }

// TransportError says that a request brought no answer. Err may be a *ProxyError or a
// *CertificateError.
type TransportError struct {
	Host  string
	Proxy string // says by which proxy the request went, for messages; empty without one
	Err   error

	path string // of the request, see getRequest
}

// Error implements error.
func (e *TransportError) Error() string {
	by := e.Proxy
	if proxy := (*ProxyError)(nil); errors.As(e.Err, &proxy) { // names the proxy itself
		by = ""
	}
	if e.path != "" {
		return fmt.Sprintf("WorkOS at %s gave no answer to GET %s%s: %v", e.Host, e.path, by, e.Err)
	}
	return fmt.Sprintf("the Events API at %s gave no answer%s: %v", e.Host, by, e.Err)
}

// Unwrap returns the cause.
func (e *TransportError) Unwrap() error { return e.Err }

// RefusalError means that the Events API has refused every request of a stream for a while, with
// answers that are WorkOS's own. It may be an *APIError or match ErrAllRefused. The same requests
// may succeed later.
type RefusalError struct {
	For time.Duration
	Err error

	path string // of the request, see getRequest
}

// Error implements error.
func (e *RefusalError) Error() string {
	if e.path != "" {
		return fmt.Sprintf("WorkOS has refused a request for a list for %s: %v", e.For.Round(time.Second), e.Err)
	}
	return fmt.Sprintf("the Events API has refused the request for %s: %v", e.For.Round(time.Second), e.Err)
}

// Unwrap returns the last refusal.
func (e *RefusalError) Unwrap() error { return e.Err }

// CursorLostError says that the API does not continue from Position. Continuing elsewhere may
// repeat or leave out events, so an operator decides. It matches ErrCursorLost.
type CursorLostError struct {
	Position  checkpoint.Position
	Reason    string
	RequestID string
	Err       error // the API's refusal, or nil

	first   string // the event that a page began with, if it was much older than Position
	decided bool   // there is no way to go on without an operator
}

// Error implements error.
func (e *CursorLostError) Error() string {
	reason := e.Reason
	if e.Err == nil { // the refusal names its request itself
		reason += requestNote(e.RequestID)
	} else {
		reason += ": " + e.Err.Error()
	}
	return fmt.Sprintf("cursor lost: the Events API no longer goes on after %s: %s; "+actOnCursorLost, e.Position, reason)
}

// Is makes errors.Is(err, ErrCursorLost) hold.
func (e *CursorLostError) Is(target error) bool { return target == ErrCursorLost }

// OperatorAction says what an operator has to do.
func (*CursorLostError) OperatorAction() string { return actOnCursorLost }

// Unwrap returns the API's refusal, or nil.
func (e *CursorLostError) Unwrap() error { return e.Err }

// DescendingError says that a whole page is newest first. Read so, the position would jump to the
// tip and what lies between would be lost. It matches ErrDescending.
type DescendingError struct {
	Position    checkpoint.Position // what the page was asked to follow
	First, Last checkpoint.Position // of the page
	RequestID   string
}

// Error implements error.
func (e *DescendingError) Error() string {
	return fmt.Sprintf("the Events API answered newest first although asked for oldest first (page from %s to %s, asked for what follows %s%s); "+
		"relay stops rather than lose what lies between; "+actOnDescending, e.First, e.Last, e.Position, requestNote(e.RequestID))
}

// Is makes errors.Is(err, ErrDescending) hold.
func (e *DescendingError) Is(target error) bool { return target == ErrDescending }

// OperatorAction says what an operator has to do.
func (*DescendingError) OperatorAction() string { return actOnDescending }

// RefusedTypesError names the event types that the API does not know, as found by Client.Reach.
type RefusedTypesError struct {
	Types []string // sorted
	Err   *APIError
}

// Error implements error.
func (e *RefusedTypesError) Error() string {
	return fmt.Sprintf("the Events API refuses %d of the event types: %s (a running relay goes on without them and asks again, after an hour at most); last answer: %v",
		len(e.Types), strings.Join(e.Types, ", "), e.Err)
}

// Unwrap returns the last refusal.
func (e *RefusedTypesError) Unwrap() error { return e.Err }

// AboutList reports whether err is about a request of a Getter, such as one for a list of objects,
// and not about the Events API.
func AboutList(err error) bool {
	var api *APIError
	var response *ResponseError
	var transport *TransportError
	switch {
	case errors.As(err, &api):
		return api.path != ""
	case errors.As(err, &response):
		return response.path != ""
	case errors.As(err, &transport):
		return transport.path != ""
	default:
		return false
	}
}

func requestNote(id string) string {
	if id == "" {
		return ""
	}
	return " (request id " + id + ")"
}

func (c *Client) responseError(a answer, g getRequest, err error) *ResponseError {
	return &ResponseError{Reason: c.clean(err.Error()), RequestID: a.RequestID, Err: err, path: g.path}
}

// apiError reads the body of an answer other than 200.
func (c *Client) apiError(resp *http.Response, from io.Reader, a answer, g getRequest) *APIError {
	body, _ := io.ReadAll(io.LimitReader(from, maxErrorBody)) // what came before an error may still tell
	code, message, known := parseErrorBody(body)
	e := &APIError{
		Status:     resp.StatusCode,
		Code:       c.clean(code),
		Message:    c.clean(message),
		RequestID:  a.RequestID,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), a.Date),
		Foreign:    !known,
		path:       g.path,
	}
	if location := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && location != "" {
		e.Message = c.clean("it sends relay elsewhere, where the API key must not go: " + location)
	}
	if resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusUnprocessableEntity {
		e.Refused = namedTypes(string(body), g.types)
	}
	return e
}

// maxErrorBody is how much of the body of an error is read.
const maxErrorBody = 64 << 10

// clean makes a text of the API, or of a proxy in its place, fit for logs and errors: without the
// key and the credentials of the proxy, and as printable.Text returns it.
func (c *Client) clean(s string) string {
	s = s[:min(len(s), maxErrorBody)]
	for _, key := range append(c.keys.all(), c.APIKey) {
		for _, form := range shownForms(key) {
			s = strings.ReplaceAll(s, form, "[API key]")
		}
	}
	for _, form := range proxySecrets(c.proxyInUse()) {
		s = strings.ReplaceAll(s, form, "[secret]")
	}
	return printable.Text(s)
}

// proxyInUse returns the proxy of the next request, or nil if there is none.
func (c *Client) proxyInUse() *url.URL {
	if c.Proxy != nil {
		if proxy := c.Proxy(); proxy != nil {
			return proxy
		}
	}
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: endpoint})
	if err != nil { // requests fail by it
		return nil
	}
	return proxy
}

// shownForms are the forms in which an answer may repeat key: as it is, escaped as in an address,
// and in base64, of which the characters stand here that key alone decides, wherever in the encoded
// text it begins.
func shownForms(key string) []string {
	if key == "" {
		return nil
	}
	forms := []string{key, url.QueryEscape(key)}
	const telling = 8 // bytes, of a key whose encoded form means anything
	if len(key) < telling {
		return forms
	}
	for skip, first := range [...]int{0, 2, 3} {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, skip), key...))
		forms = append(forms, encoded[first:len(encoded)-1])
	}
	return forms
}

// parseErrorBody knows the shapes {message, code}, {message, errors: [{code, field, message} or
// text]} and
// {error, error_description}; any other body is its own message, and not known.
func parseErrorBody(body []byte) (code, message string, known bool) {
	var b struct {
		Message     string            `json:"message"`
		Code        string            `json:"code"`
		Error       string            `json:"error"`
		Description string            `json:"error_description"`
		Errors      []json.RawMessage `json:"errors"`
	}
	// Fields of other types than these are left empty, the rest is kept.
	if err := json.Unmarshal(body, &b); err != nil {
		var wrongType *json.UnmarshalTypeError
		if !errors.As(err, &wrongType) {
			return "", string(body), false
		}
	}
	known = b.Message != "" || b.Code != "" || b.Error != "" || len(b.Errors) > 0
	code, message = b.Code, b.Message
	if code == "" {
		code = b.Error
	}
	if message == "" {
		message = b.Description
	}
	var details []string
	for _, raw := range b.Errors {
		details = append(details, errorDetail(raw))
	}
	if len(details) > 0 {
		message = strings.TrimPrefix(message+": "+strings.Join(details, "; "), ": ")
	}
	if message == "" && code == "" {
		message = string(body)
	}
	return code, message, known
}

func errorDetail(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var d struct{ Code, Field, Message string }
	if json.Unmarshal(raw, &d) != nil || (d.Code == "" && d.Message == "") {
		return string(raw)
	}
	if d.Message == "" {
		d.Message = d.Code
	}
	if d.Field == "" {
		return d.Message
	}
	return d.Field + " " + d.Message
}

// aboutEvents matches what the API says of the parameter events: its name, a code such as
// invalid_events_request, or plain words.
var aboutEvents = regexp.MustCompile(`(?i)\bevents\b|invalid_events?\b|events?[ _-](type|name|filter)|invalid_events_request`)

// blamesEvents reports whether the answer is about the parameter events, by its code, a field or
// its wording.
func (e *APIError) blamesEvents() bool {
	return len(e.Refused) > 0 || aboutEvents.MatchString(e.Code+" "+e.Message)
}

// isWorkOS reports whether WorkOS itself can be recognised by the answer: it has a body of its
// shape and a request id.
func (e *APIError) isWorkOS() bool { return !e.Foreign && e.RequestID != "" }

// aboutCursor matches what the API says of the parameter after.
var aboutCursor = regexp.MustCompile(`(?i)\b(after|cursor)\b|cursor`)

// blamesCursor reports whether the answer is about the event id that a request follows.
func (e *APIError) blamesCursor(id string) bool {
	text := e.Code + " " + e.Message
	return strings.Contains(text, id) || aboutCursor.MatchString(text)
}

// namedTypes returns those of asked that text names, in any quotes.
func namedTypes(text string, asked []string) []string {
	var out []string
	for _, name := range asked {
		if namesType(text, name) {
			out = append(out, name)
		}
	}
	return out
}

// namesType reports whether text holds name, and not only as a part of a longer name.
func namesType(text, name string) bool {
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 {
			return false
		}
		i += from
		end := i + len(name)
		if (i == 0 || !inTypeName(text[i-1])) && !continuesType(text[end:]) {
			return true
		}
		from = i + 1
	}
}

// inTypeName reports whether b may stand inside the name of an event type.
func inTypeName(b byte) bool {
	return b == '.' || b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

// continuesType reports whether rest goes on with the name of an event type. A full stop at the end
// of a sentence does not.
func continuesType(rest string) bool {
	if rest != "" && rest[0] == '.' {
		return len(rest) > 1 && inTypeName(rest[1])
	}
	return rest != "" && inTypeName(rest[0])
}

// retryAfter reads the header as seconds or as a date, which counts from the response's own Date.
func retryAfter(header string, date time.Time) time.Duration {
	if header == "" {
		return 0
	}
	if s, err := strconv.ParseFloat(header, 64); err == nil {
		if !(s > 0) { // NaN included
			return 0
		}
		return time.Duration(min(s, 86400) * float64(time.Second))
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	if date.IsZero() {
		date = time.Now()
	}
	return max(at.Sub(date), 0)
}
