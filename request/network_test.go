package request_test

// Real connections, under load and faults. Every Do ends once, with its own reply or a true error.
// Nothing is sent twice, and nothing is left in the end.

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// server answers requests with their own text, in any order. It records each text that arrived
// whole.
type server struct {
	net.Listener
	wg sync.WaitGroup

	mu      sync.Mutex
	seen    map[string]int
	conns   map[*net.TCPConn]struct{}
	stopped bool // what is accepted from now on is closed at once

	// The chance, from 0 to 1, of this happening to a reply. Set before use.
	lose, push, nonsense float64
}

func newServer(t testing.TB) *server {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{Listener: ln, seen: map[string]int{}, conns: map[*net.TCPConn]struct{}{}}

	s.wg.Go(func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}

			s.mu.Lock()
			if s.stopped {
				_ = conn.Close()
			} else {
				s.conns[conn.(*net.TCPConn)] = struct{}{}
			}
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(conn.(*net.TCPConn)) })
		}
	})

	return s
}

// kill ends one connection, by a reset, or by a FIN after what was sent.
func (s *server) kill(reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()

	for conn := range s.conns {
		if reset {
			_ = conn.SetLinger(0)
		}

		_ = conn.Close()
		delete(s.conns, conn)

		return
	}
}

func (s *server) stop() {
	_ = s.Close()
	s.mu.Lock()
	s.stopped = true

	for conn := range s.conns {
		_ = conn.Close()
		delete(s.conns, conn)
	}

	s.mu.Unlock()
	s.wg.Wait()
}

// serve holds some replies back, and sends them in a different order than the requests.
func (s *server) serve(conn *net.TCPConn) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()

		_ = conn.Close()
		delete(s.conns, conn)
	}()

	var held [][]byte

	frames := bufio.NewScanner(conn)
	frames.Split(prefix.Split)

	for frames.Scan() {
		m := frames.Bytes()
		id, text := binary.BigEndian.Uint64(m[1:]), string(m[9:])
		s.mu.Lock()
		s.seen[text]++
		s.mu.Unlock()

		switch chance := rand.Float64(); {
		case chance < s.lose:
			continue
		case chance < s.lose+s.nonsense:
			held = append(held, frame('?', 0, ""))
		case chance < s.lose+s.nonsense+s.push:
			held = append(held, frame(kindPush, 0, "news"))
		}

		held = append(held, frame(kindReply, id, text))
		if len(held) > rand.IntN(8) {
			rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })

			for _, f := range held {
				if _, err := conn.Write(f); err != nil {
					return
				}
			}

			held = held[:0]
		}
	}
}

// times returns how often a text has arrived.
func (s *server) times(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.seen[text]
}

func TestThousandsOfRequestsOverAFewConnections(t *testing.T) {
	balanceProcess(t)

	const callers, each = 2_000, 10

	s := newServer(t)
	defer s.stop()
	mux, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", s.Addr().String())),
		plex.WithMinConnections(4), plex.WithMaxCapacity(4))
	require.NoError(t, err)
	defer mux.Close()
	c, err := request.New(mux, wireProtocol{}, request.WithIDs(1<<16-1))
	require.NoError(t, err)

	// The server holds some replies back until more requests come. These extra requests release
	// them.
	ctx, cancel := context.WithCancel(t.Context())
	var drips, asking sync.WaitGroup
	for i := range 8 {
		drips.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				drip, stop := context.WithTimeout(ctx, 5*time.Millisecond)
				_, _ = c.Do(drip, fmt.Sprintf("drip %d %d", i, n))
				stop()
			}
		})
	}

	errs := make(chan error, callers)
	for caller := range callers {
		asking.Go(func() {
			var wrong error
			for n := range each {
				text := fmt.Sprintf("%d %d", caller, n)
				if reply, err := c.Do(t.Context(), text); err != nil || string(reply) != text {
					wrong = errors.Join(wrong, fmt.Errorf("asked %q, got %q, %w", text, reply, err))
				}
			}
			errs <- wrong
		})
	}

	asking.Wait()
	cancel()
	drips.Wait()

	for range callers {
		require.NoError(t, <-errs)
	}

	balanced(t, c.Stats())
	require.NoError(t, c.Close())
}

// fate is how the requests of one caller ended.
type fate struct {
	replies, canceled, failed uint64
	wrong                     error
}

