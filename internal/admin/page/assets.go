package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"net/http"
	"path"
	"time"

	"workos-relay/internal/admin"
)

// policy is the Content-Security-Policy of the page: what it loads comes from here, and nothing is
// inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed assets
var files embed.FS

// asset is a file of the page. Its path tells its content, so that a browser may keep it for ever.
type asset struct {
	path, contentType string
	body              []byte
}

var (
	style   = load("style.css", "text/css; charset=utf-8")
	script  = load("live.js", "text/javascript; charset=utf-8")
	good    = load("good.svg", "image/svg+xml")
	warn    = load("warn.svg", "image/svg+xml")
	bad     = load("bad.svg", "image/svg+xml")
	lost    = load("lost.svg", "image/svg+xml")
	assets  = []*asset{style, script, good, warn, bad, lost}
	release = digest(style.body, script.body, source("page.html"))

	templates = template.Must(template.New("").ParseFS(files, "assets/page.html"))
)

// iconOf is the favicon for a health.
func iconOf(h admin.Health) *asset {
	switch h {
	case admin.ActionNeeded:
		return bad
	case admin.Degraded:
		return warn
	default:
		return good
	}
}

func source(name string) []byte {
	body, err := files.ReadFile("assets/" + name)
	if err != nil {
		panic(err) // not embedded
	}
	return body
}

func load(name, contentType string) *asset {
	body, ext := source(name), path.Ext(name)
	return &asset{path: name[:len(name)-len(ext)] + "." + digest(body) + ext, contentType: contentType, body: body}
}

// digest is a short name for content.
func digest(parts ...[]byte) string {
	sum := sha256.Sum256(bytes.Join(parts, []byte{0}))
	return hex.EncodeToString(sum[:8])
}

// ServeHTTP implements http.Handler.
func (a *asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", a.contentType)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}
