package message_test

// The Sender over real sockets.

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// lineServer counts the lines that reach it whole, over all its connections and restarts.
type lineServer struct {
	t    testing.TB
	addr string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	lines    map[int]int // how often each came
	nonsense []string
	wg       sync.WaitGroup
}

func (s *lineServer) start(addr string) {
	l, err := net.Listen("tcp", addr)
	require.NoError(s.t, err)
	s.mu.Lock()
	s.listener, s.addr = l, l.Addr().String()
	s.mu.Unlock()
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.listener != l { // it has been stopped meanwhile
				_ = c.Close()
			}
			s.conns[c] = true
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
}

func (s *lineServer) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return // what came of a line that was cut off is no line
		}
		n, err := strconv.Atoi(line[:len(line)-1])
		s.mu.Lock()
		if err != nil {
			s.nonsense = append(s.nonsense, line)
		}
		s.lines[n]++
		s.mu.Unlock()
	}
}

// stop closes everything; if hard, with resets.
func (s *lineServer) stop(hard bool) {
	s.mu.Lock()
	_ = s.listener.Close()
	for c := range s.conns {
		if hard {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		_ = c.Close()
	}
	clear(s.conns)
	s.listener = nil
	s.mu.Unlock()
	s.wg.Wait()
}

// drain waits until the clients have closed all connections.
func (s *lineServer) drain() {
	_ = s.listener.Close()
	s.wg.Wait()
}

// A server restarts again and again while 16 goroutines send 100,000 lines. Each line is either
// written, and counted, or handed back; none arrives twice, and none that was handed back as not
// sent arrives. What was written to a connection that the server then closed is TCP's loss.
func TestSenderAccountsForEachLineWhileTheServerRestarts(t *testing.T) {
	const lines, goroutines = 100_000, 16
	server := &lineServer{t: t, conns: map[net.Conn]bool{}, lines: map[int]int{}}
	server.start("127.0.0.1:0")
	m, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", server.addr)), plex.WithMaxCapacity(4),
		plex.WithMinConnections(2), plex.WithBackoff(func(int) time.Duration { return time.Millisecond }))
	require.NoError(t, err)
	defer m.Close()

	var (
		mu        sync.Mutex
		sure, may = map[int]int{}, map[int]int{}
		refused   atomic.Int64 // ErrFull, and tried again
		restarted atomic.Int64
	)
	note := func(data []byte, err error) {
		n, e := strconv.Atoi(string(data[:len(data)-1]))
		if e != nil {
			panic(e)
		}
		var failed *message.SendError
		mu.Lock()
		defer mu.Unlock()
		if errors.As(err, &failed) && !failed.MaybeSent {
			sure[n]++
		} else {
			may[n]++
		}
	}
	s := sender(t, m, message.WithFailed(note), message.WithQueue(2<<10))

	done := make(chan struct{})
	var restarts sync.WaitGroup
	restarts.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(4 * time.Millisecond):
			}
			server.stop(i%2 == 0)
			time.Sleep(time.Millisecond) // it is down for a while
			server.start(server.addr)
			restarted.Add(1)
		}
	})
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for n := g; n < lines; n += goroutines {
				data := append(strconv.AppendInt(nil, int64(n), 10), '\n')
				if n/goroutines%10 == 0 { // so that it takes many restarts
					time.Sleep(time.Millisecond)
				}
				if n%7 == 0 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if err := s.Send(ctx, data); err != nil {
						note(data, err)
					}
					cancel()
					continue
				}
				for s.Queue(data) != nil {
					refused.Add(1)
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	restarts.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	closeErr := s.Close(ctx)
	require.NoError(t, m.Shutdown(ctx)) // all that was written arrives
	server.drain()

	g := s.Stats()
	t.Logf("%+v, arrived %d, restarted %d times, refused %d, not sent %d, maybe sent %d, close: %v", g, len(server.lines), restarted.Load(), refused.Load(), len(sure), len(may), closeErr)
	require.Zero(t, g.Queued)
	require.EqualValues(t, lines, g.Messages+g.Failed)
	require.EqualValues(t, refused.Load(), g.Dropped)
	require.EqualValues(t, g.Failed, len(sure)+len(may))
	require.Empty(t, server.nonsense)
	require.LessOrEqual(t, len(server.lines), int(g.Messages)+len(may))
	for n, times := range server.lines {
		require.Equal(t, 1, times, "line %d came more than once", n)
		require.Zero(t, sure[n], "line %d was handed back as not sent, and came", n)
	}
}

// 64 goroutines send and queue; everything arrives whole.
func TestSenderFromManyGoroutines(t *testing.T) {
	server := &lineServer{t: t, conns: map[net.Conn]bool{}, lines: map[int]int{}}
	server.start("127.0.0.1:0")
	m, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", server.addr)), plex.WithMaxCapacity(3))
	require.NoError(t, err)
	defer m.Close()
	s := sender(t, m, message.WithFailed(func(_ []byte, err error) { t.Error(err) }))
	const goroutines, each = 64, 200
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				data := append(strconv.AppendInt(nil, int64(g*each+i), 10), '\n')
				var err error
				switch i % 20 {
				case 0:
					err = s.Send(t.Context(), data)
				case 1:
					err = s.Flush(t.Context())
					err = errors.Join(err, s.Queue(data))
				default:
					err = s.Queue(data)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, m.Shutdown(t.Context()))
	require.Eventually(t, func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.lines) == goroutines*each
	}, 10*time.Second, time.Millisecond)
	server.stop(false)
	require.EqualValues(t, goroutines*each, s.Stats().Messages)
}
