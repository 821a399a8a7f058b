package faulttest_test

// The end of a connection in good order, for its age or by Shutdown: what was written arrives, what never comes is not
// waited for without end, and the last connection that works is not given up.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// selfSigned is a certificate that nobody but its owner has signed.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Row "a peer that greets, or a TLS 1.3 server that sends tickets, to a user who only writes": retirement and Shutdown
// end so that all that was written arrives.
// Catches: a close with unread input, which the kernel makes a reset of that throws away what is still to be sent.
func TestFaultAPeerThatSpeaksToAUserWhoOnlyWrites(t *testing.T) {
	const size = 128 << 10
	cert := selfSigned(t)
	server := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert} // the ticket comes late
	client := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}
	for name, tc := range map[string]struct {
		tls bool
		end func(t *testing.T, m *plex.Multiplexer, took func()) // took has the server read
		opt []plex.Option
	}{
		"greeting, age":      {false, awaitExpiry, []plex.Option{plex.WithMaxLifetime(200 * time.Millisecond)}},
		"greeting, Shutdown": {false, shutDown, nil},
		"tickets, age":       {true, awaitExpiry, []plex.Option{plex.WithMaxLifetime(200 * time.Millisecond)}},
		"tickets, Shutdown":  {true, shutDown, nil},
	} {
		t.Run(name, func(t *testing.T) {
			greeted, read := make(chan struct{}), make(chan struct{})
			type end struct {
				n   int64
				err error
			}
			ended := make(chan end, 1)
			w := newWorld(t, 2, proxy.Config{Handler: func(c *proxy.Conn) {
				if c.Number > 0 { // a replacement
					_, _ = io.Copy(io.Discard, c)
					return
				}
				var nc io.ReadWriter = c
				if tc.tls {
					s := tls.Server(c, server)
					if s.Handshake() != nil {
						return
					}
					nc = s
				} else {
					_, _ = io.WriteString(c, "220 what can I do for you\r\n")
				}
				close(greeted)
				<-read
				n, err := io.Copy(io.Discard, nc)
				ended <- end{n, err}
			}})
			var first atomic.Bool
			dial := func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				c, err := d.DialContext(ctx, "tcp", w.Addr())
				if err != nil {
					return nil, err
				}
				_ = c.(*net.TCPConn).SetWriteBuffer(2 * size)
				if !tc.tls || first.Swap(true) {
					return c, nil
				}
				s := tls.Client(c, client)
				return s, s.HandshakeContext(ctx)
			}
			m := w.bare(append([]plex.Option{
				plex.WithMaxCapacity(2), plex.WithMinConnections(1), plex.WithLinger(patience), plex.WithConnector(plex.DialFunc(dial)),
			}, tc.opt...)...)
			wr := writer(t, m)
			within(t, "the greeting", func() { <-greeted })
			_, err := wr.Write(make([]byte, size))
			require.NoError(t, err)
			require.NoError(t, wr.Close())
			tc.end(t, m, func() { close(read) })
			within(t, "the server's end", func() {
				e := <-ended
				require.NoError(t, e.err, "an end and no reset")
				require.EqualValues(t, size, e.n)
			})
		})
	}
}

func awaitExpiry(t *testing.T, m *plex.Multiplexer, took func()) {
	eventually(t, func() bool { return m.Stats().Expired > 0 }, "the connection is too old")
	took()
}

func shutDown(t *testing.T, m *plex.Multiplexer, took func()) {
	done := make(chan error, 1)
	go func() { done <- m.Shutdown(context.Background()) }()
	eventually(t, func() bool { return m.Stats().IdleWriters == 0 }, "Shutdown has begun")
	took()
	within(t, "Shutdown", func() { require.NoError(t, <-done) })
}

// numbered is a protocol of frames that begin with an identifier.
type numbered struct{}

var frames = message.Prefix{Bytes: 4}

func (numbered) Append(dst []byte, id uint64, q string) ([]byte, error) {
	return frames.Append(dst, append(binary.BigEndian.AppendUint64(nil, id), q...))
}

func (numbered) Split(data []byte, atEOF bool) (int, []byte, error) { return frames.Split(data, atEOF) }

func (numbered) Parse(m []byte) (uint64, string, error) {
	if len(m) < 8 {
		return 0, "", request.ErrNotReply
	}
	return binary.BigEndian.Uint64(m), string(m[8:]), nil
}

// answering is a service in memory that echoes each frame of its consumers but those that say "lost".
type answering struct {
	refuses atomic.Bool
	greet   func(k int, c net.Conn) // at the beginning of connection k; may be nil

	mu    sync.Mutex
	peers []net.Conn
}

