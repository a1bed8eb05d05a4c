package pipeline

import (
	"context"
	"errors"
	"time"
)

// contactEvery is how often a lane that publishes nothing asks its bus whether it answers, and how
// long it waits for the answer.
const contactEvery = 5 * time.Second

// contact knows when a lane has to ask its bus whether it answers. A lane at the tip publishes
// nothing, and would not notice for long that its bus is away.
type contact struct {
	carrier    *carrier
	patience   time.Duration
	last, next time.Time // when the bus last answered, and when it is asked next
}

// newContact returns a contact. While the lane waits for an answer it does not renew its lease, so
// it waits for no more than a quarter of the time between two renewals.
func (c *carrier) newContact(alive *renewal) *contact {
	touch := &contact{carrier: c, patience: contactEvery}
	if alive.every > 0 {
		touch.patience = min(touch.patience, alive.every/4)
	}
	touch.made()
	return touch
}

// made records that the bus has answered.
func (c *contact) made() {
	c.last = time.Now()
	c.next = c.last.Add(contactEvery)
}

// within returns the time until the bus is to be asked if that is less than d. A d of 0 means no
// limit.
func (c *contact) within(d time.Duration) time.Duration { return untilDue(c.next, d) }

// keep asks the bus whether it answers, if that is due. If it does not, the lane is Retrying until
// it does. keep ends early when somebody steers the lane.
func (c *contact) keep(ctx context.Context) {
	if time.Now().Before(c.next) {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	asking, stop := c.carrier.steering.untilAsked(bounded, c.carrier.steering.wait())
	err := c.carrier.target.Ping(asking)
	steered := errors.Is(context.Cause(asking), errSteered)
	stop()
	c.next = time.Now().Add(contactEvery)
	switch {
	case ctx.Err() != nil, steered: // the answer was not waited for
	case err != nil:
		c.carrier.retrying(Reaching, err, contactEvery)
		c.carrier.status.unreached(c.last)
	default:
		c.made()
		c.carrier.status.reached()
	}
}
