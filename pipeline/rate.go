package pipeline

import "time"

// rateSeconds is the time that Status.Rate covers.
const rateSeconds = 60

// rate counts events per second over the last rateSeconds.
type rate struct {
	started time.Time
	counts  [rateSeconds]int
	of      [rateSeconds]int64 // which second of the process's clock each count is of
}

// start sets when counting began. Only the first call has an effect.
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

// perSecond returns the mean over the last rateSeconds, or over the time since start if that is
// shorter.
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

// second returns the seconds since start by the monotonic clock, so that setting the clock has no
// effect.
func (r *rate) second(now time.Time) int64 { return int64(now.Sub(r.started) / time.Second) }
