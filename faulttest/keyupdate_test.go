package faulttest_test

// A TLS connection whose Read has to write: the peer asks for a key update, which crypto/tls answers from within Read. If
// a Write is blocked, that Read waits for it, whatever its deadline says.

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/message"
)

// records makes TLS 1.3 records by hand, which a server of crypto/tls has no call for, with the keys of one that has
// finished its handshake and has sent nothing since.
type records struct {
	aead cipher.AEAD
	iv   []byte
	next uint64
}

// serverRecords makes the handshake on c as a server, and then the records.
func serverRecords(c net.Conn, config *tls.Config) (*records, error) {
	var log bytes.Buffer
	config = config.Clone()
	config.KeyLogWriter, config.SessionTicketsDisabled = &log, true
	s := tls.Server(c, config)
	if err := s.Handshake(); err != nil {
		return nil, err
	}
	if suite := s.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		return nil, fmt.Errorf("cipher suite %s", tls.CipherSuiteName(suite))
	}
	for line := range strings.Lines(log.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "SERVER_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				return nil, err
			}
			block, err := aes.NewCipher(expand(secret, "key", 16))
			if err != nil {
				return nil, err
			}
			aead, err := cipher.NewGCM(block)
			return &records{aead: aead, iv: expand(secret, "iv", 12)}, err
		}
	}
	return nil, fmt.Errorf("no secret in %q", log.String())
}

// expand is HKDF-Expand-Label of RFC 8446, without a context.
func expand(secret []byte, label string, length int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(append(append(info, byte(len(label))), label...), 0)
	out, err := hkdf.Expand(sha256.New, secret, string(info), length)
	if err != nil {
		panic(err) // the lengths are constant
	}
	return out
}

// Kinds of records.
const (
	handshakeRecord = 22
	dataRecord      = 23
)

// keyUpdate is the message that changes the keys and asks for the same.
var keyUpdate = []byte{24, 0, 0, 1, 1}

// seal makes a record.
func (r *records) seal(kind byte, content []byte) []byte {
	plain := append(bytes.Clone(content), kind)
	header := []byte{dataRecord, 3, 3}
	header = binary.BigEndian.AppendUint16(header, uint16(len(plain)+r.aead.Overhead()))
	nonce := bytes.Clone(r.iv)
	last := nonce[len(nonce)-8:]
	binary.BigEndian.PutUint64(last, binary.BigEndian.Uint64(last)^r.next)
	r.next++
	return r.aead.Seal(header, nonce, plain, header)
}

// updating is a server whose first connection does not read what comes after the handshake, and on which ask has the
// client asked for a key update, behind a line in the same piece. All others send a line whenever told to.
type updating struct {
	*world
	blocked chan struct{} // receives when the handshake of the first is over
	ask     chan struct{}
	line    chan string
}

func newUpdating(t *testing.T) *updating {
	u := &updating{blocked: make(chan struct{}), ask: make(chan struct{}), line: make(chan string)}
	config := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	u.world = newWorld(t, 2, proxy.Config{Handler: func(c *proxy.Conn) {
		_ = c.SetReadBuffer(4 << 10)
		if c.Number > 0 {
			s := tls.Server(c, config)
			if s.Handshake() != nil {
				return
			}
			for {
				select {
				case text := <-u.line:
					if _, err := io.WriteString(s, text); err != nil {
						return
					}
				case <-c.Done():
					return
				}
			}
		}
		r, err := serverRecords(c, config)
		if err != nil {
			t.Errorf("the server: %v", err)
			return
		}
		close(u.blocked)
		<-u.ask
		_, _ = c.Write(append(r.seal(dataRecord, []byte("first\n")), r.seal(handshakeRecord, keyUpdate)...))
		<-c.Done()
	}})
	return u
}

// pool has one connection, the first, on which a Write is blocked, and then another.
func (u *updating) pool(t *testing.T) (m *plex.Multiplexer, blocked plex.Writer) {
	config := &tls.Config{InsecureSkipVerify: true}
	m = u.bare(plex.WithMaxCapacity(2), plex.WithMinConnections(1), plex.WithAutoScaling(time.Millisecond), plex.WithIdleTimeout(time.Hour),
		plex.WithBackoff(quick), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", u.Addr())
			if err != nil {
				return nil, err
			}
			_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
			return tls.Client(c, config), nil
		})))
	within(t, "the handshake", func() { <-u.blocked })
	blocked = writer(t, m)
	written := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		_, err := blocked.Write(make([]byte, 16<<20))
		written <- err
	}()
	<-started
	t.Cleanup(func() {
		_ = blocked.Kill()
		within(t, "the Write", func() { require.Error(t, <-written) })
	})
	other := writer(t, m) // of another connection, which makes it
	require.NoError(t, other.Close())
	return m, blocked
}

const noVigil = "half.fetch keeps no vigil over TLS, so a look waits for the Write for ever"

// Row "TLS key update while a Write is blocked": the end of a lease and other connections go on.
// Catches: an end of a lease, or a receive loop, that waits for a look whose Read waits for the Write.
func TestFaultKeyUpdateWhileAWriteIsBlocked(t *testing.T) {
	t.Run("the end of a lease that looks", func(t *testing.T) {
		t.Skip(noVigil)
		u := newUpdating(t)
		m, _ := u.pool(t)
		close(u.ask)
		r, err := m.ReadyReader(t.Context(), patience)
		require.NoError(t, err)
		require.Equal(t, "first\n", read(t, r, 6))
		within(t, "Close", func() { _ = r.Close() })
		u.others(t, m)
	})
	t.Run("the end of a lease in use", func(t *testing.T) {
		u := newUpdating(t)
		m, blocked := u.pool(t)
		var r plex.Reader
		for r == (plex.Reader{}) || r.Conn() != blocked.Conn() {
			r = reader(t, m) // of both, in the end
			defer r.Close()
		}
		reading := make(chan struct{})
		over := make(chan struct{})
		go func() {
			defer close(over)
			p := make([]byte, 64)
			_, _ = r.Read(p)
			close(reading)
			_, _ = r.Read(p)
		}()
		close(u.ask)
		within(t, "the first Read", func() { <-reading })
		within(t, "Close", func() { _ = r.Close() })
		within(t, "the second Read", func() { <-over })
	})
	t.Run("a receive loop", func(t *testing.T) {
		t.Skip(noVigil)
		u := newUpdating(t)
		m, _ := u.pool(t)
		receiver, err := message.New(m, message.Lines)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		close(u.ask)
		n, told := 0, make(chan struct{})
		go func() {
			defer close(told)
			for i := range 20 {
				select {
				case u.line <- fmt.Sprintf("line %d\n", i):
				case <-ctx.Done():
				}
			}
		}()
		for msg, err := range receiver.All(ctx) {
			if err != nil {
				continue
			}
			if n++; strings.HasPrefix(string(msg.Data), "line 19") {
				break
			}
		}
		<-told
		require.NoError(t, ctx.Err(), "only %d lines came", n)
	})
}

// others checks that another connection serves its readers.
func (u *updating) others(t *testing.T, m *plex.Multiplexer) {
	t.Helper()
	for i := range 10 {
		text := fmt.Sprintf("line %d\n", i)
		within(t, "the server", func() { u.line <- text })
		r, err := m.ReadyReader(t.Context(), patience)
		require.NoError(t, err)
		require.Equal(t, text, read(t, r, len(text)))
		require.NoError(t, r.Close())
	}
}
