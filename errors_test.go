package plex_test

// The errors that callers see: what they say and what they match.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestAFailedAcquireIsADiagnosis(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(given...), plex.WithMaxCapacity(5))
		held := []lease{s.must(l, m), s.must(l, m)}
		unrelated := s.other().must(l, m)
		out := s.queue(m, 3, func(int) (lease, error) { return s.acquire(m, context.Background(), time.Hour) })

		_, err := s.acquire(m, context.Background(), 1500*time.Millisecond)

		var failed *plex.AcquireError

		require.ErrorAs(l, err, &failed)
		require.Equal(l, plex.AcquireError{
			Half: s.name, Waited: 1500 * time.Millisecond, Capacity: 5, Open: 2, Leased: 2, Waiting: 3, Err: plex.ErrTimeout,
		}, *failed)

		text := err.Error()
		for _, part := range []string{s.name, "1.5s", "timed out", "capacity 5", "open 2", "leased 2", "connecting 0", "waiting 3"} {
			assert.Contains(l, text, part)
		}

		assert.Regexp(l, "^plex: ", text)
		assert.NotContains(l, text[1:], "plex: ", "one prefix is enough")

		_, err = s.acquire(m, context.Background(), -1)
		require.ErrorAs(l, err, &failed)
		require.Zero(l, failed.Waited)
		assert.NotContains(l, err.Error(), "after")

		for i := range 3 {
			require.NoError(l, held[i%2].Close())

			held[i%2] = (<-out).lease
		}

		requireClosed(l, held[0], held[1], unrelated)
	})
}

func TestEveryFailedAcquireIsAnAcquireErrorAndANetError(t *testing.T) {
	eachSide(t, func(l *ledger, s side) {
		given, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(given...), plex.WithMaxCapacity(2))
		x := s.must(l, m)

		check := func(err error, timeout bool, is ...error) {
			l.Helper()

			var (
				failed *plex.AcquireError
				netErr net.Error
			)

			require.ErrorAs(l, err, &failed)
			require.ErrorAs(l, err, &netErr)
			assert.Equal(l, s.name, failed.Half)
			assert.Equal(l, timeout, netErr.Timeout(), err)

			for _, target := range append(is, failed.Err) {
				assert.ErrorIs(l, err, target)
				assert.ErrorIs(l, fmt.Errorf("wrapped: %w", err), target)
			}
		}

		canceled, cancel := context.WithCancel(context.Background())
		cancel()

		late, cancelLate := context.WithTimeout(context.Background(), time.Second)
		defer cancelLate()

		_, err := s.acquire(m, context.Background(), -1)
		check(err, true, plex.ErrTimeout)

		_, err = s.acquire(m, context.Background(), time.Second)
		check(err, true, plex.ErrTimeout)

		_, err = s.acquire(m, canceled, 0)
		check(err, false, context.Canceled)

		_, err = s.acquire(m, late, 0)
		check(err, true, context.DeadlineExceeded)

		require.NoError(l, x.Kill())

		_, err = s.acquire(m, context.Background(), 0)
		check(err, false, plex.ErrNoConnections)

		require.NoError(l, m.Close())

		_, err = s.acquire(m, context.Background(), 0)
		check(err, false, plex.ErrClosed, net.ErrClosed)
	})
}

func TestAcquireErrorReadsLikeADiagnosis(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: fakenet.Addr("10.0.0.7:5432"), Err: os.NewSyscallError("connect", errDialRefused)}

	for want, e := range map[string]plex.AcquireError{
		"plex: no reader after 2.005s: timed out (capacity 8, open 1, leased 1, connecting 2, waiting 17); " +
			"last connect: dial tcp 10.0.0.7:5432: connect: connection refused by the test": {
			Half: "reader", Waited: 2004999999, Capacity: 8, Open: 1, Leased: 1, Connecting: 2, Waiting: 17,
			Err: plex.ErrTimeout, Connect: refused,
		},
		"plex: no writer: timed out (capacity 1, open 1, leased 1, connecting 0, waiting 0)": {
			Half: "writer", Capacity: 1, Open: 1, Leased: 1, Err: plex.ErrTimeout,
		},
		"plex: no writer after 12.346ms: context canceled (capacity 1, open 1, leased 1, connecting 0, waiting 0)": {
			Half: "writer", Waited: 12345678, Capacity: 1, Open: 1, Leased: 1, Err: context.Canceled,
		},
	} {
		assert.Equal(t, want, e.Error())
		assert.ErrorIs(t, &e, e.Err)

		if e.Connect != nil {
			var opError *net.OpError

			assert.ErrorIs(t, &e, errDialRefused, "the last connect error is in the chain")
			assert.ErrorAs(t, &e, &opError)
		}
	}

	assert.True(t, (&plex.AcquireError{Err: fmt.Errorf("%w: why", context.DeadlineExceeded)}).Timeout())
	assert.False(t, (&plex.AcquireError{Err: context.Canceled, Connect: os.ErrDeadlineExceeded}).Timeout())
}

func TestTheErrorsForWhatIsClosedMatchNetErrClosedAndNotEachOther(t *testing.T) {
	assert.ErrorIs(t, plex.ErrClosed, net.ErrClosed)
	assert.ErrorIs(t, plex.ErrLeaseClosed, net.ErrClosed)
	assert.NotErrorIs(t, plex.ErrClosed, plex.ErrLeaseClosed)
	assert.NotErrorIs(t, plex.ErrLeaseClosed, plex.ErrClosed)

	all := []error{
		plex.ErrClosed, plex.ErrLeaseClosed, plex.ErrTimeout, plex.ErrStreaming, plex.ErrTooManyConnections, plex.ErrNilConnection,
		plex.ErrKnownConnection, plex.ErrNoConnections, plex.ErrKilled, plex.ErrPartialWrite, plex.ErrNotAttached, plex.ErrAttached,
	}
	for i, a := range all {
		assert.Regexp(t, "^plex: ", a.Error())

		for j, b := range all {
			assert.Equal(t, i == j, errors.Is(a, b), "%v, %v", a, b)
		}
	}

	assert.ErrorIs(t, &plex.UnsentError{Unsent: 7, Err: errDialRefused}, errDialRefused)
	assert.Contains(t, (&plex.UnsentError{Unsent: 7, Err: errDialRefused}).Error(), "7 bytes")
}
