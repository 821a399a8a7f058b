package browsertest

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/plexdebug"
)

// rows is how many connections are on the page.
const rows = `document.querySelectorAll(".conns tbody tr").length`

// rowOf is the element of a connection; null if it is not on the page.
func rowOf(c plex.Conn) string {
	return fmt.Sprintf(`[...document.querySelectorAll(".conns tbody tr")].find(r => r.textContent.includes(%q))`, c.LocalAddr().String())
}

func TestThePageFollowsThePool(t *testing.T) {
	b := newBrowser(t)
	s := newService(t)
	mux := s.pool(t, "orders", 8)
	b.size(desktop, 1000, "light")
	b.open(mount(t, plexdebug.Page{Pools: []*plex.Multiplexer{mux}}))
	b.await(is(`text("#tile-open b") === "8"`))
	require.Equal(t, 8, eval[int](b, rows))
	require.Equal(t, "orders · plex", eval[string](b, `document.title`))

	// Three are leased, and one of them is unfolded.
	var leased []plex.Writer
	for range 3 {
		w, err := mux.Writer(t.Context(), patience)
		require.NoError(t, err)
		leased = append(leased, w)
	}
	b.await(is(`text("#tile-leased b") === "3"`))
	b.await(`document.querySelectorAll(".half.leased").length === 3`)
	b.await(fmt.Sprintf(`%s.querySelector("details") !== null`, rowOf(leased[1].Conn())))
	eval[bool](b, fmt.Sprintf(`%s.mark = %[1]s.querySelector("details").open = true`, rowOf(leased[1].Conn())))
	require.Contains(t, eval[string](b, rowOf(leased[1].Conn())+`.querySelector("pre").textContent`), "TestThePageFollowsThePool")
	path := eval[string](b, `document.querySelector("#tile-leased .line").getAttribute("d")`)

	// One is killed: it is an event at once, and leaves the table.
	victim := leased[0].Conn()
	require.True(t, eval[bool](b, rowOf(victim)+` !== undefined`))
	require.NoError(t, leased[0].Kill())
	b.await(is(`text(".events li.bad b") === "lost" && text(".events li.bad em") === "(killed)"`))
	b.await(rowOf(victim) + ` === undefined`)
	b.await(rows + ` === 8`)
	b.await(is(`text("#tile-lost b") === "1" && text("#tile-healed b") === "1"`))
	b.await(`document.querySelector("#tile-lost .bars") !== null`)
	b.await(fmt.Sprintf(`document.querySelector("#tile-leased .line").getAttribute("d") !== %q`, path))

	// What has stayed is the same element, and what was unfolded still is.
	require.True(t, eval[bool](b, rowOf(leased[1].Conn())+`.mark`))
	require.True(t, eval[bool](b, rowOf(leased[1].Conn())+`.querySelector("details").open`))
	b.picture("followed")
	for _, w := range leased[1:] {
		require.NoError(t, w.Close())
	}
	b.await(is(`text("#tile-leased b") === "0"`))
}

// populated is a page with much on it: pools, long names, leases with stacks, errors, buttons.
func populated(t *testing.T) (b *browser, address string) {
	b = newBrowser(t)
	s := newService(t)
	long := s.pool(t, "a-pool-with-a-name-that-is-longer-than-a-phone-is-wide", 3)
	orders := s.pool(t, "orders", 6)
	r, err := orders.Duplex(t.Context(), patience)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	address = mount(t, plexdebug.Page{Pools: []*plex.Multiplexer{orders, long}, AllowActions: true})
	w, err := orders.Writer(t.Context(), patience)
	require.NoError(t, err)
	require.NoError(t, w.Kill())
	return b, address
}

func TestNothingIsWiderThanTheWindow(t *testing.T) {
	b, address := populated(t)
	for _, query := range []string{"", "?pool=1"} {
		for _, width := range []int64{320, phone, 600, 768, 1024, desktop, 2560} {
			b.size(width, 844, "light")
			b.open(address + query)
			eval[int](b, `document.querySelectorAll("details").forEach(d => d.open = true)`+` || 0`)
			require.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width, "%s at %d", query, width)
		}
	}
	b.size(phone, 844, "light")
	b.open(address)
	b.picture("phone-unfolded")
}

// contrast is the ratio of the luminance of the text of what a selector finds to that of the page.
const contrast = `(selector) => {
	const light = (c) => {
		const [r, g, b] = c.match(/[\d.]+/g).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const [a, b] = [getComputedStyle(document.querySelector(selector)).color, getComputedStyle(document.body).backgroundColor].map(light);
	return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}`

