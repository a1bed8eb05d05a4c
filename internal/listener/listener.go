// Package listener bounds what the clients of relay's HTTP listeners can make it hold: memory,
// connections and time. Every listener of relay uses it.
package listener

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"
)

// Limits bound a listener. None may be zero.
type Limits struct {
	Connections int           // open at once; further ones wait in the system's queue
	HeaderBytes int           // of one request
	HeaderTime  time.Duration // from the first byte of a request to the end of its headers
	ReadTime    time.Duration // for a whole request
	WriteTime   time.Duration // for a whole answer
	IdleTime    time.Duration // between two requests of a connection
}

// Webhooks are the limits of a listener that everybody may reach and that takes small requests. A
// connection is closed soon, so that others get its place.
var Webhooks = Limits{
	Connections: 256, HeaderBytes: 8 << 10,
	HeaderTime: 5 * time.Second, ReadTime: 15 * time.Second, WriteTime: 15 * time.Second, IdleTime: 5 * time.Second,
}

// Admin are the limits of the listener for probes, metrics and the status page, whose live streams
// stay open.
var Admin = Limits{
	Connections: 128, HeaderBytes: 8 << 10,
	HeaderTime: 5 * time.Second, ReadTime: 10 * time.Second, WriteTime: 30 * time.Second, IdleTime: 10 * time.Second,
}

// New returns a server with the limits. What it has to say goes to log, as warnings.
func New(handler http.Handler, limits Limits, log *zap.Logger) (*http.Server, error) {
	errorLog, err := zap.NewStdLogAt(log, zap.WarnLevel)
	if err != nil {
		return nil, fmt.Errorf("setting up the log of an HTTP server: %w", err)
	}
	return &http.Server{
		Handler:           handler,
		MaxHeaderBytes:    limits.HeaderBytes,
		ReadHeaderTimeout: limits.HeaderTime,
		ReadTimeout:       limits.ReadTime,
		WriteTimeout:      limits.WriteTime,
		IdleTimeout:       limits.IdleTime,
		ErrorLog:          errorLog,
	}, nil
}

// Bound returns l with no more connections open at once than the limits allow.
func Bound(l net.Listener, limits Limits) net.Listener {
	return netutil.LimitListener(l, limits.Connections)
}

// IsLoopback reports whether a listening address, host:port, can be reached from this machine only.
// A host that is empty or unspecified stands for every address of the machine.
func IsLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Advice returns what to do about err, with which listening on an address failed. change says how
// another address is set.
func Advice(err error, change string) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process, perhaps another relay, listens there: stop it, or " + change
	case errors.Is(err, syscall.EACCES):
		return "relay may not use that port, which is likely below 1024: " + change
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.As(err, &dns):
		return "it must be an address of this machine, such as 127.0.0.1:8080: " + change
	default:
		return change
	}
}
