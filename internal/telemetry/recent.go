package telemetry

import (
	"math"
	"sync"
	"time"

	"workos-relay/internal/admin"
)

const (
	// deliverySlices is the number of parts in which the window of delivery times advances.
	deliverySlices = 30
	deliverySlice  = admin.DeliveryWindow / deliverySlices

	// A bucket is a tenth wide, so that a quantile is off by 5 % at most. The first one has
	// everything up to shortestDelivery, the last one everything above 99 days.
	shortestDelivery = time.Millisecond
	deliveryGrowth   = 1.1
	deliveryBuckets  = 242
)

// recentDeliveries counts the delivery times of the last admin.DeliveryWindow, in 30 KB. It is safe
// for concurrent use.
type recentDeliveries struct {
	began time.Time // the slices are counted from then on, by the monotonic clock

	mu     sync.Mutex
	slices [deliverySlices]deliveryCounts
}

// deliveryCounts are the delivery times of one slice of time.
type deliveryCounts struct {
	slice   int64 // its number
	events  uint64
	least   time.Duration
	most    time.Duration
	buckets [deliveryBuckets]uint32
}

func newRecentDeliveries() *recentDeliveries { return &recentDeliveries{began: time.Now()} }

// now returns the number of the present slice.
func (r *recentDeliveries) now() int64 { return int64(time.Since(r.began) / deliverySlice) }

// add counts delivery times of now. None of them is negative.
func (r *recentDeliveries) add(took []time.Duration) {
	if len(took) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	c := &r.slices[now%deliverySlices]
	if c.slice != now {
		*c = deliveryCounts{slice: now}
	}
	for _, d := range took {
		if c.events == 0 || d < c.least {
			c.least = d
		}
		c.most = max(c.most, d)
		c.events++
		c.buckets[deliveryBucket(d)]++
	}
}

// quantiles returns what was added within the last admin.DeliveryWindow; nil if nothing was.
func (r *recentDeliveries) quantiles() *admin.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all deliveryCounts
	var buckets [deliveryBuckets]uint64
	now := r.now()
	for i := range r.slices {
		c := &r.slices[i]
		if c.events == 0 || now-c.slice >= deliverySlices {
			continue
		}
		if all.events == 0 || c.least < all.least {
			all.least = c.least
		}
		all.most = max(all.most, c.most)
		all.events += c.events
		for b, n := range c.buckets {
			buckets[b] += uint64(n)
		}
	}
	if all.events == 0 {
		return nil
	}
	quantile := func(q float64) (seconds float64) {
		rank := uint64(math.Ceil(q * float64(all.events)))
		b := 0
		for below := buckets[0]; below < rank; below += buckets[b] {
			b++
		}
		return min(max(deliveryOf(b), all.least), all.most).Round(100 * time.Microsecond).Seconds()
	}
	return &admin.Delivery{WindowSeconds: admin.DeliveryWindow.Seconds(), Events: all.events, P50Seconds: quantile(0.5), P99Seconds: quantile(0.99)}
}

// deliveryBucket returns the bucket that counts d.
func deliveryBucket(d time.Duration) int {
	if d <= shortestDelivery {
		return 0
	}
	return min(1+int(math.Log(float64(d)/float64(shortestDelivery))/math.Log(deliveryGrowth)), deliveryBuckets-1)
}

// deliveryOf returns the time that stands for those of a bucket: the middle, as its width grows.
func deliveryOf(bucket int) time.Duration {
	return time.Duration(float64(shortestDelivery) * math.Pow(deliveryGrowth, float64(bucket)-0.5))
}

// requestSeconds is the time over which requests are counted.
const requestSeconds = 10

// requestMeter measures how many requests are sent a second. It is safe for concurrent use.
type requestMeter struct {
	began time.Time

	mu     sync.Mutex
	counts [requestSeconds + 1]uint64 // of the present second and of those before it
	of     [requestSeconds + 1]int64  // the second of each count
}

func newRequestMeter() *requestMeter { return &requestMeter{began: time.Now()} }

// second returns the number of the present second by the monotonic clock.
func (r *requestMeter) second() int64 { return int64(time.Since(r.began) / time.Second) }

// sent counts a request.
func (r *requestMeter) sent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.second()
	i := now % int64(len(r.counts))
	if r.of[i] != now {
		r.of[i], r.counts[i] = now, 0
	}
	r.counts[i]++
}

// perSecond returns the mean over the last requestSeconds that are over, or over fewer if the meter
// began later. In the first second it is what was sent so far.
func (r *requestMeter) perSecond() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.second()
	if now == 0 {
		return float64(r.counts[0])
	}
	var sum uint64
	for i, n := range r.counts {
		if age := now - r.of[i]; age > 0 && age <= requestSeconds {
			sum += n
		}
	}
	return float64(sum) / float64(min(now, requestSeconds))
}

// rateLimit is what is known of the answers 429 to a lane. It is safe for concurrent use.
type rateLimit struct {
	mu        sync.Mutex
	count     uint64
	at, until time.Time // of the last one: when it came, and when the request is made again
}

// limited records an answer 429 after which wait passes until the request is made again.
func (r *rateLimit) limited(wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	r.at = time.Now()
	r.until = r.at.Add(wait)
}

// answered records an answer other than 429 that took some time from the request on. If it was
// asked for after the last 429, the wait is over: the lane may have been restarted meanwhile.
func (r *rateLimit) answered(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Add(-took).After(r.at) {
		r.until = time.Time{}
	}
}

// seen returns how many answers 429 there were, when the last one came and until when the lane
// waits because of it; the zero time if it does not.
func (r *rateLimit) seen() (count uint64, at, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.until) {
		until = r.until
	}
	return r.count, r.at, until
}
