package streams

// The two libraries, a server that accepts streams, and a connector that opens them.

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/require"
	"github.com/xtaci/smux"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/message"
)

// patience bounds whatever has to happen at some time. It decides nothing on a machine that is merely busy.
const patience = time.Minute

// session is what the libraries have in common.
type session interface {
	open() (net.Conn, error)
	accept() (net.Conn, error)
	Close() error
}

type yamuxSession struct{ *yamux.Session }

func (s yamuxSession) open() (net.Conn, error)   { return s.Open() }
func (s yamuxSession) accept() (net.Conn, error) { return s.Accept() }

type smuxSession struct{ *smux.Session }

func (s smuxSession) open() (net.Conn, error)   { return s.OpenStream() }
func (s smuxSession) accept() (net.Conn, error) { return s.AcceptStream() }

// library makes the two ends of a session.
type library struct {
	client, server func(net.Conn) (session, error)
}

var libraries = map[string]library{
	"yamux":          {yamuxOf(yamux.Client), yamuxOf(yamux.Server)},
	"smux":           {smuxOf(smux.Client, 1), smuxOf(smux.Server, 1)},
	"smux version 2": {smuxOf(smux.Client, 2), smuxOf(smux.Server, 2)},
}

func yamuxOf(side func(io.ReadWriteCloser, *yamux.Config) (*yamux.Session, error)) func(net.Conn) (session, error) {
	return func(c net.Conn) (session, error) {
		config := yamux.DefaultConfig()
		config.LogOutput = io.Discard
		s, err := side(c, config)
		return yamuxSession{s}, err
	}
}

func smuxOf(side func(io.ReadWriteCloser, *smux.Config) (*smux.Session, error), version int) func(net.Conn) (session, error) {
	return func(c net.Conn) (session, error) {
		config := smux.DefaultConfig()
		config.Version = version
		s, err := side(c, config)
		return smuxSession{s}, err
	}
}

// each runs a test with each library, and checks that it leaves nothing.
func each(t *testing.T, test func(t *testing.T, l library)) {
	for name, l := range libraries {
		t.Run(name, func(t *testing.T) {
			before := check.Before()
			t.Cleanup(func() { require.NoError(t, before.Back(patience)) })
			test(t, l)
		})
	}
}

// service is a server of sessions, and a connector for it. All streams are those of one session, until that has ended.
type service struct {
	testing.TB
	library
	l net.Listener

	mu      sync.Mutex
	current session
	raw     []net.Conn // of the server's sessions
	streams sync.WaitGroup
	all     sync.WaitGroup
}

// serve starts a service that calls handle for each stream.
func serve(t testing.TB, l library, handle func(net.Conn)) *service {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &service{TB: t, library: l, l: listener}
	s.all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.raw = append(s.raw, c)
			s.mu.Unlock()
			s.all.Go(func() { s.session(c, handle) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		s.kill()
		s.mu.Lock()
		if s.current != nil {
			_ = s.current.Close()
		}
		s.mu.Unlock()
		s.all.Wait()
		s.streams.Wait()
	})
	return s
}

func (s *service) session(c net.Conn, handle func(net.Conn)) {
	defer c.Close()
	server, err := s.server(c)
	if err != nil {
		return
	}
	defer server.Close()
	for {
		stream, err := server.accept()
		if err != nil {
			return
		}
		s.streams.Go(func() {
			defer stream.Close()
			handle(stream)
		})
	}
}

// kill ends all sessions, by a reset.
func (s *service) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.raw {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	s.raw = nil
}

// dial opens a stream.
func (s *service) dial(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		if stream, err := s.current.open(); err == nil {
			return stream, nil
		}
		_ = s.current.Close()
		s.current = nil
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", s.l.Addr().String())
	if err != nil {
		return nil, err
	}
	if s.current, err = s.client(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return s.current.open()
}

// pool makes a pool of streams.
func (s *service) pool(opts ...plex.Option) *plex.Multiplexer {
	s.Helper()
	m, err := plex.New(context.Background(), append([]plex.Option{plex.WithConnector(plex.DialFunc(s.dial))}, opts...)...)
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, m.Close()) })
	return m
}

// echo sends back what comes. The buffer is its own: smux's WriteTo lends one that it reuses while a
// session that has died still writes it.
func echo(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// frames are those of the requests.
var frames = message.Prefix{Bytes: 4}

// numbered is a protocol of frames that begin with an identifier.
type numbered struct{}

func (numbered) Append(dst []byte, id uint64, q string) ([]byte, error) {
	return frames.Append(dst, append(binary.BigEndian.AppendUint64(nil, id), q...))
}

func (numbered) Split(data []byte, atEOF bool) (int, []byte, error) { return frames.Split(data, atEOF) }

func (numbered) Parse(m []byte) (uint64, string, error) {
	if len(m) < 8 {
		return 0, "", errors.New("too short")
	}
	return binary.BigEndian.Uint64(m), string(m[8:]), nil
}

// lines counts the lines that come, until the stream ends, and reports whether that was in good order.
func lines(c net.Conn, each func(string)) error {
	s := bufio.NewScanner(c)
	for s.Scan() {
		each(s.Text())
	}
	return s.Err()
}

func reader(t testing.TB, m *plex.Multiplexer) plex.Reader {
	t.Helper()
	r, err := m.Reader(context.Background(), patience)
	require.NoError(t, err)
	return r
}

func writer(t testing.TB, m *plex.Multiplexer) plex.Writer {
	t.Helper()
	w, err := m.Writer(context.Background(), patience)
	require.NoError(t, err)
	return w
}

// eventually waits for ok.
func eventually(t testing.TB, ok func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "did not happen in time: %s", what)
	}
}
