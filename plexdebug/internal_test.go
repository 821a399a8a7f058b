package plexdebug

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

func TestSamplesAreTakenWhileSomebodyLooksAndForAWhileAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		rested := 0
		s := sampler{sample: func() { n.Add(1) }, rest: func() { rested++ }}
		taken := func(d time.Duration) int64 {
			before := n.Load()
			time.Sleep(d)
			synctest.Wait()
			return n.Load() - before
		}
		requireStopped := func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			require.Nil(t, s.timer)
			require.NotZero(t, rested)
			rested = 0
		}
		require.Zero(t, taken(time.Hour))
		s.look()
		require.EqualValues(t, 1, n.Load(), "at once")
		require.EqualValues(t, 60, taken(time.Minute+1))
		s.look()
		require.EqualValues(t, 300, taken(time.Hour), "for five minutes")
		requireStopped()

		release, ok := s.watch()
		require.True(t, ok)
		sampled := s.next()
		require.Equal(t, sampled, s.next())
		require.EqualValues(t, 3600, taken(time.Hour+1), "for as long as anybody watches")
		<-sampled
		release()
		release()
		require.EqualValues(t, 300, taken(time.Hour))
		requireStopped()
	})
}

func TestSamplesTakeATwentiethOfOneCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		s := sampler{sample: func() { n.Add(1); time.Sleep(time.Second) }, rest: func() {}}
		s.look()
		time.Sleep(4 * time.Minute)
		require.InDelta(t, 240/21, n.Load(), 1)
		time.Sleep(time.Hour)
	})
}

func TestWhatOnlyWatchersNeedIsForgottenWithoutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := plex.New(t.Context())
		require.NoError(t, err)
		defer m.Close()
		h := Page{Pools: []*plex.Multiplexer{m}}.Handler().(*handler)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		kept := func() (census bool, samples int) {
			p := h.pools[0]
			p.counting.Lock()
			defer p.counting.Unlock()
			_, all := p.latest()
			return p.census != nil, len(all)
		}
		census, samples := kept()
		require.True(t, census)
		require.Equal(t, 1, samples)
		time.Sleep(time.Hour)
		synctest.Wait()
		census, samples = kept()
		require.False(t, census)
		require.Zero(t, samples)
	})
}

func TestALookAtTheConnectionsIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := plex.New(t.Context())
		require.NoError(t, err)
		defer m.Close()
		p := newPool(m, 0)
		first := p.look()
		require.Same(t, first, p.look())
		time.Sleep(sampleEvery)
		second := p.look()
		require.NotSame(t, first, second)
		p.forget()
		require.NotSame(t, second, p.look())
	})
}

func TestSamplesOlderThanTheChartsAreForgotten(t *testing.T) {
	p := &pool{}
	now := time.Now()
	for i := range 1000 {
		p.note(now.Add(time.Duration(i)*time.Second), plex.Stats{Open: i})
	}
	_, samples := p.latest()
	require.Len(t, samples, 301)
	require.LessOrEqual(t, cap(p.samples), 1024)
	require.Equal(t, 999, samples[300].open)
	p.note(now.Add(time.Hour), plex.Stats{})
	_, samples = p.latest()
	require.Len(t, samples, 1)
}

func TestOnlyTheLatestEventsAreKept(t *testing.T) {
	var l eventLog
	for range 10_000 {
		l.add("orders", plex.Event{Kind: plex.EventLost, Err: errors.New("down")})
	}
	require.Len(t, l.last, keptEvents)
	require.LessOrEqual(t, cap(l.last), 2*keptEvents)
	shown, n := l.latest()
	require.Len(t, shown, shownEvents)
	require.EqualValues(t, 10_000, n)
	require.EqualValues(t, 10_000, shown[0].Number)
	require.EqualValues(t, 9_999, shown[1].Number)
}

