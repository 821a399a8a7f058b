// Command autoscaling uploads documents, few at first, then a burst of them, then few again, and shows how plex adds
// connections because callers wait, and closes them when nobody needs them any more.
//
// It is a client and a server in one process. Run it with
//
//	go run ./examples/autoscaling
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
)

const (
	fewest      = 2                      // connections
	most        = 16                     // the capacity
	tolerable   = 20 * time.Millisecond  // to wait for a connection
	unneeded    = time.Second            // after so long a connection that nobody has needed is closed
	step        = 250 * time.Millisecond // from row to row
	pieces      = 10                     // of a document, which is made while it is sent
	pieceSize   = 4 << 10
	pieceTime   = 5 * time.Millisecond
	quietEvery  = 50 * time.Millisecond // from document to document; one connection can take them all
	burstEvery  = 5 * time.Millisecond  // ten connections are needed
	quietBefore = 6 * step
	burst       = 10 * step
	quietAfter  = 11 * step
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "autoscaling:", err)
		os.Exit(1)
	}
}

func run() error {
	srv, err := startServer()
	if err != nil {
		return err
	}

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", srv.addr())),
		plex.WithMinConnections(fewest),
		plex.WithMaxCapacity(most),
		plex.WithAutoScaling(tolerable),
		plex.WithIdleTimeout(unneeded),
	)
	if err != nil {
		return err
	}
	fmt.Printf("Documents are uploaded over %d to %d connections to %s.\n", fewest, most, srv.addr())
	fmt.Printf("Each keeps a connection for %v. If it waits longer than %v, one is added.\n\n", pieces*pieceTime, tolerable)

	u := &uploader{mux: mux}
	t := timeline.Start(os.Stdout, step, header, rows(u))
	t.Note("%d documents per second", time.Second/quietEvery)
	u.offer(quietBefore, quietEvery)
	t.Note("a burst: %d documents per second", time.Second/burstEvery)
	u.offer(burst, burstEvery)
	t.Note("%d documents per second", time.Second/quietEvery)
	u.offer(quietAfter, quietEvery)
	u.uploads.Wait()
	t.Stop()

	stats := mux.Stats()
	if err := errors.Join(mux.Close(), srv.close()); err != nil {
		return err
	}

	return u.summarize(stats, srv)
}

// uploader sends documents, each over whichever connection is free.
type uploader struct {
	mux     *plex.Multiplexer
	uploads sync.WaitGroup

	mu     sync.Mutex
	sent   int
	bytes  int64
	waits  []time.Duration // of each upload for its connection
	failed []error
}

// offer has documents uploaded at a steady rate, whether or not there is a connection for them.
func (u *uploader) offer(during, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()

	for end := time.Now().Add(during); time.Now().Before(end); <-ticker.C {
		u.uploads.Go(func() {
			n, waited, err := u.upload()

			u.mu.Lock()
			defer u.mu.Unlock()
			u.bytes += n
			u.waits = append(u.waits, waited)
			if err != nil {
				u.failed = append(u.failed, err)
				return
			}
			u.sent++
		})
	}
}

// upload sends one document. It keeps its lease from the first piece to the last, so that no other document gets in
// between.
func (u *uploader) upload() (sent int64, waited time.Duration, err error) {
	start := time.Now()
	w, err := u.mux.Writer(context.Background(), 5*time.Second)
	waited = time.Since(start)
	if err != nil {
		return 0, waited, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()

	piece := make([]byte, pieceSize)
	for range pieces {
		time.Sleep(pieceTime) // a piece is being made
		n, err := w.Write(piece)
		sent += int64(n)
		if err != nil {
			return sent, waited, err
		}
	}

	return sent, waited, nil
}

const header = "in use █  idle ▒      open  waiting  added  closed  documents  longest\n" +
	"                                                                  per s     wait"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(u *uploader) func() string {
	var before plex.Stats
	var sent, waits int

	return func() string {
		now := u.mux.Stats()
		u.mu.Lock()
		longest := slices.Max(append(u.waits[waits:], 0))
		documents := u.sent - sent
		sent, waits = u.sent, len(u.waits)
		u.mu.Unlock()

		idle := now.Open - now.LeasedWriters
		row := fmt.Sprintf("%s   %5d %8s %6s %7s %10d %6dms", timeline.Bar(most, now.LeasedWriters, idle), now.Open,
			timeline.NonZero(now.Waiting), timeline.NonZero(now.ScaledUp-before.ScaledUp), timeline.NonZero(now.ScaledDown-before.ScaledDown),
			documents*int(time.Second/step), longest.Milliseconds())
		before = now

		return row
	}
}

func (u *uploader) summarize(stats plex.Stats, srv *server) error {
	slices.Sort(u.waits)
	percentile := func(p int) time.Duration { return u.waits[(len(u.waits)-1)*p/100].Round(100 * time.Microsecond) }
	fmt.Printf(`
  documents    %6s sent; %s bytes, of which the server got %s
  waits        %6v for half of them, %v or less for 95 %%, %v at the most
  connections  %6d added and %d closed again; the server saw %d at the same time
`, timeline.Count(u.sent), timeline.Count(u.bytes), timeline.Count(srv.bytes.Load()),
		percentile(50), percentile(95), percentile(100),
		stats.ScaledUp, stats.ScaledDown, srv.peak.Load())

	err := errors.Join(u.failed...)
	if got := srv.bytes.Load(); got != u.bytes {
		err = errors.Join(err, fmt.Errorf("the server got %d bytes, not %d", got, u.bytes))
	}

	return err
}
