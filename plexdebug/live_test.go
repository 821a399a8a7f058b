package plexdebug_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/plexdebug"
)

func TestALivePageFollowsThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 3, plex.WithName("orders"))
		h := plexdebug.Handler(m, poolOf(t, 1))
		tab := open(t, h, "/debug/plex/?live", nil)
		defer tab.leave()
		synctest.Wait()
		require.Equal(t, "text/event-stream", tab.header.Get("Content-Type"))
		parts := tab.parts(t)
		for _, name := range []string{"clock", "overview", "figures", "connections", "events"} {
			require.NotEmpty(t, parts[name], name)
		}
		require.Contains(t, parts["events"], "Nothing has happened")

		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		victim := keyOf(t, parts["connections"], w.Conn())
		time.Sleep(1100 * time.Millisecond)
		parts = tab.parts(t)
		require.Contains(t, parts["connections"], victim)
		require.Contains(t, parts["connections"], "leased")
		require.Contains(t, parts["figures"], "<b>1</b><span> / 6</span>")
		require.NotContains(t, parts, "events", "which have not changed")

		require.NoError(t, w.Kill())
		time.Sleep(200 * time.Millisecond)
		parts = tab.parts(t)
		require.Len(t, parts, 1, "events come at once")
		require.Contains(t, parts["events"], "<b>lost</b> <em>(killed)</em>")
		require.Contains(t, parts["events"], "plex: connection killed by its consumer")
		require.Contains(t, parts["events"], "<b>healed</b>")

		time.Sleep(1100 * time.Millisecond)
		parts = tab.parts(t)
		require.NotContains(t, parts["connections"], victim)
		require.Equal(t, 3, strings.Count(parts["connections"], "<tr id="))
		require.NotContains(t, parts["connections"], "</i>leased")
		require.Contains(t, parts["overview"], `data-label="lost">1</td>`)
	})
}

// What happened before anybody looked is there, too.
func TestEventsAreKeptFromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 1)
		h := plexdebug.Handler(m)
		for range 500 {
			killOne(t, m)
			time.Sleep(time.Minute)
		}
		page := get(t, h, "/")
		require.Contains(t, page, `<span class="total">1,500</span>`)
		require.Equal(t, 60, strings.Count(page, "<li id="), "the latest")
		require.Contains(t, page, `<li id="e1500" class="good">`)
	})
}

// A browser that takes nothing gets one message of what is when it is ready, not all that has been.
func TestNothingIsQueuedForASlowBrowser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 1)
		h := plexdebug.Handler(m)
		gate := make(chan struct{})
		tab := open(t, h, "/?live", gate)
		defer tab.leave()
		for range 1000 {
			killOne(t, m)
			synctest.Wait()
		}
		time.Sleep(5 * time.Second)
		gate <- struct{}{}
		synctest.Wait()
		tab.parts(t)
		gate <- struct{}{}
		synctest.Wait()
		require.Equal(t, 2, tab.writes)
		require.Less(t, tab.got.Len(), 50_000)
		parts := tab.parts(t)
		require.Contains(t, parts["events"], `id="e3000"`)
	})
}

func TestABrowserThatTakesNothingIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := plexdebug.Handler(poolOf(t, 1))
		tab := open(t, h, "/?live", make(chan struct{}))
		defer tab.leave()
		time.Sleep(9 * time.Second)
		select {
		case <-tab.done:
			t.Fatal("too early")
		default:
		}
		time.Sleep(2 * time.Second)
		select {
		case <-tab.done:
		default:
			t.Fatal("it goes on")
		}
	})
}

func TestThereIsABoundOnLivePages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := plexdebug.Handler(poolOf(t, 1))
		var tabs []*tab
		for range 32 {
			tabs = append(tabs, open(t, h, "/?live", nil))
		}
		synctest.Wait()
		refused := open(t, h, "/?live", nil)
		<-refused.done
		require.Equal(t, http.StatusServiceUnavailable, refused.code)
		get(t, h, "/") // a snapshot is for everyone
		for _, tab := range tabs {
			tab.leave()
		}
		tab := open(t, h, "/?live", nil)
		synctest.Wait()
		require.NotEmpty(t, tab.parts(t))
		tab.leave()
	})
}

// Over a real connection: what comes at the browser, and that nothing is left when it has gone.
func TestNothingIsLeftWhenAllHaveGone(t *testing.T) {
	fakenet.BalanceProcess(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			serving.Go(func() { defer conn.Close(); _, _ = io.Copy(io.Discard, conn) })
		}
	})
	m, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", listener.Addr().String())), plex.WithMinConnections(4), plex.WithMaxCapacity(4))
	require.NoError(t, err)

	routes := http.NewServeMux()
	routes.Handle("/debug/plex/", plexdebug.Handler(m))
	server := httptest.NewUnstartedServer(routes)
	server.Config.WriteTimeout = time.Minute
	server.Start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch := func(ctx context.Context) *bufio.Scanner {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/debug/plex/?live", nil)
		require.NoError(t, err)
		answer, err := server.Client().Do(request)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		lines := bufio.NewScanner(answer.Body)
		require.True(t, lines.Scan())
		t.Cleanup(func() { _ = answer.Body.Close() })
		return lines
	}
	for range 5 {
		gone, hangUp := context.WithCancel(ctx)
		watch(gone)
		hangUp()
	}
	lines := watch(ctx)
	killOne(t, m)
	found := false
	for !found && lines.Scan() {
		found = strings.Contains(lines.Text(), "<em>(killed)</em>")
	}
	require.True(t, found)

	require.NoError(t, server.Config.Shutdown(ctx), "it waits for no live page")
	for lines.Scan() { // until it is hung up on
	}
	server.Close()
	require.NoError(t, m.Close())
	require.NoError(t, listener.Close())
	serving.Wait()
}

func TestAnOverviewIsOfTheSamePoolsForEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pools []*plex.Multiplexer
		for i := range 3 {
			pools = append(pools, poolOf(t, 1, plex.WithName(fmt.Sprint("pool-", i))))
		}
		h := plexdebug.Handler(pools...)
		var tabs []*tab
		for i := range pools {
			tabs = append(tabs, open(t, h, fmt.Sprint("/?live&pool=", i), nil))
		}
		synctest.Wait()
		for i, tab := range tabs {
			parts := tab.parts(t)
			require.Contains(t, parts["figures"], fmt.Sprint("<h2>pool-", i, "</h2>"))
			require.Equal(t, 3, strings.Count(parts["overview"], `scope="row"`))
			tab.leave()
		}
	})
}
