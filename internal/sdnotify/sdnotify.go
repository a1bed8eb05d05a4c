// Package sdnotify tells a service manager such as systemd that relay has started, that it stops,
// and that it is alive, by the protocol of sd_notify(3).
package sdnotify

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Start sends READY=1, and then WATCHDOG=1 three times within each interval that the service
// manager asks for, each after alive has returned. An alive that does not return ends that, so that
// the service manager restarts the process. When ctx ends, or at the latest when the function that
// Start returns is called, STOPPING=1 is sent. That function waits for what Start began, but no
// more than a second for an alive that hangs. If no service manager listens, Start does nothing and
// never calls
// alive.
//
// What cannot be sent is logged and otherwise ignored: the service manager notices by itself.
func Start(ctx context.Context, lookup func(string) (string, bool), alive func(), log *zap.Logger) (stop func()) {
	path, _ := lookup("NOTIFY_SOCKET")
	if path == "" {
		return func() {}
	}
	send := func(ctx context.Context, state string) {
		if err := notify(ctx, path, state); err != nil && ctx.Err() == nil {
			log.Warn("the service manager cannot be told how relay is", zap.String("state", state), zap.Error(err))
		}
	}
	send(ctx, "READY=1")
	var told sync.Once
	stopping := func() { told.Do(func() { send(context.WithoutCancel(ctx), "STOPPING=1") }) }
	undo := context.AfterFunc(ctx, stopping)
	watching, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if every := interval(lookup); every > 0 {
			watch(watching, every/3, alive, func() { send(watching, "WATCHDOG=1") })
		}
	}()
	return func() {
		undo()
		stopping()
		cancel()
		select {
		case <-ended:
		case <-time.After(grace):
		}
	}
}

// grace is how long a stop waits for an alive that hangs, and for the service manager to take a
// state.
const grace = time.Second

// watch calls alive and then ping until ctx ends.
func watch(ctx context.Context, every time.Duration, alive, ping func()) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		alive()
		if ctx.Err() != nil {
			return
		}
		ping()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// interval returns within which time the service manager wants to hear of this process, 0 for
// never.
func interval(lookup func(string) (string, bool)) time.Duration {
	if pid, ok := lookup("WATCHDOG_PID"); ok && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	text, _ := lookup("WATCHDOG_USEC")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > int64(time.Hour*24/time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

func notify(ctx context.Context, path, state string) error {
	if strings.HasPrefix(path, "@") { // a name that is not a file
		path = "\x00" + path[1:]
	}
	conn, err := (&net.Dialer{Timeout: grace}).DialContext(ctx, "unixgram", path)
	if err != nil {
		return fmt.Errorf("connecting to NOTIFY_SOCKET: %w", err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(grace))
	_, err = conn.Write([]byte(state))
	if closeErr := conn.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("writing to NOTIFY_SOCKET: %w", err)
	}
	return nil
}
