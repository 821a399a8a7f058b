package plex

import (
	"net"
	"testing"
	"time"
)

// The supervisor must not wait for a lock that a transport may keep.
func TestLeakDetectionDoesNotWaitForALock(t *testing.T) {
	client, peer := net.Pipe()
	defer peer.Close()
	m := muxOf(t, client)
	h := &m.roster.all()[0].w
	h.mu.Lock()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		h.suspect(time.Now(), time.Second)
	}()
	select {
	case <-asked:
	case <-time.After(sweepPatience):
		t.Error("it waits")
	}
	h.mu.Unlock()
}
