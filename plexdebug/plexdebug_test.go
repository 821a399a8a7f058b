package plexdebug_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/plexdebug"
)

// forgetful is to be found in stacks.
func forgetful(t testing.TB, m *plex.Multiplexer) plex.Writer {
	t.Helper()
	w, err := m.Writer(t.Context(), 0)
	require.NoError(t, err)
	return w
}

func TestThePageIsAWholeSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 3, plex.WithName("orders"), plex.WithLeakDetection(time.Hour))
		h := plexdebug.Handler(m)
		w := forgetful(t, m)
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		unpin := w.Conn().Pin()
		page := get(t, h, "/debug/plex/")
		require.Contains(t, page, "<title>orders · plex</title>")
		require.Contains(t, page, `<h2>orders</h2><span class="mono">`+m.Addr().String()+`</span>`)
		require.Contains(t, page, "<b>3</b><span> / 3</span>", "open")
		require.Contains(t, page, "<b>2</b><span> / 6</span>", "leased")
		for c := range m.Conns() {
			require.Contains(t, page, c.RemoteAddr().String())
			require.Contains(t, page, c.LocalAddr().String())
		}
		require.Equal(t, 4, strings.Count(page, "</i>idle</span>"))
		require.Contains(t, page, "</i>leased <b>2 min 0 s</b></span>")
		require.Contains(t, page, "<summary>plexdebug_test.forgetful</summary>")
		require.Contains(t, page, "<summary>plexdebug_test.TestThePageIsAWholeSnapshot")
		require.Contains(t, page, "plexdebug_test.go:")
		require.Contains(t, page, `data-label="pins">1</td>`)
		require.Contains(t, page, `<span class="total">3, 1 pinned</span>`)
		require.NotContains(t, page, "WithLeakDetection")
		require.NotContains(t, page, "<button")
		require.NotContains(t, page, "Pools", "there is only one")
		require.Contains(t, page, `<span id="state">snapshot</span>`)
		unpin()
		require.NoError(t, w.Close())
		require.NoError(t, r.Close())

		require.NoError(t, m.Close())
		time.Sleep(2 * time.Second)
		page = get(t, h, "/debug/plex/")
		require.Contains(t, page, "No connection is open.")
		require.Contains(t, page, "<b>0</b><span> / 3</span>")

		plain := poolOf(t, 1)
		w = forgetful(t, plain)
		page = get(t, plexdebug.Handler(plain), "/debug/plex")
		require.Contains(t, page, "<h2>pool 1</h2>", "it has no name")
		require.Contains(t, page, "</i>leased</span>")
		require.Contains(t, page, "With WithLeakDetection, the pool also tells", "why that is all")
		require.NoError(t, w.Close())

		require.Contains(t, get(t, plexdebug.Handler(nil, nil), "/"), "There is no pool to show.")
		require.Contains(t, get(t, plexdebug.Page{Title: "checkout"}.Handler(), "/"), "<title>checkout</title>")
	})
}

func TestEveryoneOfTenThousandConnectionsIsOnOnePage(t *testing.T) {
	const n, rows = 10_000, 50
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i], _ = fakenet.Pair()
	}
	m, err := plex.New(t.Context(), plex.WithConnections(conns...))
	require.NoError(t, err)
	defer m.Close()
	h := plexdebug.Handler(m)
	row := regexp.MustCompile(`<tr id="(c\w+)">`)

	seen := make(map[string]bool)
	target := "/debug/plex/"
	pages := 0
	for ; target != ""; pages++ {
		page := get(t, h, target)
		require.Less(t, len(page), 100_000)
		all := row.FindAllStringSubmatch(page, -1)
		require.Len(t, all, rows)
		for _, match := range all {
			require.False(t, seen[match[1]], "twice")
			seen[match[1]] = true
		}
		if target = ""; strings.Contains(page, `rel="next"`) {
			target = "/debug/plex/" + next.FindStringSubmatch(page)[1]
		}
	}
	require.Equal(t, n/rows, pages)
	require.Len(t, seen, n)

	page := get(t, h, "/?page=123456789")
	require.Contains(t, page, "<b>9,951–10,000</b> of 10,000", "it is the last")
	for _, nonsense := range []string{"?page=-1", "?page=x&pool=7&pools=9&order=no", "?page=99999999999999999999"} {
		require.Contains(t, get(t, h, "/"+nonsense), "<b>1–50</b> of 10,000")
	}
}

