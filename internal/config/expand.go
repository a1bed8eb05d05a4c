package config

import (
	"fmt"
	"strings"
)

// expandError says why a text could not be expanded. Its words never come from the environment.
type expandError struct {
	message, hint string
	unset         string // the variable that is not set, if that is the reason
}

// expand replaces ${NAME} and ${NAME:-default} in s by what env holds and $$ by a dollar. The
// default replaces a variable that is unset or empty, and is taken as it is, but for $$. It returns
// the values that came from env.
func expand(s string, env func(string) (string, bool)) (string, []string, *expandError) {
	var out strings.Builder
	var values []string
	for {
		plain, rest, found := strings.Cut(s, "$")
		out.WriteString(plain)
		switch {
		case !found:
			return out.String(), values, nil
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			s = rest[1:]
		case strings.HasPrefix(rest, "{"):
			inside, after, closed := strings.Cut(rest[1:], "}")
			if !closed {
				return "", nil, &expandError{message: "a ${ without its }", hint: "write ${NAME} for a variable, $$ for a dollar"}
			}
			value, fromEnv, err := lookup(inside, env)
			if err != nil {
				return "", nil, err
			}
			if fromEnv {
				values = append(values, value)
			}
			out.WriteString(value)
			s = after
		default:
			return "", nil, &expandError{message: "a $ that begins no ${NAME}", hint: "write ${NAME} for a variable, $$ for a dollar"}
		}
	}
}

// lookup returns the value of the text between ${ and }, and whether it came from env.
func lookup(inside string, env func(string) (string, bool)) (value string, fromEnv bool, _ *expandError) {
	name, fallback, hasFallback := strings.Cut(inside, ":-")
	if !isVariable(name) {
		return "", false, &expandError{message: "a ${ that no name of a variable follows", hint: "write ${NAME} or ${NAME:-default}, $$ for a dollar"}
	}
	value, set := env(name)
	switch {
	case set && (value != "" || !hasFallback):
		return value, true, nil
	case !hasFallback:
		return "", false, &expandError{
			message: fmt.Sprintf("the environment variable %s is not set", name),
			hint:    fmt.Sprintf("set it, or give a default: ${%s:-value}", name),
			unset:   name,
		}
	case strings.Contains(strings.ReplaceAll(fallback, "$$", ""), "$"):
		return "", false, &expandError{message: fmt.Sprintf("the default of %s holds a $", name), hint: "variables cannot be nested; write $$ for a dollar"}
	default:
		return strings.ReplaceAll(fallback, "$$", "$"), false, nil
	}
}

// isVariable reports whether name may name a variable of the environment: letters, digits and _, no
// digit first.
func isVariable(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
