package plexdebug

// A pool that is shown: its latest samples, and the latest look at its connections.

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.atomizer.io/plex"
)

// pool is one of the multiplexers.
type pool struct {
	mux   *plex.Multiplexer
	index int
	name  string

	mu      sync.Mutex
	stats   plex.Stats // of the latest sample
	samples []sample   // those of chartSpan, the oldest first

	counting sync.Mutex // held while the connections are looked at; before mu
	census   *census    // the latest look; nil before the first
}

func newPool(m *plex.Multiplexer, index int) *pool {
	p := &pool{mux: m, index: index, name: m.Name()}
	if p.name == "" {
		p.name = "pool " + strconv.Itoa(index+1)
	}
	return p
}

// sample is what the charts are made of. Counters are as in Stats.
type sample struct {
	at                    time.Time
	open, leased, waiting int
	lost, healed, waited  uint64
	acquired              uint64
	waitTime              time.Duration
}

// sample takes a sample of each pool.
func (h *handler) sample() {
	for _, p := range h.pools {
		s, now := p.mux.Stats(), time.Now()
		p.note(now, s)
	}
}

// rest forgets what is of interest to those who look only.
func (h *handler) rest() {
	for _, p := range h.pools {
		p.forget()
		p.mu.Lock()
		p.samples = nil
		p.mu.Unlock()
	}
}

func (p *pool) note(now time.Time, s plex.Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats = s
	old := 0
	for old < len(p.samples) && now.Sub(p.samples[old].at) > chartSpan {
		old++
	}
	p.samples = append(slices.Delete(p.samples, 0, old), sample{
		at: now, open: s.Open, leased: s.LeasedReaders + s.LeasedWriters, waiting: s.Waiting,
		lost: s.Lost, healed: s.Healed, waited: s.Waited, acquired: s.Acquired, waitTime: s.WaitDuration,
	})
}

// latest returns the latest sample's Stats and a copy of all samples.
func (p *pool) latest() (plex.Stats, []sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats, slices.Clone(p.samples)
}

// census is a look at all connections of a pool that are in service.
type census struct {
	valid  time.Time // it is good until then
	rows   []resident
	pinned int // how many something is expected of, see plex.Conn.Pin

	mu     sync.Mutex
	sorted map[order][]resident
}

// resident is a connection as it was.
type resident struct {
	conn plex.Conn
	info plex.ConnInfo
}

// order is what connections are sorted by.
type order string

const (
	byAge    order = "age"
	byHold   order = "held" // the lease that goes on for longest
	byLeases order = "leases"
)

// since is when the longest lease on the connection began; zero if none is known.
func (r resident) since() time.Time {
	a, b := r.info.Reader.Since, r.info.Writer.Since
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// leased is how many halves of the connection are leased.
func (r resident) leased() (n int) {
	for _, half := range []plex.HalfInfo{r.info.Reader, r.info.Writer} {
		if half.State == plex.HalfLeased {
			n++
		}
	}
	return n
}

func (r resident) leases() uint64 { return r.info.Reader.Leases + r.info.Writer.Leases }

// look returns the connections. All who watch share a look for as long as it is good.
func (p *pool) look() *census {
	p.counting.Lock()
	defer p.counting.Unlock()
	began := time.Now()
	if p.census != nil && began.Before(p.census.valid) {
		return p.census
	}
	c := &census{sorted: make(map[order][]resident)}
	for _, conn := range slices.Collect(p.mux.Conns()) { // at once, for they come and go
		r := resident{conn, conn.Info()}
		c.rows = append(c.rows, r)
		if r.info.Pins > 0 {
			c.pinned++
		}
	}
	slices.SortStableFunc(c.rows, func(a, b resident) int { return a.info.Opened.Compare(b.info.Opened) })
	end := time.Now()
	c.valid = end.Add(max(sampleEvery/2, duty*end.Sub(began)))
	p.census = c
	return c
}

// forget has the next look be a new one.
func (p *pool) forget() {
	p.counting.Lock()
	defer p.counting.Unlock()
	p.census = nil
}

// by returns the connections in an order. The slice is shared.
func (c *census) by(o order) []resident {
	var compare func(a, b resident) int
	switch o {
	case byHold:
		compare = func(a, b resident) int {
			x, y := a.since(), b.since()
			if x.IsZero() != y.IsZero() { // a lease of which it is known goes first
				return cmp.Compare(y.Unix(), x.Unix())
			}
			return cmp.Or(x.Compare(y), cmp.Compare(b.leased(), a.leased()))
		}
	case byLeases:
		compare = func(a, b resident) int { return cmp.Compare(b.leases(), a.leases()) }
	default:
		return c.rows
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sorted[o] == nil {
		c.sorted[o] = slices.Clone(c.rows)
		slices.SortStableFunc(c.sorted[o], compare)
	}
	return c.sorted[o]
}

// key tells a connection from the others of its pool.
func (r resident) key() string {
	h := fnv.New64a()
	for _, s := range []string{strconv.FormatInt(r.info.Opened.UnixNano(), 36), addrText(r.info.Local), addrText(r.info.Remote)} {
		_, _ = h.Write([]byte(s + "\x00")) // a hash takes everything
	}
	return "c" + strconv.FormatUint(h.Sum64(), 36)
}

// find returns the connection with a key.
func (p *pool) find(key string) (plex.Conn, bool) {
	for conn := range p.mux.Conns() {
		if (resident{conn, conn.Info()}).key() == key {
			return conn, true
		}
	}
	return plex.Conn{}, false
}

// address is one address of the service, of those that a resolver gives.
type address struct {
	Address string
	Share   string // of the connections
	Backoff string // what is left of the pause before it is tried again
	Err     string // what is wrong with it
}

// addresses are those of the service, none if there is no resolver.
func (p *pool) addresses() (rows []address) {
	all := p.mux.Addresses()
	total := 0
	for _, a := range all {
		total += a.Open
	}
	for _, a := range all {
		row := address{Address: guarded("the address's String", a.Address.String), Share: count(a.Open) + " of " + count(total)}
		if a.Connecting > 0 {
			row.Share += ", " + count(a.Connecting) + " connecting"
		}
		if a.Backoff > 0 {
			row.Backoff = span(a.Backoff)
		}
		switch {
		case a.Drained:
			row.Err = "gone from the list; its connections are being retired"
		case a.Failures == 1:
			row.Err = "1 failure"
		case a.Failures > 1:
			row.Err = count(a.Failures) + " failures in a row"
		}
		rows = append(rows, row)
	}
	return rows
}