var next = regexp.MustCompile(`<a href="([^"]*)" rel="next">`)

func TestConnectionsHaveAnOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 3, plex.WithLeakDetection(time.Hour))
		h := plexdebug.Handler(m)
		first := func(order string) string {
			time.Sleep(time.Second)
			return between(t, get(t, h, "/?order="+order), `<td class="where"><span class="mono">`, "<")
		}
		a, b := forgetful(t, m), forgetful(t, m)
		require.NoError(t, a.Close())
		time.Sleep(time.Minute)
		c := forgetful(t, m)
		require.Equal(t, b.RemoteAddr().String(), first("held"))
		require.NoError(t, b.Close())
		require.Equal(t, c.RemoteAddr().String(), first("held"))
		require.NoError(t, c.Close())
		for range 5 {
			w, err := a.Conn().Writer(t.Context(), 0)
			require.NoError(t, err)
			require.NoError(t, w.Close())
		}
		require.Equal(t, a.RemoteAddr().String(), first("leases"))
		killOne(t, m)
		synctest.Wait()
		time.Sleep(time.Second)
		page := get(t, h, "/")
		rows := strings.Split(page, `data-label="age">`)
		require.Len(t, rows, 4)
		require.True(t, strings.HasPrefix(rows[3], "1.0 s<"), "the newest is the last")
	})
}

func TestWithoutLeakDetectionWhatIsLeasedGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 3)
		h := plexdebug.Handler(m)
		for range 3 { // each is the only one that is leased, once
			w, err := m.Writer(t.Context(), 0)
			require.NoError(t, err)
			time.Sleep(time.Second)
			page := get(t, h, "/?order=held")
			require.Equal(t, w.LocalAddr().String(), between(t, page, `<small class="mono">from `, "<"))
			require.NoError(t, w.Close())
		}
	})
}

func TestManyPoolsHavePages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pools []*plex.Multiplexer
		for i := range 60 {
			pools = append(pools, poolOf(t, 1+i%2, plex.WithName(fmt.Sprint("pool-", i))))
		}
		h := plexdebug.Handler(pools...)
		page := get(t, h, "/?pool=26&pools=1")
		require.Contains(t, page, "<b>26–50</b> of 60")
		require.Contains(t, page, "<h2>pool-26</h2>")
		require.Equal(t, 25, strings.Count(page, `<th scope="row">`))
		require.Contains(t, page, `<a href="?pool=27&amp;pools=1">pool-27</a>`)
		require.Contains(t, page, `<a href="?pool=26&amp;pools=1" aria-current="true">pool-26</a>`)
		require.Contains(t, page, `<tr id="p26" class="selected">`)
	})
}

func TestStatsAreJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		failing, err := plex.New(t.Context(), plex.WithMaxCapacity(2), plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) { return nil, down })))
		require.NoError(t, err)
		defer failing.Close()
		_, err = failing.Writer(t.Context(), time.Second)
		require.ErrorIs(t, err, down)
		h := plexdebug.Handler(poolOf(t, 2, plex.WithName("orders")), failing)
		for _, target := range []string{"/debug/plex/stats.json", "/stats.json?x", "/debug/plex?stats.json"} {
			var got struct {
				Time  time.Time
				Pools []struct {
					Name, Address, LastConnectError string
					Open, Capacity                  int
					ConnectFailed                   uint64
					WaitDuration                    time.Duration
					Waits                           plex.Histogram
				}
			}
			require.NoError(t, json.Unmarshal([]byte(get(t, h, target)), &got))
			require.True(t, time.Now().Equal(got.Time))
			require.Len(t, got.Pools, 2)
			require.Equal(t, "orders", got.Pools[0].Name)
			require.Equal(t, 2, got.Pools[0].Open)
			require.NotEmpty(t, got.Pools[0].Address)
			require.Empty(t, got.Pools[0].LastConnectError)
			require.Equal(t, "pool 2", got.Pools[1].Name)
			require.Contains(t, got.Pools[1].LastConnectError, "down")
			require.NotZero(t, got.Pools[1].ConnectFailed)
			require.Equal(t, time.Second, got.Pools[1].WaitDuration)
			require.EqualValues(t, 1, got.Pools[1].Waits.Count())
		}
	})
}

