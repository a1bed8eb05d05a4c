package admin

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxBodySize bounds the body of a request.
const maxBodySize = 4 << 10

// readBody decodes the body of r, one JSON object, into out. It refuses what it does not fully
// understand: another content type, an unknown or repeated member, invalid UTF-8, trailing data,
// and more than maxBodySize. The error names the fault, and is a *Refusal. A request without a
// content type is taken for JSON.
func readBody(w http.ResponseWriter, r *http.Request, out any) error {
	if err := checkContentType(r); err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodySize))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return badRequest("the body is too large: it may have at most %d bytes", maxBodySize)
	case err != nil:
		return badRequest("the body did not arrive whole: %w", err)
	}
	if !strings.HasPrefix(strings.TrimLeft(string(body), " \t\r\n"), "{") {
		return badRequest(`the body is not a JSON object such as {"to": "..."}`)
	}
	if err := json.Unmarshal(body, out, json.RejectUnknownMembers(true)); err != nil {
		return badRequest("the body is not as expected: %w", describeJSONError(err))
	}
	return nil
}

func checkContentType(r *http.Request) error {
	given := r.Header.Values("Content-Type")
	if len(given) == 0 {
		return nil
	}
	kind, params, err := mime.ParseMediaType(given[0])
	charset, hasCharset := params["charset"]
	if len(given) > 1 || err != nil || kind != "application/json" || hasCharset && !strings.EqualFold(charset, "utf-8") {
		return badRequest("the content type is \"%s\": send the header Content-Type: application/json", repeated(strings.Join(given, ", ")))
	}
	return nil
}

// describeJSONError returns a short error that says what is wrong with a JSON text.
func describeJSONError(err error) error {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName) {
		return fmt.Errorf("unknown member %s", repeated(string(semantic.JSONPointer)))
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) && errors.Is(err, jsontext.ErrDuplicateName) {
		return fmt.Errorf("duplicate member %s", repeated(string(syntactic.JSONPointer)))
	}
	return errors.New(repeated(err.Error()))
}

// readNothing refuses a request with a body, which would have no effect.
func readNothing(r *http.Request) error {
	n, err := io.ReadFull(r.Body, make([]byte, 1))
	switch {
	case n > 0:
		return badRequest("this request takes no body; name lanes in the query: ?lane=NAME")
	case !errors.Is(err, io.EOF):
		return badRequest("the body did not arrive whole: %w", err)
	}
	return nil
}

// readQuery returns the query of r. It refuses a malformed one, and parameters other than those
// known.
func readQuery(r *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query is malformed: %w", err)
	}
	for name := range query {
		if !slices.Contains(known, name) {
			return nil, badRequest("unknown parameter \"%s\" in the query", repeated(name))
		}
	}
	return query, nil
}
