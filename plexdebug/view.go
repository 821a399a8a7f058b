package plexdebug

// What the templates show: plain values, made for one view at one moment.

import (
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"

	"go.atomizer.io/plex"
)

const (
	rowsOfConns = 50
	rowsOfPools = 25
)

// view is what a browser has asked to see.
type view struct {
	pool  int // selected
	page  int // of its connections, from 0
	pools int // page of the pools, from 0
	order order
}

// viewOf reads a query. What makes no sense counts as not given.
func (h *handler) viewOf(query url.Values) view {
	number := func(key string, most int) int {
		n, err := strconv.Atoi(query.Get(key))
		if err != nil {
			return 0
		}
		return max(0, min(n, most))
	}
	v := view{
		pool:  number("pool", len(h.pools)-1),
		page:  number("page", math.MaxInt32),
		pools: number("pools", max(0, len(h.pools)-1)/rowsOfPools),
		order: order(query.Get("order")),
	}
	if !slices.Contains([]order{byHold, byLeases}, v.order) {
		v.order = byAge
	}
	return v
}

// link is the address of a view, relative to wherever the page is.
func (v view) link() string {
	query := url.Values{}
	set := func(key string, n int) {
		if n > 0 {
			query.Set(key, strconv.Itoa(n))
		}
	}
	set("pool", v.pool)
	set("page", v.page)
	set("pools", v.pools)
	if v.order != byAge {
		query.Set("order", string(v.order))
	}
	return "?" + query.Encode()
}

func (v view) withPool(pool int) view   { v.pool, v.page = pool, 0; return v }
func (v view) withPage(page int) view   { v.page = page; return v }
func (v view) withPools(pools int) view { v.pools = pools; return v }
func (v view) withOrder(o order) view   { v.order, v.page = o, 0; return v }

// screen is all that a page shows.
type screen struct {
	Title, Style, Script any // the last two are of package template's types
	Clock                string
	Self                 string
	Token                string
	Overview             *overview
	Pool                 *figures // nil if there is no pool
	Conns                *connections
	Events               *happened
}

// pager leads to the pages around one.
type pager struct {
	From, To, Of   string
	Previous, Next string // links; "" where there is none
}

// pagerOf shows page of n rows, and returns which rows are on it. A page that is not there any more
// is the last.
func pagerOf(page, n, rows int, link func(page int) string) (p pager, from, to int) {
	page = max(0, min(page, (n-1)/rows))
	from = page * rows
	to = min(from+rows, n)
	p = pager{From: count(min(from+1, n)), To: count(to), Of: count(n)}
	if page > 0 {
		p.Previous = link(page - 1)
	}
	if to < n {
		p.Next = link(page + 1)
	}
	return p, from, to
}

// overview is the table of all pools. There is none for one pool.
type overview struct {
	Pager pager
	Rows  []poolRow
}

type poolRow struct {
	ID, Link, Name, Addr                          string
	Open, Capacity, Leased, Waiting, Lost, Healed string
	Selected, Down                                bool
	Chart                                         chart
}

func (h *handler) overview(v view, now time.Time) *overview {
	if len(h.pools) < 2 {
		return nil
	}
	p, from, to := pagerOf(v.pools, len(h.pools), rowsOfPools, func(page int) string { return v.withPools(page).link() })
	o := &overview{Pager: p}
	for _, pool := range h.pools[from:to] {
		s, samples := pool.latest()
		o.Rows = append(o.Rows, poolRow{
			ID: "p" + strconv.Itoa(pool.index), Link: v.withPool(pool.index).link(), Name: pool.name, Addr: addrText(pool.mux.Addr()),
			Open: count(s.Open), Capacity: count(s.Capacity), Leased: count(s.LeasedReaders + s.LeasedWriters), Waiting: count(s.Waiting),
			Lost: count(s.Lost), Healed: count(s.Healed), Selected: pool.index == v.pool, Down: s.Open == 0 && s.LastConnectError != nil,
			Chart: drawLine(gauge(samples, func(s sample) int { return s.open }), lows, float64(s.Capacity), axisOf(samples, now)),
		})
	}
	return o
}

// figures is one pool.
type figures struct {
	Name, Addr string
	Shown      string // what time the charts show
	Renew      bool   // there is a button
	Tiles      []tile
	Facts      []fact
	Trouble    []fact // what is wrong at this moment
	Addresses  []address
}

type tile struct {
	ID, Label, Value, Of, Note, Tone string
	Chart                            chart
}

type fact struct{ Label, Value string }