// evil is what a peer, or whoever names things, may have thought of.
const evil = "<script>alert(1)</script>\"'>\r\ndata: x\r\n\r\nevent: events\rdata: y\n\n&amp;\rretry: 1\revent: z\rdata: z\r\rdata: z"

type evilAddr struct{}

func (evilAddr) Network() string { return evil }
func (evilAddr) String() string  { return evil }

type panickyAddr struct{ evilAddr }

func (panickyAddr) String() string { panic("no address") }

type from struct {
	*fakenet.Conn
	addr net.Addr
}

func (c from) RemoteAddr() net.Addr { return c.addr }

func TestHostileTextIsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, peer := fakenet.Pair()
		b, _ := fakenet.Pair()
		c, _ := fakenet.Pair()
		m, err := plex.New(t.Context(), plex.WithName(evil), plex.WithConnections(from{a, evilAddr{}}, from{b, evilAddr{}}, from{c, panickyAddr{}}))
		require.NoError(t, err)
		defer m.Close()
		h := plexdebug.Page{Title: evil, Pools: []*plex.Multiplexer{m, m}}.Handler()
		tab := open(t, h, "/?live", nil)
		defer tab.leave()
		peer.Reset(errors.New(evil+strings.Repeat("é", 10_000)), false)
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)
		_, err = r.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, r.Close())
		time.Sleep(2 * time.Second)
		parts := tab.parts(t)
		require.Len(t, parts, 5, "nobody has begun a message of his own")
		page := get(t, h, "/")
		require.Equal(t, 1, strings.Count(page, "<script>"))
		require.Contains(t, page, "&lt;script&gt;alert(1)")
		require.Contains(t, page, "the address&#39;s String has panicked")
		for name, html := range parts {
			require.NotContains(t, html, "<script>", name)
			require.Less(t, len(html), 20_000, name)
		}
		require.Contains(t, parts["events"], "&lt;script&gt;alert(1)")
		require.Contains(t, parts["events"], "é …", "what is too long is cut")
		require.Contains(t, parts["connections"], "&lt;script&gt;alert(1)")
	})
}

func TestWhereItIsMountedDoesNotMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := plexdebug.Page{Pools: []*plex.Multiplexer{poolOf(t, 60)}, AllowActions: true}.Handler()
		for _, mounted := range []http.Handler{h, http.StripPrefix("/debug/plex", h), http.StripPrefix("/debug/plex/", h)} {
			page := get(t, mounted, "/debug/plex/?order=held")
			require.Contains(t, page, `action="?order=held"`)
			require.Equal(t, "?order=held&amp;page=1", next.FindStringSubmatch(page)[1], "relative to the page")
			answer := post(mounted, "/debug/plex/?order=held", url.Values{"do": {"renew"}, "pool": {"0"}, "token": {tokenOf(t, page)}})
			require.Equal(t, http.StatusSeeOther, answer.Code)
			require.Equal(t, "?order=held", answer.Header().Get("Location"))
			time.Sleep(time.Minute) // all have been renewed
		}
		for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodOptions} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
			require.Equal(t, http.StatusMethodNotAllowed, w.Code)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/?live", nil))
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
		require.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
	})
}

// Connections that cannot be told apart are rows of their own all the same.
func TestTwinsAreTwoRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var twins []net.Conn
		for range 3 {
			c, _ := fakenet.Pair()
			twins = append(twins, twin{c})
		}
		m, err := plex.New(t.Context(), plex.WithConnections(twins...))
		require.NoError(t, err)
		defer m.Close()
		h := plexdebug.Page{Pools: []*plex.Multiplexer{m}, AllowActions: true}.Handler()
		page := get(t, h, "/")
		ids := regexp.MustCompile(`<tr id="(c[^"]+)">`).FindAllStringSubmatch(page, -1)
		require.Len(t, ids, 3)
		require.Equal(t, ids[0][1]+"-2", ids[1][1])
		require.Equal(t, ids[0][1]+"-3", ids[2][1])
		answer := post(h, "/", url.Values{"do": {"retire"}, "pool": {"0"}, "conn": {ids[0][1]}, "token": {tokenOf(t, page)}})
		require.Equal(t, http.StatusSeeOther, answer.Code)
		time.Sleep(time.Minute)
		require.Equal(t, 2, m.Stats().Open)
	})
}

type twin struct{ *fakenet.Conn }

func (twin) LocalAddr() net.Addr  { return &net.UnixAddr{} }
func (twin) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "/run/service"} }
