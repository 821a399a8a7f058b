package plex

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever is told of the end must know that no later caller gets a lease.
func TestAddTellsOfTheEndOnlyWhenAllHalvesAreRetired(t *testing.T) {
	client, peer := net.Pipe()
	defer peer.Close()
	m := muxOf(t, client)
	begun, goOn := make(chan struct{}), make(chan struct{})
	go m.refuse.Do(func() {
		m.mu.Lock()
		m.refusing = true
		m.mu.Unlock()
		close(begun)
		<-goOn // halves may still be leased
	})
	<-begun
	late, other := net.Pipe()
	defer late.Close()
	defer other.Close()
	added := make(chan error, 1)
	go func() {
		_, err := m.Add(t.Context(), late)
		added <- err
	}()
	select {
	case <-added:
		t.Error("the end was told too early")
		added <- ErrClosed
	case <-time.After(20 * time.Millisecond): // a wrong Add is back by then, a right one never
	}
	close(goOn)
	require.ErrorIs(t, <-added, ErrClosed)
}
