package plex_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// The code up to the first test is that of docs/moving.md, word for word; TestReadmeSnippets holds them together.

// exchange sends a request and reads a reply of known length, over whichever connection is free.
func exchange(ctx context.Context, mux *plex.Multiplexer, request, reply []byte) error {
	conn, err := mux.Duplex(ctx, time.Second) // a second at most; 0 for as long as ctx allows
	if err != nil {
		return err
	}
	defer conn.Kill() // for the error paths; it does nothing after Close

	if _, err := conn.Write(request); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, reply); err != nil {
		return err
	}

	return conn.Close() // puts the connection back
}

// poolOf is pool.NewChannelPool(initial, max, factory), for an initial below max.
func poolOf(ctx context.Context, initial, max int, factory func() (net.Conn, error)) (*plex.Multiplexer, error) {
	return plex.New(ctx,
		plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) { return factory() })),
		plex.WithMinConnections(initial),
		plex.WithMaxCapacity(max),
		plex.WithAutoScaling(time.Millisecond), // leave it out if initial is max
	)
}

// session is what a program knows of a connection, as the type of a puddle resource is.
type session struct{ statements map[string]int }

// sessions has the session of each connection.
type sessions struct{ all sync.Map }

// of returns the session of a leased connection, and forgets it when the connection ends. Only the
// lease's holder uses it, so it needs no lock.
func (s *sessions) of(lease plex.Duplex) *session {
	known, old := s.all.LoadOrStore(lease.Conn(), &session{statements: map[string]int{}})
	if !old {
		lease.Conn().AfterEnd(func(error) { s.all.Delete(lease.Conn()) })
	}

	return known.(*session)
}

// commons is a pool like NewObjectPoolWithDefaultConfig's.
func commons(ctx context.Context, connect plex.Connect) (*plex.Multiplexer, error) {
	return plex.New(ctx,
		plex.WithConnector(connect),
		plex.WithMaxCapacity(8),
		plex.WithAutoScaling(time.Millisecond),
		plex.WithIdleTimeout(30*time.Minute),
	)
}

// pools has a pool for each address, as a Transport has.
type pools struct {
	mu  sync.Mutex
	all map[string]*plex.Multiplexer
}

// of returns the pool of an address, and makes it if it is new. Nothing is connected before it is
// needed.
func (p *pools) of(address string) (*plex.Multiplexer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if mux := p.all[address]; mux != nil {
		return mux, nil
	}

	mux, err := plex.New(context.Background(), // the pool's life, not that of a request
		plex.WithName(address),
		plex.WithConnector(plex.DialTCP(address)),
		plex.WithMaxCapacity(16),               // MaxConnsPerHost
		plex.WithAutoScaling(time.Millisecond), // on demand
		plex.WithIdleTimeout(90*time.Second),   // IdleConnTimeout
	)
	if err == nil {
		p.all[address] = mux
	}

	return mux, err
}

// movingService answers each line with the same line, and counts connections.
func movingService(t *testing.T) (address string) {
	t.Helper()
	address, stop := exampleService(func(conn net.Conn) {
		for in := bufio.NewScanner(conn); in.Scan(); {
			if _, err := fmt.Fprintf(conn, "%s\n", in.Text()); err != nil {
				return
			}
		}
	})
	t.Cleanup(stop)
	return address
}

