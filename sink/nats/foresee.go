package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"workos-relay/internal/printable"
)

// foreseePatience bounds a question that a server may leave without an answer, because the user may
// not ask it.
const foreseePatience = 2 * time.Second

// uncreatable returns why the server would refuse to create the stream, as far as that can be known
// without creating it.
func (a *admin) uncreatable(ctx context.Context, l *link) []string {
	problems := a.account.problems(ctx, l)
	if own, _ := l.nc.ConnectedServerJetStream(); own && a.cfg.Create.Replicas > 1 && a.cfg.Domain == "" && a.cfg.APIPrefix == "" && l.nc.ConnectedClusterName() == "" {
		problems = append(problems, fmt.Sprintf("create.replicas is %d, and the NATS server is not part of a cluster: %s", a.cfg.Create.Replicas, aloneAdvice))
	}
	if err := a.forbidden(ctx, l, "STREAM.CREATE."+a.cfg.Stream, "creating stream "+a.cfg.Stream); err != nil {
		problems = append(problems, err.Error())
	}
	return problems
}

// forbidden returns an error if the user may not make a call of the JetStream API that changes the
// stream. It sends a request without the name of a stream, which every server refuses.
func (a *admin) forbidden(ctx context.Context, l *link, call, doing string) error {
	_, denied := a.tryAsking(ctx, l, a.conn.apiSubject(call), []byte(`{"name":""}`))
	if denied == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, lacksPermission(denied))
}

// tryAsking sends a request that the user may not be allowed to send. It returns the answer, nil if
// none comes soon, and the error by which the server forbids the request.
func (a *admin) tryAsking(ctx context.Context, l *link, subject string, body []byte) (answer *nats.Msg, denied error) {
	before := l.permissionDenied()
	isDenied := func() error {
		if err := l.permissionDenied(); err != nil && err != before && strings.Contains(err.Error(), `"`+subject+`"`) { //nolint:errorlint // the very error
			return err
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, min(foreseePatience, a.cfg.AckTimeout))
	defer cancel()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		answer, _ = l.nc.RequestWithContext(ctx, subject, body) // no answer says nothing
	}()
	for waiting := true; waiting && denied == nil; {
		changed, _ := l.state()
		if denied = isDenied(); denied != nil {
			break
		}
		select {
		case <-changed:
		case <-asked:
			denied, waiting = isDenied(), false
		}
	}
	cancel()
	<-asked
	if denied != nil {
		l.update(func() { l.denied = before }) // it says nothing of what relay asks otherwise
	}
	return answer, denied
}

// permissions are what a user may publish. The zero value allows everything.
type permissions struct {
	Allow []string `json:"allow"` // patterns; none for every subject
	Deny  []string `json:"deny"`
}

// publishing asks the server what the user may publish. It returns false if the server does not
// say that.
func (a *admin) publishing(ctx context.Context, l *link) (permissions, bool) {
	msg, _ := a.tryAsking(ctx, l, "$SYS.REQ.USER.INFO", nil)
	var answer struct {
		Data struct {
			User        string `json:"user"`
			Permissions *struct {
				Publish permissions `json:"publish"`
			} `json:"permissions"`
		} `json:"data"`
	}
	if msg == nil || json.Unmarshal(msg.Data, &answer) != nil || answer.Data.User == "" {
		return permissions{}, false
	}
	if answer.Data.Permissions == nil {
		return permissions{}, true
	}
	return answer.Data.Permissions.Publish, true
}

// forbids returns why the user may not publish to a subject, or to some subject that it stands for
// if it has wildcards; nil if they may.
func (p permissions) forbids(subject string) error {
	subject = strings.NewReplacer("*", "key", ">", "key").Replace(subject)
	if (len(p.Allow) == 0 || binds(p.Allow, subject)) && !binds(p.Deny, subject) {
		return nil
	}
	return mayNotPublish(subject, errNotAllowed)
}

var errNotAllowed = errors.New("its permissions do not allow it")

func mayNotPublish(subject string, err error) error {
	return fmt.Errorf("the NATS user may not publish to %s: allow it for this user on the server: %w", printable.Text(subject), err)
}
