package proxy_test

// Each fault of the proxy, as a client sees it.

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/faulttest/proxy"
)

// echo is a server that says hello, and then what it is told.
func echo(c *proxy.Conn) {
	if _, err := c.Write([]byte("hello")); err != nil {
		return
	}
	_, _ = io.Copy(c, c)
}

func start(t *testing.T, cfg proxy.Config) *proxy.Proxy {
	if cfg.Handler == nil && cfg.Backend == "" {
		cfg.Handler = echo
	}
	p, err := proxy.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.Close()
		require.Zero(t, p.Open())
	})
	return p
}

func dial(t *testing.T, p *proxy.Proxy) *net.TCPConn {
	c, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c.(*net.TCPConn)
}

// always scripts every connection alike.
func always(steps ...proxy.Step) func(int) proxy.Script {
	return func(int) proxy.Script { return proxy.Script{Steps: steps} }
}

func TestEndingsHappenWhereTheScriptSays(t *testing.T) {
	for _, tc := range []struct {
		name string
		step proxy.Step
		got  string
		err  error
	}{
		{"reset", proxy.Step{Do: proxy.Reset, After: 2}, "", syscall.ECONNRESET}, // the two may be overtaken
		{"FIN", proxy.Step{Do: proxy.FIN, After: 2}, "he", nil},
		{"half close", proxy.Step{Do: proxy.HalfClose, After: 3}, "hel", nil},
		{"half close at once", proxy.Step{Do: proxy.HalfClose}, "", nil},
		{"at a time", proxy.Step{Do: proxy.FIN, At: 20 * time.Millisecond}, "hello", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			backend := start(t, proxy.Config{})
			for _, cfg := range []proxy.Config{{}, {Backend: backend.Addr()}} {
				cfg.Script = always(tc.step)
				p := start(t, cfg)
				nc, err := net.Dial("tcp", p.Addr())
				var got []byte
				if err == nil {
					got, err = io.ReadAll(nc)
					_ = nc.Close()
				}
				switch {
				case tc.err != nil:
					require.ErrorIs(t, err, tc.err)
				case tc.step.At > 0: // a busy server may be late
					require.NoError(t, err)
					require.True(t, strings.HasPrefix(tc.got, string(got)), "%q", got)
				default:
					require.NoError(t, err)
					require.Equal(t, tc.got, string(got))
				}
				require.Equal(t, map[proxy.Kind]uint64{tc.step.Do: 1}, p.Counts())
				events, _ := p.History()
				require.Equal(t, tc.step.Do, events[0].Kind)
				if tc.step.At == 0 {
					require.Equal(t, tc.step.After, events[0].Down, events[0])
				}
			}
		})
	}
}

func TestHalfCloseLetsTheOtherDirectionGoOn(t *testing.T) {
	got := make(chan string, 1)
	p := start(t, proxy.Config{Script: always(proxy.Step{Do: proxy.HalfClose}), Handler: func(c *proxy.Conn) {
		_, _ = c.Write([]byte("x")) // does the step
		b, _ := io.ReadAll(c)
		got <- string(b)
	}})
	c := dial(t, p)
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = c.Write([]byte("still here"))
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	require.Equal(t, "still here", <-got)
}

func TestStallDelayAndSlice(t *testing.T) {
	p := start(t, proxy.Config{Script: always(
		proxy.Step{Do: proxy.Slice, Size: 1},
		proxy.Step{Do: proxy.Stall, After: 2},
		proxy.Step{Do: proxy.Delay, After: 2, For: 20 * time.Millisecond},
	)})
	c := dial(t, p)
	buf := make([]byte, 5)
	_, err := io.ReadFull(c, buf[:2])
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Millisecond)))
	n, err := c.Read(buf)
	require.Zero(t, n, "stalled")
	require.Error(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	began := time.Now()
	p.Conn(t.Context(), 0).Resume(proxy.Down)
	_, err = io.ReadFull(c, buf[:3])
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 60*time.Millisecond, "slices of one byte, 20 ms apart")
}