// The pools of docs/moving.md work: many callers, each of whom gets his own replies.
func TestMovingHere(t *testing.T) {
	dial := func(address string) func() (net.Conn, error) {
		return func() (net.Conn, error) { return net.Dial("tcp", address) }
	}
	for name, open := range map[string]func(address string) (*plex.Multiplexer, error){
		"fatih/pool": func(address string) (*plex.Multiplexer, error) { return poolOf(t.Context(), 1, 4, dial(address)) },
		"go-commons-pool": func(address string) (*plex.Multiplexer, error) {
			return commons(t.Context(), plex.Dial("tcp", address))
		},
		"net/http": func(address string) (*plex.Multiplexer, error) {
			p := pools{all: map[string]*plex.Multiplexer{}}
			mux, err := p.of(address)
			if err != nil {
				return nil, err
			}
			again, err := p.of(address)
			require.Same(t, mux, again)
			return again, err
		},
		"devnw/plex": func(address string) (*plex.Multiplexer, error) {
			return plex.New(t.Context(), plex.WithMaxCapacity(4), plex.WithAutoScaling(time.Millisecond),
				plex.WithConnector(plex.DialAddr(func(context.Context, net.Addr) (net.Conn, error) { return dial(address)() })))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			mux, err := open(movingService(t))
			require.NoError(t, err)
			l.closeAtEnd(mux)
			var all sync.WaitGroup
			errs := make(chan error, 8)
			for i := range cap(errs) {
				all.Go(func() {
					for j := range 20 {
						request := fmt.Appendf(nil, "%d/%02d\n", i, j)
						reply := make([]byte, len(request))
						if err := exchange(t.Context(), mux, request, reply); err != nil || string(request) != string(reply) {
							errs <- fmt.Errorf("%q for %q: %w", reply, request, errors.Join(err, errors.New("wrong")))
							return
						}
					}
				})
			}
			all.Wait()
			close(errs)
			for err := range errs {
				t.Error(err)
			}
			require.Zero(t, mux.Stats().Lost)
		})
	}
}

// exchange kills a connection over which a reply did not come whole.
func TestMovingHereWithABrokenReply(t *testing.T) {
	address := movingService(t)
	l := newLedger(t)
	mux := l.mustOpen(1, plex.Dial("tcp", address))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	short := make(chan error)
	go func() { short <- exchange(ctx, mux, []byte("four\n"), make([]byte, 10)) }()
	eventually(t, func() bool { return mux.Stats().LeasedWriters == 1 }, "it waits for more")
	for c := range mux.Conns() {
		c.Kill()
	}
	require.ErrorIs(t, <-short, plex.ErrKilled)
	reply := make([]byte, 5)
	require.NoError(t, exchange(ctx, mux, []byte("five\n"), reply))
	require.Equal(t, "five\n", string(reply))
}

// A session is found again by the next lease on the same connection, and is forgotten with the connection.
func TestMovingHereFromPuddle(t *testing.T) {
	m, _, _ := fakePool(t, 2)
	var s sessions
	for range 3 {
		for range 2 { // they take turns
			d := duplexOf(t, m, -1)
			s.of(d).statements["prepared"]++
			require.NoError(t, d.Close())
		}
	}
	for range 2 {
		d := duplexOf(t, m, -1)
		require.Equal(t, 3, s.of(d).statements["prepared"])
		require.NoError(t, d.Kill())
	}
	eventually(t, func() bool {
		left := 0
		s.all.Range(func(any, any) bool { left++; return true })
		return left == 0
	}, "the sessions have ended")
}

// Every name of plex's that docs/moving.md uses exists, in its tables, too.
func TestMovingNamesWhatExists(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var source strings.Builder
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			source.Write(b)
		}
	}
	page, err := os.ReadFile("docs/moving.md")
	require.NoError(t, err)
	declared := map[string]bool{}
	for what, pattern := range map[string]string{
		"plex":  `(?m)^(?:func |type |\t)(\w+)`,
		"mux":   `(?m)^func \(m \*Multiplexer\) (\w+)\(`,
		"conn":  `(?m)^func \(d Duplex\) (\w+)\(`,
		"Stats": `(?m)^\t([A-Z]\w*(?:, \w+)*) +u?int`,
	} {
		for _, found := range regexp.MustCompile(pattern).FindAllStringSubmatch(source.String(), -1) {
			for name := range strings.SplitSeq(found[1], ", ") {
				declared[what+"."+name] = true
			}
		}
	}
	names := regexp.MustCompile(`\b(plex|mux|conn)\.([A-Z]\w*)(?:\(\)\.([A-Z]\w*))?`).FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		if !declared[name[1]+"."+name[2]] || name[2] == "Stats" && name[3] != "" && !declared["Stats."+name[3]] {
			t.Errorf("docs/moving.md names %s, which is not there", name[0])
		}
	}
}
