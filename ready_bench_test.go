package plex_test

// What a lease of a ready reader costs: ReadyReader, one Read and Close, on TCP connections all of which have something.

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// wellFed makes n TCP connections whose peers keep sending.
func wellFed(b *testing.B, n int) []net.Conn {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	var clients, peers []net.Conn
	for range n {
		client, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(b, err)
		peer, err := ln.Accept()
		require.NoError(b, err)
		clients, peers = append(clients, client), append(peers, peer)
		_, err = peer.Write(make([]byte, 32<<10)) // what is read below is a small part of it
		require.NoError(b, err)
	}
	require.NoError(b, ln.Close())
	fed := make(chan struct{})
	go func() { // one for all, since what they send is little
		defer close(fed)
		p := make([]byte, 16<<10)
		for {
			for _, peer := range peers {
				if _, err := peer.Write(p); err != nil {
					return
				}
			}
		}
	}()
	b.Cleanup(func() {
		for _, peer := range peers {
			_ = peer.(*net.TCPConn).SetLinger(0)
			_ = peer.Close()
		}
		<-fed
	})
	return clients
}

func BenchmarkReadyReader(b *testing.B) {
	for _, n := range []int{8, 1000} {
		b.Run(fmt.Sprintf("%d connections", n), func(b *testing.B) {
			l := newLedger(b)
			m := l.mux(plex.WithConnections(wellFed(b, n)...))
			ctx := context.Background()
			p := make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				r, err := m.ReadyReader(ctx, 0)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.Read(p); err != nil {
					b.Fatal(err)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadyReaderBaseline is a plain Reader on connections like those of BenchmarkReadyReader.
func BenchmarkReadyReaderBaseline(b *testing.B) {
	l := newLedger(b)
	m := l.mux(plex.WithConnections(wellFed(b, 8)...))
	ctx := context.Background()
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		r, err := m.Reader(ctx, 0)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.Read(p); err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