// gauge is a series of what was.
func gauge(samples []sample, f func(sample) int) (series []point) {
	for _, s := range samples {
		series = append(series, point{s.at, float64(f(s))})
	}
	return series
}

// counter is a series of how much a counter has grown from sample to sample.
func counter(samples []sample, f func(sample) uint64) (series []point) {
	for i := 1; i < len(samples); i++ {
		series = append(series, point{samples[i].at, float64(f(samples[i]) - f(samples[i-1]))})
	}
	return series
}

// grown is how much a counter has grown over all samples.
func grown(samples []sample, f func(sample) uint64) uint64 {
	if len(samples) == 0 {
		return 0
	}
	return f(samples[len(samples)-1]) - f(samples[0])
}

// ratePause is the time that rates are taken over.
const ratePause = 5 * time.Second

// recently is how much a counter grows per second.
func recently(samples []sample, f func(sample) uint64) float64 {
	if len(samples) < 2 {
		return 0
	}
	last := samples[len(samples)-1]
	first := samples[len(samples)-2]
	for i := len(samples) - 2; i >= 0 && last.at.Sub(samples[i].at) <= ratePause; i-- {
		first = samples[i]
	}
	d := last.at.Sub(first.at)
	if d <= 0 {
		return 0
	}
	return float64(f(last)-f(first)) / d.Seconds()
}

// highest is the highest value of a series.
func highest(series []point) (most int) {
	for _, p := range series {
		most = max(most, int(p.value))
	}
	return most
}

func (h *handler) figures(p *pool, now time.Time) *figures {
	s, samples := p.latest()
	halves, shown := 2*s.Capacity, axisOf(samples, now)
	open := gauge(samples, func(s sample) int { return s.open })
	leased := gauge(samples, func(s sample) int { return s.leased })
	waiting := gauge(samples, func(s sample) int { return s.waiting })
	lost := func(s sample) uint64 { return s.lost }
	healed := func(s sample) uint64 { return s.healed }
	waited := func(s sample) uint64 { return s.waited }

	line := func(series []point, of pick, top int, what string) chart {
		c := drawLine(series, of, float64(top), shown)
		c.Says = what + " over " + shown.says + ", " + count(highest(series)) + " at most"
		return c
	}
	bars := func(f func(sample) uint64, what string) chart {
		c := drawBars(counter(samples, f), shown)
		c.Says = what + " over " + shown.says + ", " + count(grown(samples, f)) + " in all"
		return c
	}
	f := &figures{Name: p.name, Addr: addrText(p.mux.Addr()), Shown: shown.says, Renew: h.token != "", Addresses: p.addresses()}
	f.Tiles = []tile{
		{ID: "open", Label: "Open", Value: count(s.Open), Of: count(s.Capacity), Note: connecting(s), Chart: line(open, lows, s.Capacity, "open connections")},
		{
			ID: "leased", Label: "Leased", Value: count(s.LeasedReaders + s.LeasedWriters), Of: count(halves),
			Note:  rate(recently(samples, func(s sample) uint64 { return s.acquired })) + " leases/s",
			Chart: line(leased, peaks, 0, "leased halves"),
		},
		{
			ID: "waiting", Label: "Waiting", Value: count(s.Waiting), Note: "most " + count(highest(waiting)),
			Chart: line(waiting, peaks, 0, "waiting callers"),
		},
		{ID: "waits", Label: "Waits", Value: count(s.Waited), Note: meanWait(samples), Chart: bars(waited, "waits")},
		{ID: "lost", Label: "Lost", Value: count(s.Lost), Note: lately(grown(samples, lost)), Tone: "bad", Chart: bars(lost, "lost connections")},
		{ID: "healed", Label: "Healed", Value: count(s.Healed), Note: lately(grown(samples, healed)), Tone: "good", Chart: bars(healed, "healed connections")},
	}
	f.Facts = []fact{
		{"Read halves", count(s.IdleReaders) + " idle, " + count(s.LeasedReaders) + " leased"},
		{"Write halves", count(s.IdleWriters) + " idle, " + count(s.LeasedWriters) + " leased"},
		{"Waiting for arrivals", count(s.WaitingReady)},
		{"Leases", count(s.Acquired)},
		{"Acquires timed out", count(s.TimedOut)},
		{"Acquires canceled", count(s.Canceled)},
		{"Acquires refused", count(s.Refused)},
		{"Connects", count(s.Connected) + " made, " + count(s.ConnectFailed) + " failed"},
		{"Scaled", count(s.ScaledUp) + " up, " + count(s.ScaledDown) + " down"},
		{"Retired", count(s.Retired) + " (" + count(s.Expired) + " for age)"},
		{"Killed", count(s.Killed)},
		{"Probed", count(s.Probed)},
		{"Wait, half and 99 %", quantiles(s.Waits)},
		{"Connect, half and 99 %", quantiles(s.Connects)},
		{"Suspected leaks", count(s.SuspectedLeaks)},
		{"Pause before connects", pause(s.Backoff)},
	}
	if s.LastConnectError != nil {
		f.Trouble = append(f.Trouble, fact{"The last connect failed", errText(s.LastConnectError)})
	}
	return f
}

