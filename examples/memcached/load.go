package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/request"
)

// load is many callers that set, get and delete all the time, and the book of what became of each request. A key has
// one caller that uses it, who therefore knows what its value has to be.
type load struct {
	client   *Client
	patience time.Duration // for one request
	pace     time.Duration // from a caller's reply to its next request

	// restarts is counted up before the server goes down, and once more when it is down. A key that was set in an
	// earlier count may be forgotten.
	restarts atomic.Int64

	begun     atomic.Int64 // requests
	sets      atomic.Int64 // that were confirmed
	hits      atomic.Int64 // gets that got the right value
	misses    atomic.Int64 // gets and deletes of a key that was not there, and was not to be
	deletes   atomic.Int64 // that were confirmed
	forgotten atomic.Int64 // gets and deletes of a key that a restart has lost
	wrong     atomic.Int64 // replies
	notSent   atomic.Int64 // failed, and the server cannot have got it
	maybeSent atomic.Int64 // failed, and the server may have got it
	gaveUp    atomic.Int64 // no reply came in time; these are among the two above

	mu       sync.Mutex
	first    error         // what the first wrong reply was
	lastFail error         // why the last request failed
	longest  time.Duration // that a request took which got its reply
}

// run has so many callers at work until ctx ends, and returns when the last request has ended.
func (l *load) run(ctx context.Context, callers int) {
	var calling sync.WaitGroup
	for i := range callers {
		calling.Go(func() {
			c := &caller{load: l, number: i}
			for ctx.Err() == nil {
				c.step()
				if l.pace > 0 {
					time.Sleep(l.pace)
				}
			}
		})
	}
	calling.Wait()
}

// caller uses one key at a time, and a few values for it.
type caller struct {
	load   *load
	number int
	keys   int // used so far

	key     string
	value   []byte // that the key has; nil: there is no such key
	count   int64  // of restarts, before the key was set
	version int
}

// step makes one request. Its context is its own, so that the end of the run breaks off no request.
func (c *caller) step() {
	if c.key == "" {
		c.keys++
		c.key, c.value, c.version = fmt.Sprintf("caller:%d:%d", c.number, c.keys), nil, 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.load.patience)
	defer cancel()

	c.load.begun.Add(1)
	begun := time.Now()
	var err error
	switch p := rand.IntN(100); {
	case p < 60:
		err = c.get(ctx)
	case p < 90:
		err = c.set(ctx)
	default:
		err = c.delete(ctx)
	}
	if err != nil {
		c.load.fail(err)
		return
	}
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	c.load.longest = max(c.load.longest, time.Since(begun))
}

func (c *caller) get(ctx context.Context) error {
	value, err := c.load.client.Get(ctx, c.key)
	switch {
	case errors.Is(err, ErrNotFound):
		c.missing("get")
		return nil
	case err != nil:
		return err
	case c.value == nil:
		c.load.mistake(fmt.Errorf("%s was deleted, or never set, and has the value %.60q", c.key, value))
	case !bytes.Equal(value, c.value):
		c.load.mistake(fmt.Errorf("%s has the value %.60q, not %.60q", c.key, value, c.value))
	default:
		c.load.hits.Add(1)
	}

	return nil
}

func (c *caller) set(ctx context.Context) error {
	c.version++
	value := fmt.Appendf(nil, "%s, version %d%s", c.key, c.version, strings.Repeat(".", rand.IntN(2048)))
	count := c.load.restarts.Load()
	if err := c.load.client.Set(ctx, c.key, value, time.Hour); err != nil {
		c.doubt(err)
		return err
	}
	c.value, c.count = value, count
	c.load.sets.Add(1)

	return nil
}

func (c *caller) delete(ctx context.Context) error {
	err := c.load.client.Delete(ctx, c.key)
	switch {
	case errors.Is(err, ErrNotFound):
		c.missing("delete")
		return nil
	case err != nil:
		c.doubt(err)
		return err
	case c.value == nil:
		c.load.mistake(fmt.Errorf("%s was deleted, or never set, and could be deleted", c.key))
	default:
		c.load.deletes.Add(1)
	}
	c.value = nil

	return nil
}

// missing is what a caller is told who asks for a key that is not there. That is right if it has not set the key, and
// if the server has been restarted since.
func (c *caller) missing(what string) {
	switch {
	case c.value == nil:
		c.load.misses.Add(1)
	case c.load.restarts.Load() != c.count:
		c.load.forgotten.Add(1)
		c.value = nil
	default:
		c.load.mistake(fmt.Errorf("%s %s: not found, though it was set to %.60q", what, c.key, c.value))
	}
}

// doubt has the caller go on with another key if nobody knows what the value of this one is, or will be when the server
// has read what had come over a connection that broke.
func (c *caller) doubt(err error) {
	var failed *request.Error
	if !errors.As(err, &failed) || failed.MaybeSent {
		c.key = ""
	}
}

// fail books a request without a reply. Whatever is no *request.Error is about what the reply said, and so a mistake.
func (l *load) fail(err error) {
	var failed *request.Error
	if !errors.As(err, &failed) {
		l.mistake(err)
		return
	}

	if failed.MaybeSent {
		l.maybeSent.Add(1)
	} else {
		l.notSent.Add(1)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		l.gaveUp.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastFail = err
}

func (l *load) mistake(err error) {
	l.wrong.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

// answered is how many requests got a reply that was right.
func (l *load) answered() int64 {
	return l.sets.Load() + l.hits.Load() + l.misses.Load() + l.deletes.Load() + l.forgotten.Load()
}

func (l *load) failed() int64 { return l.notSent.Load() + l.maybeSent.Load() }

// audit says what is not as it has to be when all is over.
func (l *load) audit() error {
	var wrong []error
	if begun, ended := l.begun.Load(), l.answered()+l.wrong.Load()+l.failed(); begun != ended {
		wrong = append(wrong, fmt.Errorf("%d requests were begun, and %d have ended", begun, ended))
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first != nil {
		wrong = append(wrong, fmt.Errorf("%d wrong replies, the first: %w", l.wrong.Load(), l.first))
	}

	return errors.Join(wrong...)
}
