package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/request"
)

// load is many callers that query all the time, and the book of what became of each query. Every query has its own
// number, from 0 on, and is asked once.
type load struct {
	client   *Client
	patience time.Duration // for one query
	pace     time.Duration // from a caller's answer to its next query
	numbers  uint32        // how many names the server knows, so that numbers begin again; 0: any number
	lateOne  uint32        // one query in so many is answered late; 0: none

	calling sync.WaitGroup

	asked     atomic.Int64 // queries that have begun
	answered  atomic.Int64 // with the right answer
	wrong     atomic.Int64 // with another one
	notSent   atomic.Int64 // failed, and the server cannot have got it
	maybeSent atomic.Int64 // failed, and the server may have got it
	gaveUp    atomic.Int64 // no reply came in time; these are among the two above

	mu       sync.Mutex
	next     uint32
	heard    map[uint32]int // how often the server has got each query
	unheard  []uint32       // queries that failed, of which the server is said not to have got any
	first    error          // what the first wrong answer was
	longest  time.Duration  // that a query took which was answered
	lastFail error
}

// run has so many callers query until ctx ends, and returns when the last query has ended.
func (l *load) run(ctx context.Context, callers int) {
	for range callers {
		l.calling.Go(func() {
			for ctx.Err() == nil {
				l.query()
				if l.pace > 0 {
					time.Sleep(l.pace)
				}
			}
		})
	}
	l.calling.Wait()
}

// query asks once. Its context is its own, so that the end of the run breaks off no query.
func (l *load) query() {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()

	l.mu.Lock()
	count := l.next
	l.next++
	l.mu.Unlock()
	n := count
	if l.numbers > 0 {
		n %= l.numbers
	}

	l.asked.Add(1)
	query := ask(n, l.lateOne > 0 && n%l.lateOne == 0)
	id := query.Id
	begun := time.Now()
	reply, err := l.client.Exchange(ctx, query)
	took := time.Since(begun)
	if err != nil {
		l.fail(n, err)
		return
	}
	if err := verify(reply, id, n); err != nil {
		l.mistake(err)
		return
	}

	l.answered.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, took)
}

// fail books a query without an answer. Whatever is no *request.Error is about what the reply said, and so a mistake.
func (l *load) fail(n uint32, err error) {
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
	if !failed.MaybeSent {
		l.unheard = append(l.unheard, n)
	}
}

func (l *load) mistake(err error) {
	l.wrong.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

// hear is told by the server of each query.
func (l *load) hear(n uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heard == nil {
		l.heard = make(map[uint32]int)
	}
	l.heard[n]++
}

func (l *load) failed() int64 { return l.notSent.Load() + l.maybeSent.Load() }

// twice is how many queries the server has got more than once.
func (l *load) twice() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, times := range l.heard {
		if times > 1 {
			n++
		}
	}

	return n
}

// audit says what is not as it has to be when all is over.
func (l *load) audit() error {
	var wrong []error
	if asked, ended := l.asked.Load(), l.answered.Load()+l.wrong.Load()+l.failed(); asked != ended {
		wrong = append(wrong, fmt.Errorf("%d queries were asked, and %d have ended", asked, ended))
	}
	if n := l.twice(); n > 0 && l.numbers == 0 {
		wrong = append(wrong, fmt.Errorf("the server got %d queries more than once", n))
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first != nil {
		wrong = append(wrong, fmt.Errorf("%d wrong answers, the first: %w", l.wrong.Load(), l.first))
	}
	for _, n := range l.unheard {
		if l.heard[n] > 0 && l.numbers == 0 {
			wrong = append(wrong, fmt.Errorf("query %d cannot have been sent, its error says, but the server got it", n))
			break
		}
	}

	return errors.Join(wrong...)
}