func TestTheTextCanBeReadInTheDarkAndInTheLight(t *testing.T) {
	b, address := populated(t)
	paper := make(map[string]string)
	for _, scheme := range []string{"light", "dark"} {
		b.size(desktop, 1000, scheme)
		b.open(address)
		b.await(`document.querySelector(".events .bad b") !== null && document.querySelector(".half.leased") !== null`)
		paper[scheme] = eval[string](b, `getComputedStyle(document.body).backgroundColor`)
		for _, selector := range []string{"h2", ".value b", "h4", ".note", ".mono", ".half.idle", ".half.leased", "a", ".events .bad b", ".events .good b", ".error", ".events time", ".where small", ".value span", "button"} {
			require.GreaterOrEqual(t, eval[float64](b, fmt.Sprintf("(%s)(%q)", contrast, selector)), 4.5, "%s in %s", selector, scheme)
		}
	}
	require.NotEqual(t, paper["light"], paper["dark"])
}

func TestWithoutJavaScriptThePageIsASnapshot(t *testing.T) {
	b := newBrowser(t)
	s := newService(t)
	mux := s.pool(t, "orders", 60)
	b.do(emulation.SetScriptExecutionDisabled(true))
	b.do(chromedp.Navigate(mount(t, plexdebug.Page{Pools: []*plex.Multiplexer{mux}})))
	snapshot := func(selector string) (text string) {
		b.do(chromedp.Text(selector, &text, chromedp.ByQuery))
		return text
	}
	require.Equal(t, "snapshot", snapshot("#state"))
	require.Equal(t, "60", snapshot("#tile-open b"))
	require.Contains(t, snapshot(".pager"), "1–50 of 60")
	b.do(chromedp.Click(`a[rel=next]`, chromedp.ByQuery), chromedp.WaitVisible(`a[rel=prev]`, chromedp.ByQuery))
	require.Contains(t, snapshot(".pager"), "51–60 of 60")
}

func TestButtonsWork(t *testing.T) {
	b := newBrowser(t)
	asked := make(chan string, 1)
	chromedp.ListenTarget(b.ctx, func(event any) {
		if e, ok := event.(*page.EventJavascriptDialogOpening); ok {
			asked <- e.Message
			go func() { _ = chromedp.Run(b.ctx, page.HandleJavaScriptDialog(true)) }()
		}
	})
	s := newService(t)
	mux := s.pool(t, "orders", 4)
	b.open(mount(t, plexdebug.Page{Pools: []*plex.Multiplexer{mux}, AllowActions: true}))
	old := slices.Collect(mux.Conns())
	eval[bool](b, rowOf(old[2])+`.querySelector("button").click() || true`)
	b.await(is(`text("#events").includes("(asked for)")`))
	b.await(rowOf(old[2]) + ` === undefined && ` + rows + ` === 4`)
	require.EqualValues(t, 1, mux.Stats().Retired)
	require.Equal(t, "live", eval[string](b, `document.querySelector("#state").textContent`), "the page has stayed")

	b.do(chromedp.Click(`form.action button`, chromedp.ByQuery))
	require.Contains(t, <-asked, "orders")
	for _, c := range old {
		b.await(rowOf(c) + ` === undefined`)
	}
	b.await(rows + ` === 4`)
}

func TestTenThousandConnectionsAreEasyToWatch(t *testing.T) {
	const n = 10_000
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i], _ = fakenet.Pair()
	}
	mux, err := plex.New(t.Context(), plex.WithConnections(conns...), plex.WithName("many"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mux.Close()) })
	b := newBrowser(t)
	b.size(desktop, 1000, "dark")
	b.open(mount(t, plexdebug.Page{Pools: []*plex.Multiplexer{mux}}))
	require.Equal(t, 50, eval[int](b, rows))
	w, err := mux.Writer(t.Context(), patience)
	require.NoError(t, err)
	require.NoError(t, w.Kill())
	b.await(is(`text("#tile-open b") === "9,999" && text("#connections .total") === "9,999"`))
	b.do(chromedp.Click(`a[rel=next]`, chromedp.ByQuery), chromedp.WaitVisible(`a[rel=prev]`, chromedp.ByQuery))
	b.await(is(`text("#state") === "live" && text(".pager b") === "51–100"`))
	b.picture("many")
}

// A page that nobody sees is not followed.
func TestAHiddenPageRests(t *testing.T) {
	b := newBrowser(t)
	s := newService(t)
	h := plexdebug.Handler(s.pool(t, "orders", 1))
	turns := make(chan bool, 10) // a live page has been opened, or has gone
	b.open(mountHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("live") {
			turns <- true
			defer func() { turns <- false }()
		}
		h.ServeHTTP(w, r)
	})))
	turn := func() bool {
		select {
		case live := <-turns:
			return live
		case <-time.After(patience):
			t.Fatal("the page does as before")
			return false
		}
	}
	hide := func(hidden bool) {
		eval[bool](b, fmt.Sprintf(`(() => {
			Object.defineProperty(document, "hidden", {configurable: true, get: () => %t});
			return document.dispatchEvent(new Event("visibilitychange"));
		})()`, hidden))
	}
	require.True(t, turn())
	hide(true)
	require.False(t, turn())
	hide(false)
	require.True(t, turn())
}
