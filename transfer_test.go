package plex_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// A kernel tells a reset to whoever asks first, and the other half sees an EOF. If plex cannot ask the
// kernel, the EOF may be noticed before the Write's error.
func TestEOFBeforeTheErrorOfAWriteThatIsUnderWayIsAReset(t *testing.T) {
	for _, test := range []struct {
		name  string
		write error         // what the Write returns in the end
		after time.Duration // how long after the Read's EOF
		cause error         // what the reader is told
	}{
		{"reset", syscall.ECONNRESET, 5 * time.Millisecond, syscall.ECONNRESET},
		{"the Write is whole", nil, 5 * time.Millisecond, io.EOF},
		{"the Write goes on", nil, time.Hour, io.EOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := fakenet.Pair()
				c.OnRead(func([]byte, func([]byte) (int, error)) (int, error) { return 0, io.EOF })
				c.OnWrite(func(p []byte, _ func([]byte) (int, error)) (int, error) {
					time.Sleep(test.after)
					if test.write != nil {
						return 0, test.write
					}
					return len(p), nil
				})
				m, err := plex.New(t.Context(), plex.WithConnections(c))
				require.NoError(t, err)
				defer m.Close()
				w, err := m.Writer(t.Context(), -1)
				require.NoError(t, err)
				r, err := m.Reader(t.Context(), -1)
				require.NoError(t, err)

				written := make(chan error, 1)
				go func() {
					_, err := w.Write([]byte("x"))
					written <- err
				}()
				synctest.Wait()
				start := time.Now()
				_, err = r.Read(make([]byte, 1))
				require.ErrorIs(t, err, test.cause)
				assert.LessOrEqual(t, time.Since(start), 50*time.Millisecond, "a Write that goes on holds up no EOF")
				if err := <-written; test.write != nil {
					assert.Truef(t, errors.Is(err, test.write), "both halves tell the same cause, not %v", err)
				}
			})
		})
	}
}
