package sourcetest

import (
	"encoding/json"
	"net/http"
)

// apiError is an answer other than 200.
type apiError struct {
	status int
	body   []byte
	header http.Header // may be nil
}

// errorBody is {message, code?}: what 400, 401, 403 and 404 carry.
func errorBody(code, message string) []byte {
	b, _ := json.Marshal(struct {
		Message string `json:"message"`
		Code    string `json:"code,omitempty"`
	}{message, code})
	return b
}

func badRequest(code, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, body: errorBody(code, message)}
}

// unprocessable is {message, errors:[{code, field}]}.
func unprocessable(field, code, message string) *apiError {
	type fieldError struct {
		Code  string `json:"code"`
		Field string `json:"field"`
	}
	b, _ := json.Marshal(struct {
		Message string       `json:"message"`
		Errors  []fieldError `json:"errors"`
	}{"Validation failed: " + message, []fieldError{{code, field}}})
	return &apiError{status: http.StatusUnprocessableEntity, body: b}
}

// statusBody is the documented body for a status, as a fault answers it.
func statusBody(code int) (contentType string, body []byte) {
	const jsonType, html = "application/json; charset=utf-8", "text/html; charset=utf-8"
	switch code {
	case http.StatusUnauthorized:
		return jsonType, errorBody("", "Unauthorized")
	case http.StatusForbidden:
		return jsonType, []byte(`{"error":"access_denied","error_description":"The API key may not read events."}`)
	case http.StatusUnprocessableEntity:
		return jsonType, []byte(`{"message":"Validation failed","errors":["limit must be a number from 1 to 100"]}`)
	case http.StatusTooManyRequests:
		return jsonType, errorBody("rate_limit_exceeded", "Too many requests")
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return html, []byte("<html>\r\n<head><title>" + http.StatusText(code) + "</title></head>\r\n<body><center><h1>" + http.StatusText(code) + "</h1></center></body>\r\n</html>\r\n")
	case http.StatusServiceUnavailable:
		return "text/plain", []byte("upstream connect error or disconnect/reset before headers")
	}
	return jsonType, errorBody("", http.StatusText(code))
}