func (s *answering) dial(context.Context) (net.Conn, error) {
	if s.refuses.Load() {
		return nil, syscall.ECONNREFUSED
	}
	client, server := net.Pipe()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := len(s.peers)
	s.peers = append(s.peers, server)
	go s.serve(k, server)
	return client, nil
}

func (s *answering) serve(k int, c net.Conn) {
	defer c.Close()
	if s.greet != nil {
		s.greet(k, c)
	}
	for head := make([]byte, 4); ; {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		if string(body[min(8, len(body)):]) == "lost" {
			continue
		}
		if _, err := c.Write(append(append([]byte{}, head...), body...)); err != nil {
			return
		}
	}
}

// connects is how many connections there have been.
func (s *answering) connects() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.peers)
}

// Row "a reply, or the rest of a message, that never comes, on a connection that is too old": retired after the grace; its
// slot is filled meanwhile.
// Catches: a connection that drains for ever and keeps its slot, until none is left; a renewal that stops with it.
func TestFaultAReplyThatNeverComesOnAnOldConnection(t *testing.T) {
	for name, capacity := range map[string]int{"with room to replace it": 2, "without": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &answering{}
				m := newMux(t, plex.WithMaxCapacity(capacity), plex.WithMinConnections(1), plex.WithConnector(plex.DialFunc(s.dial)),
					plex.WithMaxLifetime(time.Minute), plex.WithRetireGrace(10*time.Second))
				c, err := request.New[string, string](m, numbered{})
				require.NoError(t, err)
				defer c.Close()
				hung := make(chan error, 1)
				go func() {
					_, err := c.Do(t.Context(), "lost")
					hung <- err
				}()
				for began := time.Now(); time.Since(began) < 5*time.Minute; time.Sleep(100 * time.Millisecond) {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					answer, err := c.Do(ctx, "hello")
					cancel()
					require.NoError(t, err, "%v after the beginning: %+v", time.Since(began), m.Stats())
					require.Equal(t, "hello", answer)
				}
				select {
				case err := <-hung:
					require.ErrorIs(t, err, plex.ErrRetired)
				default:
					require.Fail(t, "the reply is waited for, five minutes later")
				}
				require.GreaterOrEqual(t, m.Stats().Expired, uint64(4), "renewal goes on")
				require.Zero(t, m.Stats().Lost)
			})
		})
	}
}

// The same with the beginning of a message, of which the rest never comes.
func TestFaultARestThatNeverComesOnAnOldConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &answering{greet: func(k int, c net.Conn) {
			if k == 0 {
				_, _ = c.Write([]byte{0, 0, 0, 9, 'h'})
			}
		}}
		m := newMux(t, plex.WithMinConnections(1), plex.WithConnector(plex.DialFunc(s.dial)),
			plex.WithMaxLifetime(time.Minute), plex.WithRetireGrace(10*time.Second))
		r, err := message.New(m, frames.Split)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			for range r.All(ctx) {
			}
		})
		for range 50 {
			time.Sleep(5 * time.Second)
			require.NoError(t, message.Send(t.Context(), m, 3*time.Second, []byte{0, 0, 0, 4, 'n', 'e', 'w', 's'}), "%+v", m.Stats())
		}
		cancel()
		all.Wait()
		require.GreaterOrEqual(t, m.Stats().Expired, uint64(3))
		require.Zero(t, m.Stats().Lost)
	})
}

// Row "connects fail while the last connection that works becomes too old": it stays.
// Catches: a pool that gives up what it has for a service that cannot be had now.
func TestFaultConnectsFailWhileTheLastConnectionBecomesTooOld(t *testing.T) {
	for name, minimum := range map[string]int{"with room to replace it": 1, "without": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &answering{}
				m := newMux(t, plex.WithMaxCapacity(2), plex.WithMinConnections(minimum), plex.WithConnector(plex.DialFunc(s.dial)),
					plex.WithMaxLifetime(time.Minute))
				s.refuses.Store(true)
				if minimum == 2 {
					require.NoError(t, writer(t, m).Kill()) // one is left, and the place of the other is being filled
				}
				for range 1000 {
					time.Sleep(3 * time.Second)
					require.NoError(t, writer(t, m).Close(), "it stays")
				}
				require.Equal(t, minimum, s.connects())
				require.Zero(t, m.Stats().Expired)
				require.Positive(t, m.Stats().ConnectFailed, "the service is tried")
				s.refuses.Store(false)
				time.Sleep(5 * time.Minute)
				require.NoError(t, writer(t, m).Close())
				require.Positive(t, m.Stats().Expired, "replaced once the service is there")
			})
		})
	}
}
