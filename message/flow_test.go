package message_test

// End to end, over real connections.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/message"
)

// patience bounds what must happen soon. A test that passes never waits that long.
const patience = 30 * time.Second

// dialers are the transports; each returns both ends of a new connection.
func dialers(t *testing.T) map[string]func(t testing.TB) (client, server net.Conn) {
	serverConfig, clientConfig := tlsConfigs(t)
	return map[string]func(t testing.TB) (client, server net.Conn){
		"tcp": tcpPair,
		"tls": func(t testing.TB) (net.Conn, net.Conn) {
			c, s := tcpPair(t)
			client, server := tls.Client(c, clientConfig), tls.Server(s, serverConfig)
			done := make(chan error, 1)
			go func() { done <- server.Handshake() }()
			require.NoError(t, client.Handshake())
			require.NoError(t, <-done)
			return client, server
		},
		"unix": func(t testing.TB) (net.Conn, net.Conn) {
			l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			require.NoError(t, err)
			client, err := net.Dial("unix", l.Addr().String())
			require.NoError(t, err)
			server, err := l.Accept()
			require.NoError(t, err)
			require.NoError(t, l.Close())
			return client, server
		},
		"pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
	}
}

func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plex"}, DNSNames: []string{"plex.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "plex.test"}
}

// Many goroutines send frames of all sizes. An echo returns them cut into different pieces, and
// several loops receive them: each exactly once.
func TestFramesThereAndBack(t *testing.T) {
	for name, dial := range dialers(t) {
		t.Run(name, func(t *testing.T) {
			fakenet.BalanceProcess(t)
			frame := message.Prefix{Bytes: 4, Order: binary.LittleEndian, Inclusive: true}
			const conns, senders, each = 4, 8, 60
			var (
				clients []net.Conn
				echoes  sync.WaitGroup
			)
			for range conns {
				client, server := dial(t)
				clients = append(clients, client)
				echoes.Go(func() {
					defer server.Close()
					// It reads ahead of what it sends. A pipe has no buffer, so otherwise everyone
					// might wait for everyone else.
					pieces := make(chan []byte, 1<<16)
					echoes.Go(func() {
						for p := range pieces {
							if _, err := server.Write(p); err != nil {
								for range pieces {
								}
							}
						}
					})
					defer close(pieces)
					for {
						p := make([]byte, 1+mrand.IntN(3000))
						n, err := server.Read(p)
						if err != nil {
							return
						}
						pieces <- p[:n]
					}
				})
			}
			m, err := plex.New(context.Background(), plex.WithConnections(clients...))
			require.NoError(t, err)
			defer echoes.Wait()
			defer m.Close()

			r := receiver(t, m, frame.Split)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var (
				mu    sync.Mutex
				got   = map[string]int{}
				loops sync.WaitGroup
			)
			for range 3 {
				loops.Go(func() {
					for m, err := range r.All(ctx) {
						if err != nil {
							if m.Conn != (plex.Conn{}) {
								t.Error(err)
							}
							continue
						}
						mu.Lock()
						got[string(m.Data)]++
						if len(got) == senders*each {
							cancel()
						}
						mu.Unlock()
					}
				})
			}
			want := make([]map[string]int, senders)
			var sending sync.WaitGroup
			for i := range senders {
				want[i] = map[string]int{}
				sending.Go(func() {
					for j := range each {
						body := fmt.Appendf(nil, "%d.%d.", i, j)
						body = append(body, bytes.Repeat([]byte{byte(j)}, mrand.IntN(1<<(j%17)))...)
						want[i][string(body)] = 1
						p, err := frame.Append(nil, body)
						if err == nil {
							err = message.Send(context.Background(), m, patience, p)
						}
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			sending.Wait()
			loops.Wait()
			require.Len(t, got, senders*each)
			for _, bodies := range want {
				for body := range bodies {
					require.Equal(t, 1, got[body], "%.20q", body)
				}
			}
			require.Zero(t, r.Leftovers())
		})
	}
}

func TestDatagramsOverUDP(t *testing.T) {
	fakenet.BalanceProcess(t)
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer server.Close()
	client, err := net.Dial("udp", server.LocalAddr().String())
	require.NoError(t, err)
	m, err := plex.New(context.Background(), plex.WithConnections(client))
	require.NoError(t, err)
	defer m.Close()
	l := start(t, receiver(t, m, message.Lines), nil)
	send := func(s string) {
		_, err := server.WriteTo([]byte(s), client.LocalAddr())
		require.NoError(t, err)
	}
	long := string(bytes.Repeat([]byte{'x'}, 60_000))
	send("one\ntwo\nthr")
	send("ee\n")
	send("")
	send(long + "\n")
	want := []string{"one", "two", "cut(thr)", "ee", long}
	require.Eventually(t, func() bool { return len(l.words()) == len(want) }, patience, time.Millisecond)
	require.Equal(t, want, l.words())
	require.Zero(t, m.Stats().Lost)
}

// Nobody listens at the peer's port. The kernel reports that to the next Read or Write.
func TestARefusedDatagramIsReportedOverUDP(t *testing.T) {
	fakenet.BalanceProcess(t)
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	client, err := net.Dial("udp", server.LocalAddr().String())
	require.NoError(t, err)
	require.NoError(t, server.Close())
	m, err := plex.New(context.Background(), plex.WithConnections(client))
	require.NoError(t, err)
	defer m.Close()
	l := start(t, receiver(t, m, message.Lines), nil)
	for n := 1; n <= 3; n++ {
		require.NoError(t, message.Send(t.Context(), m, patience, []byte("anybody?\n")))
		require.Eventually(t, func() bool { return len(l.words()) == n }, patience, time.Millisecond)
		require.Equal(t, "refused", l.words()[n-1])
	}
	require.Zero(t, m.Stats().Lost)
}
