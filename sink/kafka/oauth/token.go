package oauth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"workos-relay/internal/printable"
)

// tolerated is by how much two clocks may differ before that is worth a word. Brokers allow less by
// default (sasl.oauthbearer.clock.skew.seconds is 30), and answers take a moment.
const tolerated = time.Minute

// Token is an access token and what is known of it.
type Token struct {
	Text    string
	Expires time.Time     // zero if it is not known
	Skew    time.Duration // how far this machine's clock is ahead of the token endpoint's; 0 if not known or small

	renew     time.Time // when Source gets the next one
	jwt       bool
	issuer    string
	subject   string
	audience  []string
	scope     string
	notBefore time.Time
	issued    time.Time
	until     time.Time // as the token itself says
}

var bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// Valid reports whether text has the form of a bearer token (b64token of RFC 6750).
func Valid(text string) bool { return bearerToken.MatchString(text) }

// Parse returns a token with what it says of itself if it is a JWT. Nothing of that is verified: it
// is for messages, and for the time to renew the token.
func Parse(text string) *Token {
	t := &Token{Text: text}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return t
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return t
	}
	var c struct {
		Issuer    string    `json:"iss"`
		Subject   string    `json:"sub"`
		Audience  words     `json:"aud"`
		Scope     words     `json:"scope"`
		Scp       words     `json:"scp"` // as Okta and Entra call it
		Expires   epochTime `json:"exp"`
		NotBefore epochTime `json:"nbf"`
		Issued    epochTime `json:"iat"`
	}
	if json.Unmarshal(payload, &c) != nil {
		return t
	}
	t.jwt, t.issuer, t.subject, t.audience = true, c.Issuer, c.Subject, c.Audience
	t.scope = strings.Join(slices.Concat(c.Scope, c.Scp), " ")
	t.until, t.notBefore, t.issued = time.Time(c.Expires), time.Time(c.NotBefore), time.Time(c.Issued)
	t.Expires = t.until
	return t
}

// words is a text or a list of texts. Anything else is none.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*w = words{one}
		return nil
	}
	var many []string
	if json.Unmarshal(b, &many) == nil {
		*w = many
	}
	return nil
}

// epochTime is a time in seconds since 1970. Anything else is the zero time.
type epochTime time.Time

func (e *epochTime) UnmarshalJSON(b []byte) error {
	const latest = 1 << 40 // seconds, so that sums do not overflow
	var seconds float64
	if json.Unmarshal(b, &seconds) == nil && seconds > 0 && seconds < latest {
		*e = epochTime(time.Unix(int64(seconds), 0))
	}
	return nil
}

// Expired reports whether the token itself says that it is over at the time now.
func (t *Token) Expired(now time.Time) bool { return !t.until.IsZero() && !now.Before(t.until) }

// Describe says what may be wrong with a token that a broker has refused at the time now, and what
// to change. It does not repeat the token.
func (t *Token) Describe(now time.Time) string {
	clock := ""
	if t.Skew != 0 {
		clock = fmt.Sprintf("; the clock of this machine is %s the token endpoint's: correct the one that is wrong", aheadOf(t.Skew))
	}
	if !t.jwt {
		return "the token is not a JWT, so relay cannot say why; check that the broker accepts tokens of this issuer" + clock
	}
	switch stamp := later(t.issued, t.notBefore); {
	case t.Expired(now):
		return fmt.Sprintf("by this machine's clock the token expired %s ago, at %s; if that is wrong, correct the clock, else renew the token",
			now.Sub(t.until).Round(time.Second), t.until.UTC().Format(time.RFC3339)) + clock
	case stamp.Sub(now) > tolerated:
		return fmt.Sprintf("by this machine's clock the token is valid only in %s, from %s; the clock of this machine or of the issuer is wrong: correct it",
			stamp.Sub(now).Round(time.Second), stamp.UTC().Format(time.RFC3339)) + clock
	}
	of := make([]string, 0, 4)
	for _, c := range []struct{ name, value string }{
		{"issuer", t.issuer}, {"audience", strings.Join(t.audience, " ")}, {"subject", t.subject}, {"scope", t.scope},
	} {
		if c.value == "" {
			of = append(of, "no "+c.name)
			continue
		}
		of = append(of, fmt.Sprintf("%s %q", c.name, printable.Clip(c.value, 100)))
	}
	return "the token has " + strings.Join(of, ", ") + "; check that the broker expects this issuer and audience and knows the key that signs it, " +
		"and set sasl.audience or sasl.scope to what it expects" + clock
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func aheadOf(skew time.Duration) string {
	if skew < 0 {
		return (-skew).String() + " behind"
	}
	return skew.String() + " ahead of"
}
