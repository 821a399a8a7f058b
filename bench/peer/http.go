package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// NewHandler returns what serves HTTP. It answers /echo with a frame, after a
// delay in nanoseconds if there is one in the query. It answers /together when
// so many requests as the query says in n have come, so that as many
// connections are open at once.
func NewHandler() http.Handler {
	var (
		mu      sync.Mutex
		arrived int
		all     = make(chan struct{})
		mux     = http.NewServeMux()
	)
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		if delay, _ := strconv.ParseInt(r.FormValue("delay"), 10, 64); delay > 0 {
			time.Sleep(time.Duration(delay))
		}
		var f Frame
		_, _ = w.Write(f[:]) // the client notices
	})
	mux.HandleFunc("/together", func(_ http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		mu.Lock()
		wait := all
		if arrived++; arrived >= n {
			close(all)
			arrived, all = 0, make(chan struct{})
		}
		mu.Unlock()
		<-wait
	})
	return mux
}

// Together opens n connections of a client and leaves them idle, by as many
// requests at once.
func Together(ctx context.Context, t http.RoundTripper, address string, n int) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range n {
		wg.Go(func() {
			err := Get(ctx, t, fmt.Sprintf("http://%s/together?n=%d", address, n))
			if err != nil {
				cancel() // the others would wait for ever
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

// Get makes a request and reads the reply to its end, which leaves the
// connection idle.
func Get(ctx context.Context, t http.RoundTripper, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	reply, err := t.RoundTrip(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, reply.Body)
	return errors.Join(err, reply.Body.Close())
}
