package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"workos-relay/conf/unit"
)

// noun is what the documents and messages call the values of a kind.
func (k kind) noun() string {
	switch k {
	case kindBool:
		return "true or false"
	case kindInt:
		return "whole number"
	case kindFloat:
		return "number"
	case kindDuration:
		return "duration"
	case kindBytes:
		return "size"
	case kindSecret:
		return "secret"
	case kindSecrets:
		return "secret or list of secrets"
	case kindTexts:
		return "list of texts"
	case kindMap:
		return "texts by name"
	case kindSection:
		return "section"
	case kindSections:
		return "list of sections"
	default:
		return "text"
	}
}

// setText sets v to the value that text denotes. The error continues a sentence that begins with
// the text itself, does not repeat it, and reads after a semicolon what to write instead.
func (f *field) setText(v reflect.Value, text string) error {
	if text == "" && !f.required && (f.kind == kindText || f.kind == kindSecret) && len(f.enum) == 0 && v.Kind() == reflect.String {
		v.SetString("") // absent, so no format can be asked of it
		return nil
	}
	if err := f.parse(v, text); err != nil {
		return err
	}
	return f.checkBounds(v)
}

func (f *field) parse(v reflect.Value, text string) error {
	switch f.kind {
	case kindBool:
		return parseBool(v, text)
	case kindInt:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return errors.New("is not a whole number")
		}
		v.SetInt(n)
	case kindFloat:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsInf(n, 0) || math.IsNaN(n) {
			return errors.New("is not a number")
		}
		v.SetFloat(n)
	case kindDuration:
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return errors.New("is not a duration; write a number with its unit, such as 500ms, 1s, 2m or 24h")
		}
		v.SetInt(int64(d))
	case kindBytes:
		var b unit.Bytes
		if b.UnmarshalText([]byte(text)) != nil {
			return errors.New("is not a size; write a number with B, KiB, MiB or GiB, such as 64MiB")
		}
		v.SetInt(int64(b))
	default:
		return f.parseText(v, text)
	}
	return nil
}

func parseBool(v reflect.Value, text string) error {
	switch strings.ToLower(text) {
	case "true":
		v.SetBool(true)
	case "false":
		v.SetBool(false)
	default:
		return errors.New("is neither true nor false")
	}
	return nil
}