func TestEveryRequestEndsOnceWhateverHappens(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []request.Option
	}{
		{"many identifiers", nil},
		{"few identifiers", []request.Option{request.WithIDs(300)}},
		{"bounded", []request.Option{request.WithInFlight(20), request.WithIDs(1<<16 - 1)}},
	} {
		t.Run(test.name, func(t *testing.T) { soak(t, test.options...) })
	}
}

// soak makes requests for a moment, while connections are killed in every way.
func soak(t *testing.T, options ...request.Option) {
	balanceProcess(t)

	const callers = 200

	s := newServer(t)
	defer s.stop()
	s.lose, s.push, s.nonsense = 0.02, 0.05, 0.001

	mux, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", s.Addr().String())),
		plex.WithMinConnections(8), plex.WithMaxCapacity(8), plex.WithMaxLifetime(200*time.Millisecond))
	require.NoError(t, err)
	c, err := request.New(mux, wireProtocol{},
		append(options, request.WithUnsolicited(func(message.Message) {
			if rand.IntN(100) == 0 {
				panic("hook")
			}
		}))...)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	fates := make(chan fate, callers)

	for caller := range callers {
		wg.Go(func() { fates <- calls(ctx, c, s, caller) })
	}

	for ctx.Err() == nil {
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		s.kill(rand.IntN(2) == 0)
	}

	wg.Wait()

	var all fate
	for range callers {
		f := <-fates
		require.NoError(t, f.wrong)
		all.replies += f.replies
		all.canceled += f.canceled
		all.failed += f.failed
	}

	stats := c.Stats()
	balanced(t, stats)
	require.Equal(t,
		[]uint64{all.replies, all.canceled, all.failed}, []uint64{stats.Replies, stats.Canceled, stats.Failed},
		"what the callers were told, and what is counted: replies, canceled, failed")
	require.NotZero(t, all.replies)
	require.NotZero(t, all.canceled)
	require.NotZero(t, all.failed)

	s.stop() // the end of the connections frees what is reserved
	for end := time.Now().Add(5 * time.Second); c.Stats().Abandoned > 0; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "identifiers still reserved: %+v", c.Stats())
	}

	require.NoError(t, c.Close())
	require.NoError(t, mux.Close())
	t.Logf("%+v", stats)
}

// calls makes requests, one after the other, until ctx ends, and checks each result.
func calls(ctx context.Context, c *client, s *server, caller int) (f fate) {
	for n := 0; ctx.Err() == nil; n++ {
		text := fmt.Sprintf("%d %d", caller, n)
		mine, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(30_000))*time.Microsecond)
		reply, err := c.Do(mine, text)
		cancel()

		var e *request.Error

		switch {
		case err == nil:
			f.replies++
			if string(reply) != text {
				f.wrong = errors.Join(f.wrong, fmt.Errorf("asked %q, got %q", text, reply))
			}
		case !errors.As(err, &e):
			f.wrong = errors.Join(f.wrong, fmt.Errorf("asked %q, not a *request.Error: %w", text, err))
		case errors.Is(err, context.DeadlineExceeded):
			f.canceled++
		default:
			f.failed++
		}

		if n := s.times(text); n > 1 || n == 1 && e != nil && !e.MaybeSent || n == 0 && err == nil {
			f.wrong = errors.Join(f.wrong, fmt.Errorf("%q has come %d times, and Do returned %w", text, n, err))
		}
	}

	return f
}

func TestAPeerThatDoesNotReadHoldsOnlyItsOwnWriterUp(t *testing.T) {
	balanceProcess(t)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	accepted := make(chan net.Conn, 10)
	wg.Go(func() {
		defer close(accepted)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- conn // and nobody reads
		}
	})
	defer func() {
		_ = ln.Close()
		wg.Wait()
		for conn := range accepted {
			_ = conn.Close()
		}
	}()

	mux, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", ln.Addr().String())), plex.WithMinConnections(1))
	require.NoError(t, err)
	defer mux.Close()
	c, err := request.New(mux, wireProtocol{}, request.WithWriteTimeout(200*time.Millisecond))
	require.NoError(t, err)
	defer c.Close()

	// Fill the buffers, with contexts that end soon after a Write blocks. None of them costs a
	// connection; what the peer does not take in time does.
	text := string(make([]byte, 60_000))
	for mux.Stats().Lost == 0 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := c.Do(ctx, text)
		cancel()
		require.Error(t, err)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	}
}