func TestAcceptFaults(t *testing.T) {
	p := start(t, proxy.Config{Script: func(k int) proxy.Script {
		return proxy.Script{Accept: []proxy.Kind{proxy.AcceptClose, proxy.AcceptReset, proxy.Nothing}[k]}
	}})
	_, err := dial(t, p).Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	reset, err := net.Dial("tcp", p.Addr()) // which may come to know of it already
	if err == nil {
		_, err = reset.Read(make([]byte, 1))
		_ = reset.Close()
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
	n, err := dial(t, p).Read(make([]byte, 5))
	require.NoError(t, err)
	require.Equal(t, 5, n)
}

func TestRefuseListenAndRestart(t *testing.T) {
	p := start(t, proxy.Config{})
	c := dial(t, p)
	p.Refuse()
	_, err := net.Dial("tcp", p.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	_, err = io.ReadFull(c, make([]byte, 5))
	require.NoError(t, err, "those that are open stay so")
	require.NoError(t, p.Listen())
	require.NoError(t, p.Listen(), "twice is nothing")
	dial(t, p)
	for _, reset := range []bool{true, false} {
		require.NoError(t, p.Restart(time.Millisecond, reset))
		_, err := io.ReadAll(c)
		require.Equal(t, reset, errors.Is(err, syscall.ECONNRESET))
		c = dial(t, p)
		_, err = io.ReadFull(c, make([]byte, 5))
		require.NoError(t, err)
	}
}

func TestPauseAcceptFillsTheBacklog(t *testing.T) {
	p := start(t, proxy.Config{})
	require.NoError(t, p.PauseAccept(0))
	var conns []net.Conn
	d := net.Dialer{Timeout: 200 * time.Millisecond}
	for {
		c, err := d.Dial("tcp", p.Addr())
		if err != nil {
			break
		}
		defer c.Close()
		conns = append(conns, c)
		require.Less(t, len(conns), 10, "the backlog does not fill")
	}
	require.Zero(t, p.Accepted())
	require.NoError(t, p.ResumeAccept())
	for _, c := range append(conns, dial(t, p)) {
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		_, err := io.ReadFull(c, make([]byte, 5))
		require.NoError(t, err, "it is accepted")
	}
}

func TestPeakCountsWhatBothSidesHoldForOpen(t *testing.T) {
	p := start(t, proxy.Config{})
	for range 5 {
		c := dial(t, p)
		p.Conn(t.Context(), p.Accepted()-1)
		_, err := io.ReadFull(c, make([]byte, 5))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Eventually(t, func() bool { return p.Established() == 0 }, time.Minute, time.Millisecond)
	}
	require.Equal(t, 1, p.Peak())
	a, b := dial(t, p), dial(t, p)
	for _, c := range []net.Conn{a, b} {
		_, err := io.ReadFull(c, make([]byte, 5))
		require.NoError(t, err)
	}
	require.Equal(t, 2, p.Peak())
	require.Equal(t, 2, p.Established())
}

func TestRandomScriptsDependOnSeedAndNumberOnly(t *testing.T) {
	rates := proxy.Rates{
		AcceptClose: 0.1, AcceptReset: 0.1, Reset: 0.2, FIN: 0.2, HalfClose: 0.2, Stall: 0.3, Delay: 0.3, Slice: 0.3,
		Bytes: 1000, Life: time.Second, Timed: 0.3, Longer: time.Millisecond,
	}
	a, b, other := proxy.Random(1, rates), proxy.Random(1, rates), proxy.Random(2, rates)
	seen, differ := map[proxy.Kind]int{}, 0
	for k := range 1000 {
		require.Equal(t, a(k), b(999-(999-k)))
		if sa, so := a(k), other(k); !slices.Equal(sa.Steps, so.Steps) || sa.Accept != so.Accept {
			differ++
		}
		seen[a(k).Accept]++
		for _, s := range a(k).Steps {
			seen[s.Do]++
		}
	}
	require.Greater(t, differ, 800)
	for _, k := range []proxy.Kind{
		proxy.AcceptClose, proxy.AcceptReset, proxy.Reset, proxy.FIN, proxy.HalfClose, proxy.Stall, proxy.Delay, proxy.Slice,
	} {
		require.InDelta(t, 200, seen[k], 130, k.String())
	}
}

func TestConnGivesUpWithItsContext(t *testing.T) {
	p := start(t, proxy.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.Nil(t, p.Conn(ctx, 0))
}

// A connection that has been counted can be had, though its script has taken a while to make.
func TestAConnectionThatIsBeingEnteredIsWaitedFor(t *testing.T) {
	p, err := proxy.New(proxy.Config{
		Handler: func(c *proxy.Conn) { <-c.Done() },
		Script:  func(int) proxy.Script { time.Sleep(5 * time.Millisecond); return proxy.Script{} },
	})
	require.NoError(t, err)
	defer p.Close()
	for k := range 3 {
		c, err := net.Dial("tcp", p.Addr())
		require.NoError(t, err)
		defer c.Close()
		time.Sleep(time.Millisecond) // it is accepted, and its script is being made
		require.NotNil(t, p.Conn(t.Context(), k), "connection %d", k)
	}
}
