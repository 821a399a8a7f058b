package check_test

// The checkers together, over a pool that works and under random faults; and that each can fail.

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

func TestCheckersAgreeWithAPoolUnderRandomFaults(t *testing.T) {
	const capacity = 8
	before := check.Before()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	peer := &check.Peer{}
	book := check.NewBook(capacity, true)
	p, err := proxy.New(proxy.Config{
		Handler: func(c *proxy.Conn) { peer.Serve(c) },
		Counts:  book.Counts,
		Script: proxy.Random(seed, proxy.Rates{
			AcceptReset: 0.05, Reset: 0.4, FIN: 0.3, HalfClose: 0.1, Slice: 0.2, Stall: 0.1, Delay: 0.1,
			Bytes: 100 << 10, Longer: time.Millisecond,
		}),
	})
	require.NoError(t, err)
	m, err := plex.New(t.Context(), plex.WithMaxCapacity(capacity), plex.WithConnector(book.Dial(p.Addr())),
		plex.WithMinConnections(0), plex.WithAutoScaling(time.Millisecond))
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		time.Sleep(time.Second)
		for end := time.Now().Add(time.Minute); book.Entered() < capacity && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	})
	for range 2 * capacity {
		wg.Go(func() {
			buf := make([]byte, 8<<10)
			for {
				r, err := m.Reader(ctx, 0)
				if err != nil {
					return
				}
				lease := book.Reader(r)
				_ = lease.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				for range 5 {
					if _, err := lease.Read(buf); err != nil {
						break
					}
				}
				_ = lease.Close()
			}
		})
		wg.Go(func() {
			buf := make([]byte, 8<<10)
			for {
				w, err := m.Writer(ctx, 0)
				if err != nil {
					return
				}
				lease := book.Writer(w)
				_ = lease.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
				for range 5 {
					if _, err := lease.WriteNext(buf); err != nil {
						break
					}
				}
				_ = lease.Close()
			}
		})
	}
	wg.Wait()
	t.Logf("%v; %d connections, peak %d and %d at the server, %d bytes at the peer",
		p.Counts(), book.Entered(), book.Peak(), p.Peak(), peer.Total())
	require.NoError(t, m.Close())
	p.Close()
	require.NoError(t, book.End(peer), p.Tell(20))
	require.LessOrEqual(t, p.Peak(), capacity)
	require.GreaterOrEqual(t, book.Entered(), capacity)
	require.NoError(t, before.Back(time.Minute))
}

func TestBackShowsWhatLeaked(t *testing.T) {
	before := check.Before()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.ErrorContains(t, before.Back(0), "pipe:")
	require.NoError(t, errors.Join(r.Close(), w.Close()))
	require.NoError(t, before.Back(time.Minute))

	stop := make(chan struct{})
	go func() { <-stop }()
	require.ErrorContains(t, before.Back(10*time.Millisecond), "TestBackShowsWhatLeaked")
	close(stop)
	require.NoError(t, before.Back(time.Minute))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorContains(t, before.Back(0), l.Addr().String())
	require.NoError(t, l.Close())
}

// pair is a connection in the book and its peer.
func pair(t *testing.T, book *check.Book) (*check.Conn, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return book.Wrap(c.(*net.TCPConn)), s
}

func TestBookTellsTwoLeasesOfOneHalf(t *testing.T) {
	book := check.NewBook(1, true)
	c, _ := pair(t, book)
	m, err := plex.New(t.Context(), plex.WithConnections(c))
	require.NoError(t, err)
	r, err := m.Reader(t.Context(), -1)
	require.NoError(t, err)
	w, err := m.Writer(t.Context(), -1)
	require.NoError(t, err)
	require.Same(t, c, book.Reader(r).Conn)
	book.Writer(w)
	require.NoError(t, book.Err())
	book.Reader(r)
	require.ErrorContains(t, book.Err(), "two read leases")
	book.Writer(w)
	require.ErrorContains(t, book.Err(), "two write leases")
	require.NoError(t, m.Close())
	require.ErrorContains(t, book.End(nil), "leased at the end")
}

func TestBookTellsMoreThanTheCapacityAndWhatWasNotClosed(t *testing.T) {
	book := check.NewBook(1, true)
	c, s := pair(t, book)
	_ = book.Connect(func(context.Context) (*net.TCPConn, error) { return nil, io.EOF }, nil)(t.Context(), nil)
	require.ErrorContains(t, book.Err(), "capacity 1: 2 connections")
	require.ErrorContains(t, book.End(nil), "was not closed")

	// One that the peer has closed does not count.
	book = check.NewBook(1, true)
	d, s2 := pair(t, book)
	require.NoError(t, s2.Close())
	_, err := d.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_ = book.Connect(func(context.Context) (*net.TCPConn, error) { return nil, io.EOF }, nil)(t.Context(), nil)
	require.NoError(t, book.Err())
	require.NoError(t, errors.Join(c.Close(), d.Close(), s.Close()))
	require.Error(t, d.Close())
	require.ErrorContains(t, book.Err(), "closed 2 times")
}