func (f *field) parseText(v reflect.Value, text string) error {
	if len(f.enum) > 0 {
		if err := oneOf(f.enum, text); err != nil {
			return err
		}
	}
	if check := formats[f.format]; check.valid != nil {
		if err := check.valid(text); err != nil {
			return err
		}
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	v.SetString(text)
	return nil
}

func oneOf(enum []string, text string) error {
	for _, word := range enum {
		if word == text {
			return nil
		}
	}
	if near := nearest(text, enum); near != "" {
		return fmt.Errorf("is none of %s; did you mean %q?", strings.Join(enum, ", "), near)
	}
	return fmt.Errorf("is none of %s", strings.Join(enum, ", "))
}

// checkBounds compares v with the tags min and max.
func (f *field) checkBounds(v reflect.Value) error {
	below := f.minimum != "" && less(v, f.bound(f.minimum))
	above := f.maximum != "" && less(f.bound(f.maximum), v)
	switch {
	case !below && !above:
		return nil
	case f.minimum != "" && f.maximum != "":
		return fmt.Errorf("is not between %s and %s", f.minimum, f.maximum)
	case below:
		return fmt.Errorf("is less than %s", f.minimum)
	default:
		return fmt.Errorf("is more than %s", f.maximum)
	}
}

func (f *field) bound(text string) reflect.Value {
	v := reflect.New(f.typ).Elem()
	if err := f.parse(v, text); err != nil {
		panic(fmt.Sprintf("config: %s: bound %q %v", f.name, text, err))
	}
	return v
}

func less(a, b reflect.Value) bool {
	if a.Kind() == reflect.Float64 {
		return a.Float() < b.Float()
	}
	return a.Int() < b.Int()
}

// format is what a text must look like.
type format struct {
	valid func(string) error
	noun  string // for the reference page
	regex string // for the JSON Schema; may be wider than valid
}

const (
	maxName  = 64  // a name becomes a part of topics, of which Kafka allows 249 characters
	maxTopic = 200 // leaves room for a prefix
)

var (
	nameRegex     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	instanceRegex = regexp.MustCompile(`^[A-Za-z0-9._-]{1,253}$`)
	topicRegex    = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

var formats = map[string]format{
	"name": {
		noun: "name", regex: nameRegex.String(),
		valid: func(s string) error {
			if !nameRegex.MatchString(s) {
				return fmt.Errorf("is not a valid name; write 1 to %d of A-Z, a-z, 0-9, _ and -", maxName)
			}
			return nil
		},
	},
	"instance": {
		noun: "name", regex: instanceRegex.String(),
		valid: func(s string) error {
			if !instanceRegex.MatchString(s) {
				return errors.New("is not a valid name; write 1 to 253 of A-Z, a-z, 0-9, ., _ and -")
			}
			return nil
		},
	},
	"topic": {
		noun: "topic", regex: topicRegex.String(),
		valid: func(s string) error {
			if !topicRegex.MatchString(s) || len(s) > maxTopic {
				return fmt.Errorf("is not a valid topic; write words of A-Z, a-z, 0-9, _ and - with single dots between them, %d characters at most", maxTopic)
			}
			return nil
		},
	},
	"address": {noun: "host:port", valid: validAddress},
	"proxy":   {noun: "URL", valid: validProxy},
	"url":     {noun: "URL", regex: `^https?://`, valid: validURL},
	"api_key": {noun: "text", valid: func(s string) error {
		for _, c := range []byte(s) {
			if c <= ' ' || c > '~' {
				return errors.New("holds a space, a line break or another character that no API key has")
			}
		}
		return nil
	}},
}

func validAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil && isBareIPv6(s) {
		return errors.New("is not an address; write an IPv6 address in brackets, such as [::1]:8080")
	}
	if err != nil || strings.ContainsAny(host, " /@") {
		return errors.New("is not an address; write host:port, such as 127.0.0.1:8080, or :8080 for every interface")
	}
	return nil
}

// isBareIPv6 reports whether s begins with an IPv6 address that is not in brackets.
func isBareIPv6(s string) bool {
	host, _, _ := strings.Cut(s, "/")
	if net.ParseIP(host) != nil {
		return strings.Contains(host, ":")
	}
	last := strings.LastIndexByte(host, ':')
	return last > 0 && strings.Contains(host[:last], ":") && net.ParseIP(host[:last]) != nil
}

func validURL(s string) error {
	u, err := url.Parse(s)
	if _, rest, ok := strings.Cut(s, "://"); ok && isBareIPv6(rest) {
		return errors.New("is not a URL; write an IPv6 address in brackets, such as https://[::1]:8080")
	}
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("is not a URL; write https://host, such as https://api.workos.com")
	case u.User != nil:
		return errors.New("holds credentials, which would end up in logs; remove them")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("has a ? or a #; write the address alone, such as https://api.workos.com")
	}
	return nil
}

// validProxy checks the URL of a proxy. Its error never repeats s, which may hold a password.
func validProxy(s string) error {
	u, err := url.Parse(s)
	if _, rest, ok := strings.Cut(s, "://"); ok && isBareIPv6(rest[strings.LastIndexByte(rest, '@')+1:]) {
		return errors.New("is not the URL of a proxy; write an IPv6 address in brackets, such as http://[::1]:3128")
	}
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return errors.New("is not the URL of a proxy; write http://host:port, https://host:port or socks5://host:port, and special characters of user and password as in %40 for @")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return errors.New("has something after the port; write http://host:port alone")
	}
	return nil
}
