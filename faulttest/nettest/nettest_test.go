package nettest_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"golang.org/x/net/nettest"
)

// joined is one reader lease and one writer lease of the same connection, put together to a net.Conn again. What
// nettest demands of a connection is thereby demanded of the leases.
type joined struct {
	mux    *plex.Multiplexer
	reader plex.Reader
	writer plex.Writer
}

// join gives conn to a multiplexer of its own and leases both halves. It owns conn, also when it fails.
func join(t *testing.T, conn net.Conn) (net.Conn, error) {
	mux, err := plex.New(t.Context(), plex.WithConnections(conn))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	reader, err := mux.Reader(t.Context(), -1)
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}
	writer, err := mux.Writer(t.Context(), -1)
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}
	return &joined{mux: mux, reader: reader, writer: writer}, nil
}

func (j *joined) Read(p []byte) (int, error)  { return j.reader.Read(p) }
func (j *joined) Write(p []byte) (int, error) { return j.writer.Write(p) }

// Close ends both leases, interrupting what is blocked in them, and then the connection. Only the first call does
// anything, as with most connections the second returns an error that matches net.ErrClosed.
func (j *joined) Close() error {
	return errors.Join(j.reader.Close(), j.writer.Close(), j.mux.Close())
}

func (j *joined) LocalAddr() net.Addr  { return j.reader.LocalAddr() }
func (j *joined) RemoteAddr() net.Addr { return j.writer.RemoteAddr() }

func (j *joined) SetDeadline(t time.Time) error {
	return errors.Join(j.reader.SetReadDeadline(t), j.writer.SetWriteDeadline(t))
}

func (j *joined) SetReadDeadline(t time.Time) error  { return j.reader.SetReadDeadline(t) }
func (j *joined) SetWriteDeadline(t time.Time) error { return j.writer.SetWriteDeadline(t) }

// whole is a Duplex of a multiplexer of its own. Its Close alone would put the connection back, and the peer would be told
// nothing; so the multiplexer closes with it. All else is the Duplex's own.
type whole struct {
	plex.Duplex
	mux *plex.Multiplexer
}

func (w *whole) Close() error { return errors.Join(w.Duplex.Close(), w.mux.Close()) }

// lease gives conn to a multiplexer of its own and leases it as a whole. It owns conn, also when it fails.
func lease(t *testing.T, conn net.Conn) (net.Conn, error) {
	mux, err := plex.New(t.Context(), plex.WithConnections(conn))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	duplex, err := mux.Duplex(t.Context(), -1)
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}
	return &whole{duplex, mux}, nil
}

func TestLeasesJoinedAreAConnection(t *testing.T) { testConn(t, join) }

func TestADuplexIsAConnection(t *testing.T) { testConn(t, lease) }

// testConn runs nettest over what use makes of connections of several kinds.
func testConn(t *testing.T, use func(*testing.T, net.Conn) (net.Conn, error)) {
	for _, tc := range []struct {
		name string
		open func(t *testing.T) (c1, c2 net.Conn, err error)
	}{
		{"tcp", func(t *testing.T) (net.Conn, net.Conn, error) { return socketPair("tcp", "127.0.0.1:0") }},
		{"unix", func(t *testing.T) (net.Conn, net.Conn, error) {
			return socketPair("unix", filepath.Join(t.TempDir(), "s"))
		}},
		{"pipe", func(*testing.T) (net.Conn, net.Conn, error) {
			c1, c2 := net.Pipe()
			return c1, c2, nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := check.Before()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				raw1, raw2, err := tc.open(t)
				if err != nil {
					return nil, nil, nil, err
				}
				c1, err = use(t, raw1)
				if err != nil {
					return nil, nil, nil, errors.Join(err, raw2.Close())
				}
				c2, err = use(t, raw2)
				if err != nil {
					return nil, nil, nil, errors.Join(err, c1.Close())
				}
				return c1, c2, func() {
					// The tests of nettest close some ends themselves; those then say that they were.
					c1.Close()
					c2.Close()
					for _, raw := range []net.Conn{raw1, raw2} {
						if err := raw.SetDeadline(time.Time{}); err == nil {
							t.Errorf("%v is still open", raw.LocalAddr())
						}
					}
				}, nil
			})
			// The copying goroutines that nettest leaves behind end with their connections.
			require.NoError(t, before.Back(time.Minute))
		})
	}
}

// socketPair connects to a listener of its own.
func socketPair(network, address string) (net.Conn, net.Conn, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	c1, err := net.Dial(network, l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	c2, err := l.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, c1.Close())
	}
	return c1, c2, nil
}
