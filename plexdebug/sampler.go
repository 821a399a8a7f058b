package plexdebug

// The sampler: a timer that runs while somebody watches, and for a while afterwards. It owns no
// goroutine. What it takes, it leaves with the pools.

import (
	"sync"
	"time"
)

const (
	sampleEvery = time.Second
	chartSpan   = 5 * time.Minute // what the charts show
	afterglow   = chartSpan       // how long samples are taken after the last look
	mostLive    = 32              // pages that are live at once
	duty        = 20              // what takes d is done again after duty × d at the earliest
)

// sampler calls sample every so often, and rest when it stops.
type sampler struct {
	sample, rest func()

	mu       sync.Mutex
	watchers int
	looked   time.Time   // when anybody looked last
	timer    *time.Timer // of the next sample; nil while nobody has looked for long
	sampled  bell        // by each sample
}

// look says that somebody looks at this moment. If no samples were being taken, one is there when
// it returns.
func (s *sampler) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = time.Now()
	if s.timer == nil {
		s.sampleLocked()
	}
}

// watch says that somebody looks until release is called. It reports false if too many do.
func (s *sampler) watch() (release func(), ok bool) {
	s.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == mostLive {
		return nil, false
	}
	s.watchers++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watchers--
		s.looked = time.Now()
	}), true
}

// next is closed when there is another sample.
func (s *sampler) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sampled.next()
}

// tick is the timer's.
func (s *sampler) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == 0 && time.Since(s.looked) >= afterglow {
		s.timer = nil
		s.rest()
		return
	}
	s.sampleLocked()
}

// sampleLocked takes a sample and has the next one taken.
func (s *sampler) sampleLocked() {
	began := time.Now()
	s.sample()
	s.timer = time.AfterFunc(max(sampleEvery, duty*time.Since(began)), s.tick)
	s.sampled.ring()
}
