package request_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// Against a server that nobody here wrote, if the machine has it: many callers, of whom some give up,
// beside transactions in sessions.
func TestDebiansRedis(t *testing.T) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("there is no redis-server")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	server := exec.Command(binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
		}

		return err == nil
	}, 20*time.Second, 10*time.Millisecond)

	m, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("unix", socket)),
		plex.WithMinConnections(4), plex.WithMaxCapacity(4))
	require.NoError(t, err)
	defer m.Close()
	c, err := request.NewOrdered(m, resp{}, request.WithDepth(50))
	require.NoError(t, err)
	defer c.Close()

	var wg sync.WaitGroup
	for caller := range 100 {
		wg.Go(func() {
			key := fmt.Sprint("key", caller)
			for i := range 50 {
				value := fmt.Sprint(key, " ", i)
				reply, err := c.Do(t.Context(), []string{"SET", key, value})
				require.NoError(t, err)
				require.Equal(t, "OK", reply)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(2000))*time.Microsecond)
				reply, err = c.Do(ctx, []string{"GET", key})
				cancel()
				if err == nil {
					require.Equal(t, value, reply)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 20 {
				s, err := c.Session(t.Context())
				require.NoError(t, err)
				for _, step := range [][2]string{{"MULTI", "OK"}, {"DBSIZE", "QUEUED"}, {"DISCARD", "OK"}} {
					reply, err := s.Do(t.Context(), []string{step[0]})
					require.NoError(t, err)
					require.Equal(t, step[1], reply)
				}
				require.NoError(t, s.Close())
			}
		})
	}
	wg.Wait()
	require.Zero(t, c.Stats().Malformed+c.Stats().Unknown)
}
