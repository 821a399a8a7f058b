package shipper

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

func TestFrame(t *testing.T) {
	c := &Client{header: " host app 7 - - "}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	require.Equal(t, "56 <11>1 2026-01-02T03:04:05.000006Z host app 7 - - a\nb \x00ü", string(c.frame(Err, at, "a\nb \x00ü")))
}

// pipe is a Connect to one peer; a second connection is refused.
func pipe() (peer net.Conn, connect plex.Connect) {
	near, peer := net.Pipe()
	return peer, func(_ context.Context, conn net.Conn) error {
		if near == nil {
			return errors.New("gone")
		}
		transport := near
		near = nil
		return plex.Attach(conn, transport)
	}
}

func TestLog(t *testing.T) {
	peer, connect := pipe()
	c, err := Dial(t.Context(), Config{Connect: connect, Connections: 1, App: "app"})
	require.NoError(t, err)
	came := make(chan []byte)
	go func() {
		data, _ := io.ReadAll(peer)
		_ = peer.Close()
		came <- data
	}()
	require.NoError(t, c.Log(Debug, "the text"))
	require.NoError(t, c.Log(Emergency, ""))
	require.ErrorContains(t, c.Log(8, ""), "severity 8")
	require.ErrorContains(t, c.Log(Info, strings.Repeat("x", maxText+1)), "a text of 8001 bytes")
	require.NoError(t, c.Close(t.Context()))
	require.Regexp(t, regexp.MustCompile(`^\d+ <15>1 \S+ \S+ app \d+ - - the text\d+ <8>1 \S+ \S+ app \d+ - - $`), string(<-came))
	require.ErrorIs(t, c.Log(Info, "later"), net.ErrClosed)
}

// A peer that reads nothing: the queue fills, and what was not written comes back.
func TestHandedBack(t *testing.T) {
	peer, connect := pipe()
	defer peer.Close()
	back := make(chan string, 9)
	c, err := Dial(t.Context(), Config{
		Connect: connect, Connections: 1, App: "app", Queue: 200,
		HandedBack: func(m []byte, maybe bool) {
			require.False(t, maybe)
			back <- string(m)
		},
	})
	require.NoError(t, err)
	for err = c.Log(Info, "x"); err == nil; {
		err = c.Log(Info, "x")
	}
	require.ErrorIs(t, err, ErrFull)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Close(ctx), context.Canceled)
	for len(back) > 0 {
		require.Regexp(t, `^<14>1 .* - - x$`, <-back)
	}
	_, sender := c.Stats()
	require.Positive(t, sender.Failed)
	require.Zero(t, sender.Messages)
}

func TestDialRefuses(t *testing.T) {
	for _, app := range []string{"", "a b", "a\n", "ü", strings.Repeat("a", 49)} {
		_, err := Dial(t.Context(), Config{App: app})
		require.ErrorContains(t, err, "want a name")
	}
	_, err := Dial(t.Context(), Config{App: "app"})
	require.ErrorContains(t, err, "WithConnector")
}