func TestEventsSayWhatMatters(t *testing.T) {
	for _, test := range []struct {
		event plex.Event
		says  []string
		tone  string
	}{
		{plex.Event{Kind: plex.EventConnected, Took: time.Second, Attempts: 3}, []string{"took 1.0 s", "attempt 3"}, "good"},
		{plex.Event{Kind: plex.EventConnected, Why: "given"}, nil, "good"},
		{plex.Event{Kind: plex.EventConnectFailed, Took: time.Second, Attempts: 1}, []string{"took 1.0 s"}, "bad"},
		{plex.Event{Kind: plex.EventLost, Took: time.Minute, Missed: 7000}, []string{"1 min 0 s old", "7,000 events before it were dropped"}, "bad"},
		{plex.Event{Kind: plex.EventHealed, Took: time.Second, Attempts: 1}, []string{"missing for 1.0 s"}, "good"},
		{plex.Event{Kind: plex.EventScaled, From: 1, To: 2}, []string{"from 1 to 2"}, "plain"},
		{plex.Event{Kind: plex.EventRetired, Took: time.Hour}, []string{"1 h 0 min old"}, "plain"},
		{plex.Event{Kind: plex.EventProbed, Took: time.Millisecond}, []string{"took 1.0 ms"}, "plain"},
		{plex.Event{Kind: plex.EventProbed, Took: time.Millisecond, Err: errors.New("down")}, []string{"took 1.0 ms"}, "bad"},
		{plex.Event{Kind: plex.EventLeak, Half: "writer", Took: time.Minute}, []string{"writer held for 1 min 0 s"}, "bad"},
		{plex.Event{Kind: plex.EventBackoffBegan, Took: time.Second, Attempts: 1}, []string{"pause of 1.0 s", "after 1 failure"}, "bad"},
		{plex.Event{Kind: plex.EventBackoffBegan, Took: time.Second, Attempts: 2}, []string{"pause of 1.0 s", "after 2 failures"}, "bad"},
		{plex.Event{Kind: plex.EventBackoffEnded}, nil, "good"},
		{plex.Event{Kind: plex.EventAddressFailing}, nil, "bad"},
		{plex.Event{Kind: plex.EventAddressRecovered}, nil, "good"},
	} {
		var l eventLog
		l.add("orders", test.event)
		shown, _ := l.latest()
		require.Equal(t, test.says, shown[0].Facts, test.event.Kind)
		require.Equal(t, test.tone, shown[0].Tone(), test.event.Kind)
	}
}

func TestChartsShowTheHighestOfEachColumn(t *testing.T) {
	now := time.Now()
	ago := func(seconds int) time.Time { return now.Add(-time.Duration(seconds) * time.Second) }
	a := axis{end: now, span: 100 * time.Second}
	require.Equal(t, chart{}, drawLine(nil, peaks, 10, a))
	require.Equal(t, chart{}, drawBars(nil, a))
	require.Equal(t, chart{}, drawBars([]point{{now, 0}}, a))

	line := drawLine([]point{{ago(2), 10}, {ago(1), 3}, {ago(1), 5}, {now, 0}}, peaks, 0, a)
	require.Equal(t, "M97,2.0L98,18.5L99,35.0", line.Line)
	require.Equal(t, line.Line+"L99,36L97,36Z", line.Area)
	require.Equal(t, "M97,2.0L98,25.1L99,35.0", drawLine([]point{{ago(2), 10}, {ago(1), 3}, {ago(1), 5}, {now, 0}}, lows, 0, a).Line)
	require.Equal(t, "M99,18.5h1", drawLine([]point{{now, 5}}, peaks, 10, a).Line, "half of what it could be")
	require.Equal(t, "M99,35h1", drawLine([]point{{now, 0}}, peaks, 0, a).Line)
	require.Equal(t, "M98,36V18.5M99,36V2.0", drawBars([]point{{ago(1), 1}, {now, 2}}, a).Bars)
	require.Equal(t, chart{}, drawLine([]point{{ago(101), 1}, {ago(-5), 1}}, peaks, 0, a), "before and after")
	long := make([]point, 10_000)
	for i := range long {
		long[i] = point{ago(i / 100), float64(i)}
	}
	require.Less(t, len(drawLine(long, peaks, 0, a).Line), 20*chartWidth)
}

func TestTheAxisHasRoomForAllSamples(t *testing.T) {
	now := time.Now()
	for age, span := range map[time.Duration]time.Duration{
		0: time.Minute, time.Minute: time.Minute, 61 * time.Second: 2 * time.Minute, 3 * time.Minute: chartSpan, time.Hour: chartSpan,
	} {
		require.Equal(t, span, axisOf([]sample{{at: now.Add(-age)}, {at: now}}, now).span, age)
	}
	require.Equal(t, time.Minute, axisOf(nil, now).span)
}

func TestRatesAreThoseOfTheLastSeconds(t *testing.T) {
	now := time.Now()
	acquired := func(s sample) uint64 { return s.acquired }
	require.Zero(t, recently(nil, acquired))
	require.Zero(t, recently([]sample{{at: now}, {at: now, acquired: 7}}, acquired))
	var samples []sample
	for i := range 100 {
		samples = append(samples, sample{at: now.Add(time.Duration(i) * time.Second), acquired: uint64(max(0, i-90) * 10)})
	}
	require.InDelta(t, 10, recently(samples, acquired), 1e-9)
	require.EqualValues(t, 90, grown(samples, acquired))
	require.Len(t, counter(samples, acquired), 99)
	rare := []sample{{at: now}, {at: now.Add(time.Minute), acquired: 60}}
	require.InDelta(t, 1, recently(rare, acquired), 1e-9, "with samples that come less often")
}

func TestTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0 ns", 999: "999 ns", 1500: "1 µs", 1500 * time.Microsecond: "1.5 ms", 12 * time.Millisecond: "12 ms",
		999 * time.Millisecond: "999 ms", 9999 * time.Millisecond: "9.9 s", 59 * time.Second: "59 s", 61 * time.Second: "1 min 1 s",
		3*time.Hour + 7*time.Minute: "3 h 7 min", 50 * time.Hour: "2 d 2 h",
	} {
		require.Equal(t, want, span(d))
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -999: "-999"} {
		require.Equal(t, want, count(n))
	}
	require.Equal(t, "0", rate(0))
	require.Equal(t, "0.3", rate(0.26))
	require.Equal(t, "1,235", rate(1234.6))
	stack := "go.atomizer.io/plex.(*Multiplexer).Writer\n\t/x/plex.go:1\ngo.atomizer.io/plex/request.(*Client[...]).Do\n\t/x/do.go:7\n" +
		"example.com/shop/orders.(*store).save\n\t/y/store.go:12\nmain.main\n\t/y/main.go:3\n"
	require.Equal(t, "orders.(*store).save", holder(stack))
	require.Empty(t, holder(""))
	require.Equal(t, "request.(*flusher).run", holder("go.atomizer.io/plex.(*Multiplexer).Writer\n\t/x/plex.go:1\n"+
		"go.atomizer.io/plex/request.(*flusher).run\n\t/x/flush.go:7\nruntime.goexit\n\t/go/asm.s:1\n"), "a goroutine of plex's own")
}

func TestPagersStayInRange(t *testing.T) {
	link := func(page int) string { return "?" + count(page) }
	for _, test := range []struct {
		page, n  int
		want     pager
		from, to int
	}{
		{0, 0, pager{From: "0", To: "0", Of: "0"}, 0, 0},
		{5, 0, pager{From: "0", To: "0", Of: "0"}, 0, 0},
		{0, 10, pager{From: "1", To: "10", Of: "10"}, 0, 10},
		{0, 11, pager{From: "1", To: "10", Of: "11", Next: "?1"}, 0, 10},
		{1, 11, pager{From: "11", To: "11", Of: "11", Previous: "?0"}, 10, 11},
		{7, 20, pager{From: "11", To: "20", Of: "20", Previous: "?0"}, 10, 20},
		{-1, 20, pager{From: "1", To: "10", Of: "20", Next: "?1"}, 0, 10},
	} {
		p, from, to := pagerOf(test.page, test.n, 10, link)
		require.Equal(t, test.want, p)
		require.Equal(t, test.from, from)
		require.Equal(t, test.to, to)
	}
}

// The page has a place for what Multiplexer.Addresses will tell.
func TestThereIsAPlaceForAddresses(t *testing.T) {
	var html strings.Builder
	require.NoError(t, templates.ExecuteTemplate(&html, "figures", &figures{Addresses: []address{{"10.0.0.1:6379", "25 %", "3 s", "refused"}}}))
	require.Contains(t, html.String(), `<tr><td class="mono">10.0.0.1:6379</td><td class="n">25 %</td><td>3 s</td><td class="error">refused</td></tr>`)
}

// One address answers, one refuses, and one is gone from the list while a lease keeps its connection.
func TestAddressesAsTheyAre(t *testing.T) {
	serve := func() (string, func()) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return l.Addr().String(), func() { _ = l.Close() }
	}
	well, stopWell := serve()
	defer stopWell()
	going, stopGoing := serve()
	defer stopGoing()
	dead, stopDead := serve()
	stopDead()

	var gone atomic.Bool
	m, err := plex.New(t.Context(), plex.WithConnector(plex.DialResolved(&net.Dialer{})), plex.WithMinConnections(2), plex.WithMaxCapacity(4),
		plex.WithResolver(func(context.Context) ([]plex.Address, error) {
			all := []plex.Address{{Address: well, Name: "well"}, {Address: dead}, {Address: going}}
			if gone.Load() {
				all = all[:2]
			}
			return all, nil
		}, 10*time.Millisecond))
	require.NoError(t, err)
	defer m.Close()
	p := newPool(m, 0)
	row := func(suffix string) (found address) {
		for _, a := range p.addresses() {
			if strings.Contains(a.Address, suffix) {
				found = a
			}
		}
		return found
	}
	for range 2 { // one to each; nothing else is leased
		w, err := m.Writer(t.Context(), time.Minute)
		require.NoError(t, err)
		defer w.Close()
	}
	require.Eventually(t, func() bool {
		return row(well).Address == "well ("+well+")" && strings.HasPrefix(row(well).Share, "1 of 2")
	},
		time.Minute, time.Millisecond)
	require.Empty(t, row(well).Err)
	gone.Store(true)
	require.Eventually(t, func() bool { return strings.HasPrefix(row(going).Err, "gone from the list") }, time.Minute, time.Millisecond)
	stopWell()
	require.Eventually(t, func() bool { r := row(dead); return strings.Contains(r.Err, "failure") && r.Backoff != "" }, time.Minute, time.Millisecond)

	none, err := plex.New(t.Context(), plex.WithMaxCapacity(1))
	require.NoError(t, err)
	defer none.Close()
	require.Empty(t, newPool(none, 0).addresses())
}