// quantiles are bounds of a half, and of nearly all.
func quantiles(h plex.Histogram) string {
	if h.Count() == 0 {
		return "none"
	}
	return "≤ " + span(h.Quantile(0.5)) + ", ≤ " + span(h.Quantile(0.99))
}

func pause(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return span(d)
}

func connecting(s plex.Stats) string {
	if s.Connecting == 0 {
		return "none connecting"
	}
	return count(s.Connecting) + " connecting"
}

func lately(n uint64) string {
	if n == 0 {
		return "none lately"
	}
	return count(n) + " lately"
}

// meanWait is how long callers have waited lately.
func meanWait(samples []sample) string {
	n := grown(samples, func(s sample) uint64 { return s.waited })
	if n == 0 {
		return "none lately"
	}
	return "mean " + span(time.Duration(grown(samples, func(s sample) uint64 { return uint64(s.waitTime) })/n))
}

// connections is the table of a pool's connections.
type connections struct {
	Pager   pager
	Pinned  string // how many something is expected of; "" for none
	Orders  []choice
	Rows    []connRow
	Blind   bool // something is leased, and the pool does not remember by whom
	Actions bool
	Pool    int
	Self    string
	Token   string
}

type choice struct {
	Label, Link string
	Chosen      bool
}

type connRow struct {
	ID, Key            string // the key tells it from others for an action; the id is unique on the page
	Remote, Local, Age string
	Reader, Writer     halfCell
	Leases, Pins       string
	Leaving, Err       string
}

type halfCell struct {
	State            plex.HalfState
	For, Who, Stacks string
}

func (h *handler) connections(v view, p *pool, now time.Time) *connections {
	census := p.look()
	all := census.by(v.order)
	c := &connections{Actions: h.token != "", Token: h.token, Pool: p.index, Self: v.link()}
	for _, o := range []struct {
		order order
		label string
	}{{byAge, "oldest first"}, {byHold, "longest held"}, {byLeases, "most leased"}} {
		c.Orders = append(c.Orders, choice{o.label, v.withOrder(o.order).link(), o.order == v.order})
	}
	if census.pinned > 0 {
		c.Pinned = count(census.pinned)
	}
	var from, to int
	c.Pager, from, to = pagerOf(v.page, len(all), rowsOfConns, func(page int) string { return v.withPage(page).link() })
	seen := make(map[string]int)
	for _, r := range all[from:to] {
		reader, writer := r.conn.Stacks()
		i := r.info
		row := connRow{
			Key: r.key(), Remote: addrText(i.Remote), Local: addrText(i.Local), Age: span(now.Sub(i.Opened)),
			Reader: cell(i.Reader, reader, now), Writer: cell(i.Writer, writer, now),
			Leases: count(r.leases()), Leaving: i.Leaving, Err: errText(i.Err),
		}
		row.ID = row.Key
		if seen[row.Key]++; seen[row.Key] > 1 { // opened in the same moment, and the addresses are the same
			row.ID += "-" + strconv.Itoa(seen[row.Key])
		}
		if i.Pins > 0 {
			row.Pins = count(i.Pins)
		}
		c.Rows = append(c.Rows, row)
		c.Blind = c.Blind || r.leased() > 0 && r.since().IsZero()
	}
	return c
}

func cell(i plex.HalfInfo, stack string, now time.Time) halfCell {
	c := halfCell{State: i.State}
	if i.State == plex.HalfLeased && !i.Since.IsZero() {
		c.For = span(now.Sub(i.Since))
		c.Who, c.Stacks = holder(stack), stack
	}
	return c
}

// happened is the list of events.
type happened struct {
	Rows     []event
	Count    string
	WithPool bool
}

func (h *handler) happened() *happened {
	events, n := h.events.latest()
	return &happened{Rows: events, Count: count(n), WithPool: len(h.pools) > 1}
}
