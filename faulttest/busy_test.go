package faulttest_test

// A service that accepts and does not serve: it is busy, it hangs up a moment later, or it does not like the certificate.
// And one that is well, of which a consumer thinks ill.

import (
	"crypto/tls"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Rows "the service says "busy" in one line and hangs up, at once or a moment later" and "a balancer accepts and hangs up
// 30 ms later": backoff, and the line in the cause; probes only.
// Catches: a line, or 30 ms of life, taken for the proof that the service is well; a cause that is no more than EOF.
func TestFaultTheServiceHangsUpYoung(t *testing.T) {
	const line = "-ERR max number of clients reached"
	for name, tc := range map[string]struct {
		line string
		life time.Duration
	}{
		"busy, at once":         {line + "\r\n", 0},
		"busy, a moment later":  {line + "\r\n", 5 * time.Millisecond},
		"busy, 30 ms later":     {line + "\r\n", 30 * time.Millisecond},
		"balancer, 30 ms later": {"", 30 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			var well atomic.Bool
			w := newWorld(t, 4, proxy.Config{Handler: func(c *proxy.Conn) {
				if well.Load() {
					hold(c)
					return
				}
				_, _ = io.WriteString(c, tc.line)
				select {
				case <-time.After(tc.life):
				case <-c.Done():
				}
			}})
			m := w.bare(plex.WithMaxCapacity(4), plex.WithConnector(w.book.Dial(w.Addr()))) // the default backoff
			began := time.Now()
			told := false
			for !enough(began, 1500*time.Millisecond, func() bool { return w.Accepted() >= 3 && (told || tc.line == "") }) {
				wr, err := m.Writer(t.Context(), 20*time.Millisecond)
				if err == nil {
					_ = wr.Close()
					continue
				}
				told = told || strings.Contains(err.Error(), line)
			}
			n, took := w.Accepted(), time.Since(began)
			require.GreaterOrEqual(t, n, 3, "it goes on trying")
			require.LessOrEqual(t, float64(n), 10*took.Seconds(), "connects in %v to a service that does not serve", took)
			require.Equal(t, tc.line != "", told, "what the service said is in the cause")
			well.Store(true)
			eventually(t, func() bool {
				wr, err := m.Writer(t.Context(), patience)
				if err != nil {
					return false
				}
				defer wr.Close()
				return w.Established() == 1
			}, "served once the service is well")
		})
	}
}

// Row "TLS 1.3: the server rejects the client's certificate after the handshake": the alert is the cause that callers are
// told.
// Catches: callers who are told of an EOF or of a timeout, since the client's handshake has succeeded.
func TestFaultTheServerRejectsTheClientsCertificate(t *testing.T) {
	cert := selfSigned(t)
	server := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert}
	p, err := proxy.New(proxy.Config{Handler: func(c *proxy.Conn) {
		s := tls.Server(c, server)
		if s.Handshake() == nil {
			_, _ = io.Copy(io.Discard, s)
		}
	}})
	require.NoError(t, err)
	balance(t)
	defer p.Close()
	client := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}
	m := newMux(t, plex.WithMaxCapacity(2), plex.WithConnector(plex.DialContext(client, "tcp", p.Addr())))
	eventually(t, func() bool {
		wr, err := m.Writer(t.Context(), 20*time.Millisecond)
		if err == nil {
			_ = wr.Close()
			return false
		}
		return strings.Contains(err.Error(), "certificate")
	}, "an acquire's error has the alert")
	require.NoError(t, m.Close())
}

// Row "a consumer kills young connections of a service that is well": replaced at once.
// Catches: a pause that grows with each kill, though the service has done nothing wrong.
func TestFaultAConsumerKillsYoungConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &answering{}
		m := newMux(t, plex.WithMaxCapacity(2), plex.WithMinConnections(2), plex.WithConnector(plex.DialFunc(s.dial))) // the default backoff
		for range 500 {
			began := time.Now()
			require.NoError(t, writer(t, m).Kill())
			synctest.Wait()
			require.Equal(t, 2, m.Stats().Open, "replaced")
			require.Zero(t, time.Since(began), "at once")
		}
		st := m.Stats()
		require.Equal(t, [3]uint64{500, 500, 500}, [3]uint64{st.Killed, st.Lost, st.Healed})
		require.Zero(t, st.Backoff)
		require.NoError(t, st.LastConnectError)
	})
}
