package pipeline

import "time"

// rateSeconds is what Status.Rate looks back over.
const rateSeconds = 60

// rate counts events by the second, over the last rateSeconds.
type rate struct {
	started time.Time
	counts  [rateSeconds]int
	of      [rateSeconds]int64 // which second of the process's clock each count is of
}

// start says when counting began; only the first call matters.
func (r *rate) start(now time.Time) {
	if r.started.IsZero() {
		r.started = now
	}
}

func (r *rate) add(now time.Time, n int) {
	r.start(now)
	second := r.second(now)
	i := second % rateSeconds
	if r.of[i] != second {
		r.of[i], r.counts[i] = second, 0
	}
	r.counts[i] += n
}

// perSecond is the mean over the last rateSeconds, or over the time since start where that is shorter.
func (r *rate) perSecond(now time.Time) float64 {
	if r.started.IsZero() {
		return 0
	}
	sum, second := 0, r.second(now)
	for i, n := range r.counts {
		if second-r.of[i] < rateSeconds {
			sum += n
		}
	}
	over := min(max(now.Sub(r.started), time.Second), rateSeconds*time.Second)
	return float64(sum) / over.Seconds()
}

// second counts from 0 at start, by the monotonic clock, so that a clock which is set does not matter.
func (r *rate) second(now time.Time) int64 { return int64(now.Sub(r.started) / time.Second) }
