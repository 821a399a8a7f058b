package browsertest

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexdebug"
)

var (
	screenshots = flag.String("screenshots", "", "a directory to leave pictures of the page in")
	history     = flag.Duration("history", 0, "how long the pools work before pictures are taken")
)

// patience is how long anything may take to be seen.
const patience = time.Minute

// browser is a tab of a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string // what the console has said that it should not
}

// newBrowser starts a Chromium that ends with the test, and fails the test if the console tells of
// errors.
func newBrowser(t *testing.T) *browser {
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; on Debian: apt-get install chromium", err)
		}
		t.Skipf("%v; on Debian: apt-get install chromium", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(profile(t)), chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(patience))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium has none for root
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	b := &browser{t: t, ctx: ctx}
	chromedp.ListenTarget(ctx, b.note)
	b.do(cdplog.Enable())
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		require.Empty(t, b.errors, "on the console")
	})
	return b
}

// profile makes a directory for what a browser keeps. Some of its processes write there for a moment after
// the one that was started is gone, so it takes more than one try to remove it, and t.TempDir makes one only.
func profile(t *testing.T) string {
	dir, err := os.MkdirTemp("", "plexdebug-")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return os.RemoveAll(dir) == nil }, patience, 50*time.Millisecond)
	})
	return dir
}

func (b *browser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, e.ExceptionDetails.Error())
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.LevelError || e.Entry.Level == cdplog.LevelWarning {
			b.errors = append(b.errors, fmt.Sprint(e.Entry.Text, " ", e.Entry.URL))
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
			b.errors = append(b.errors, fmt.Sprint(e.Type, " ", len(e.Args)))
		}
	}
}

func (b *browser) do(actions ...chromedp.Action) {
	b.t.Helper()
	// The first call starts the browser, which must outlive it; so the bound is not a ctx.
	late := time.AfterFunc(patience, func() { b.t.Error("the browser takes too long"); _ = chromedp.Cancel(b.ctx) })
	defer late.Stop()
	require.NoError(b.t, chromedp.Run(b.ctx, actions...))
}

// eval evaluates an expression.
func eval[T any](b *browser, expression string) (value T) {
	b.t.Helper()
	b.do(chromedp.Evaluate(expression, &value))
	return value
}

// await asks until an expression is true. Between one page and the next there is nobody to ask, and
// that is an error that passes.
func (b *browser) await(expression string) {
	b.t.Helper()
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		var yes bool
		err := chromedp.Run(b.ctx, chromedp.Evaluate(expression, &yes))
		if yes && err == nil {
			return
		}
		select {
		case <-ticks.C:
		case <-late.C:
			require.NoError(b.t, err)
			require.Fail(b.t, "it does not become true", expression)
		}
	}
}

// text is a function of the page's: the text of what a selector finds.
const text = `const text = (s) => (document.querySelector(s) || {}).textContent || "";`

func is(condition string) string { return "(() => {" + text + " return " + condition + "})()" }

const (
	desktop = 1440
	phone   = 390
)

// size sets the size of the window, and dark or light.
func (b *browser) size(width, height int64, scheme string) {
	b.do(emulation.SetDeviceMetricsOverride(width, height, 1, width == phone),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
}

// open loads a page and waits until it is live.
func (b *browser) open(address string) {
	b.t.Helper()
	b.do(chromedp.Navigate(address))
	b.await(is(`text("#state") === "live"`))
}

// picture leaves a picture, if any are wanted.
func (b *browser) picture(name string) {
	if *screenshots == "" {
		return
	}
	var png []byte
	b.do(chromedp.CaptureScreenshot(&png))
	require.NoError(b.t, os.MkdirAll(*screenshots, 0o700))
	require.NoError(b.t, os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o600))
}

// service sends everything back. Its connections can be broken.
type service struct {
	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool
	serving  sync.WaitGroup
}

func newService(t *testing.T) *service {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &service{listener: listener, conns: make(map[net.Conn]bool)}
	s.serving.Go(func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			s.mu.Lock()
			s.conns[conn] = true
			s.mu.Unlock()
			s.serving.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.conns, conn)
			})
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *service) stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// breakSome resets up to n connections.
func (s *service) breakSome(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		if n--; n < 0 {
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

func (s *service) pool(t *testing.T, name string, n int, options ...plex.Option) *plex.Multiplexer {
	mux, err := plex.New(t.Context(), append([]plex.Option{
		plex.WithName(name), plex.WithConnector(plex.Dial("tcp", s.listener.Addr().String())),
		plex.WithMinConnections(n), plex.WithMaxCapacity(n), plex.WithLeakDetection(time.Minute),
	}, options...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mux.Close()) })
	return mux
}

// mount serves a page where it is usually mounted.
func mount(t *testing.T, page plexdebug.Page) (address string) {
	return mountHandler(t, page.Handler())
}

func mountHandler(t *testing.T, h http.Handler) (address string) {
	routes := http.NewServeMux()
	routes.Handle("/debug/plex/", h)
	server := httptest.NewUnstartedServer(routes)
	server.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, server.Config.Shutdown(ctx), "live pages do not keep a server")
		server.Close()
	})
	return server.URL + "/debug/plex/"
}

// work has callers use whole connections until the test ends. They hold each for a random time.
func work(t *testing.T, mux *plex.Multiplexer, callers int, longest time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { stop(); working.Wait() })
	for range callers {
		working.Go(func() {
			for number := uint64(0); ctx.Err() == nil; number++ {
				_ = ask(ctx, mux, number, time.Duration(rand.ExpFloat64()*float64(longest)))
			}
		})
	}
}

// ask sends a number and waits for it to come back.
func ask(ctx context.Context, mux *plex.Multiplexer, number uint64, hold time.Duration) error {
	conn, err := mux.Duplex(ctx, time.Second)
	if err != nil {
		return err
	}
	_, err = conn.Write(binary.BigEndian.AppendUint64(nil, number))
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 8))
	}
	if err != nil {
		return errors.Join(err, conn.Kill())
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return conn.Close()
}