func TestADatagramThatMakesNoSenseCostsNothingButItself(t *testing.T) {
	balanceProcess(t)

	ln, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		m := make([]byte, 1<<16)

		for {
			n, from, err := ln.ReadFrom(m)
			if err != nil {
				return
			}

			id := binary.BigEndian.Uint64(m[3:])
			for _, datagram := range [][]byte{
				frame('?', id, ""), // a Parse error
				append(binary.BigEndian.AppendUint16(nil, 1<<15), "beginning"...), // cut off
				frame(kindReply, id, string(m[11:n])),
			} {
				_, _ = ln.WriteTo(datagram, from)
			}
		}
	})
	defer wg.Wait()
	defer ln.Close()

	mux, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("udp", ln.LocalAddr().String())),
		plex.WithMinConnections(1))
	require.NoError(t, err)
	defer mux.Close()
	c, err := request.New(mux, wireProtocol{})
	require.NoError(t, err)
	defer c.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()

	for i := range uint64(3) {
		reply, err := c.Do(ctx, "text")
		require.NoError(t, err)
		require.Equal(t, "text", string(reply))
		require.Equal(t, 2*(i+1), c.Stats().Malformed)
		require.ErrorContains(t, c.Stats().LastMalformed,
			"request: a datagram from "+ln.LocalAddr().String()+" makes no sense: ")
	}

	require.Zero(t, mux.Stats().Lost)
}

// udpClient makes a client with so many connections to a UDP port.
func udpClient(t *testing.T, address net.Addr, conns int, options ...request.Option) (*client, *plex.Multiplexer) {
	mux, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("udp", address.String())),
		plex.WithMinConnections(conns), plex.WithMaxCapacity(conns))
	require.NoError(t, err)
	c, err := request.New(mux, wireProtocol{}, options...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		balanced(t, c.Stats())
		require.Zero(t, mux.Stats().Lost, "a refusal costs no connection")
		require.NoError(t, mux.Close())
	})

	return c, mux
}

func TestARefusedDatagramFailsTheRequestsOnItsConnectionAtOnce(t *testing.T) {
	balanceProcess(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	c, _ := udpClient(t, server.LocalAddr(), 1, request.WithIDs(1<<16-1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	unanswered := asking(ctx, c, "unanswered")
	_, _, err = server.ReadFrom(make([]byte, 100))
	require.NoError(t, err)
	require.NoError(t, server.Close())
	for range 10 {
		_, err := c.Do(ctx, "refused")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.ErrorContains(t, err, server.LocalAddr().String()+" does not listen")
	}
	requireError(t, unanswered, true, syscall.ECONNREFUSED)
	require.NoError(t, ctx.Err())

	// The server is back, and the connection is as good as before.
	server, err = net.ListenPacket("udp", server.LocalAddr().String())
	require.NoError(t, err)
	defer server.Close()
	asked := asking(ctx, c, "answered")
	m := make([]byte, 100)
	n, from, err := server.ReadFrom(m)
	require.NoError(t, err)
	_, err = server.WriteTo(frame(kindReply, binary.BigEndian.Uint64(m[3:]), string(m[11:n])), from)
	require.NoError(t, err)
	requireReply(t, asked, "answered")
}

// Nobody reads from the connection, so the kernel tells the next Write that the datagram before it
// was refused.
func TestARefusalToldToAWriteFailsTheEarlierRequestsToo(t *testing.T) {
	balanceProcess(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	busy, release := make(chan struct{}), make(chan struct{})
	c, _ := udpClient(t, server.LocalAddr(), 1, request.WithUnsolicited(func(message.Message) {
		close(busy)
		<-release
	}))
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first := asking(ctx, c, "first")
	_, from, err := server.ReadFrom(make([]byte, 100))
	require.NoError(t, err)
	_, err = server.WriteTo(frame(kindPush, 0, ""), from)
	require.NoError(t, err)
	<-busy
	require.NoError(t, server.Close())

	second := asking(ctx, c, "second")
	require.Eventually(t, func() bool { return c.Stats().Sent == 2 }, time.Minute, time.Millisecond)
	requireError(t, asking(ctx, c, "third"), false, syscall.ECONNREFUSED)
	requireError(t, first, true, syscall.ECONNREFUSED)
	requireError(t, second, true, syscall.ECONNREFUSED)
}
