package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/examples/syslog/shipper"
)

// book knows what was logged and what was handed back.
type book struct {
	logged atomic.Int64
	waits  atomic.Int64 // because the queue was full

	mu     sync.Mutex
	handed map[line]bool // whether the server may have it all the same
}

// line is one that was logged: the n-th of a goroutine.
type line struct{ caller, n int }

// log logs one half of a goroutine's lines.
func (b *book) log(ctx context.Context, client *shipper.Client, caller, from int, pause time.Duration) error {
	for n := from; n < from+half; n++ {
		text := fmt.Sprintf("line %d %d", caller, n)
		err := client.Log(shipper.Info, text)
		for errors.Is(err, shipper.ErrFull) { // this program would rather wait than drop the line
			b.waits.Add(1)
			if err = client.Flush(ctx); err == nil {
				err = client.Log(shipper.Info, text)
			}
		}
		if err != nil {
			return err
		}
		b.logged.Add(1)
		time.Sleep(pause)
	}
	return nil
}

// handedBack notes a message that could not be written.
func (b *book) handedBack(m []byte, maybe bool) {
	var l line
	_, text, _ := strings.Cut(string(m), " line ")
	if _, err := fmt.Sscanf(text, "%d %d", &l.caller, &l.n); err != nil {
		panic(err) // it is none of ours
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.handed == nil {
		b.handed = make(map[line]bool)
	}
	b.handed[l] = maybe
}

// come returns the lines in the server's file, and in what order those of each goroutine are.
func (b *book) come(s *server) (map[line]bool, error) {
	data, err := os.ReadFile(s.file("lines"))
	if err != nil {
		return nil, err
	}
	come, latest := make(map[line]bool), make(map[int]int)
	for text := range strings.Lines(string(data)) {
		var l line
		if _, err := fmt.Sscanf(text, app+" line %d %d\n", &l.caller, &l.n); err != nil {
			if !strings.HasSuffix(text, "\n") {
				break // it is being written
			}
			return nil, fmt.Errorf("the file has %q: %w", text, err)
		}
		if come[l] {
			return nil, fmt.Errorf("%q came twice", text)
		}
		if before, ok := latest[l.caller]; ok && before > l.n {
			return nil, fmt.Errorf("%q came behind line %d", text, before)
		}
		come[l], latest[l.caller] = true, l.n
	}
	return come, nil
}

// settled reports whether all lines of the second half are in the file or were handed back.
func (b *book) settled(s *server) bool {
	come, err := b.come(s)
	if err != nil {
		return true // which check says
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for caller := range loggers {
		for n := half; n < 2*half; n++ {
			_, handed := b.handed[line{caller, n}]
			if !handed && !come[line{caller, n}] {
				return false
			}
		}
	}
	return true
}

// check compares the file with what was logged, when the server has ended.
//
// A connection delivers in order, up to where it broke. So what is missing of a goroutine's lines are the last that it had
// logged before a connection was lost: one gap for each at most, and none among the lines that were logged after that.
func (b *book) check(s *server, lost int) error {
	come, err := b.come(s)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	missing, doubtful := 0, 0
	for caller := range loggers {
		gaps, within := 0, false
		for n := range 2 * half {
			l := line{caller, n}
			maybe, handed := b.handed[l]
			switch {
			case handed && come[l] && !maybe:
				return fmt.Errorf("line %v was handed back as not sent, and came", l)
			case handed:
				doubtful++
			case come[l]:
				within = false
			case n >= half:
				return fmt.Errorf("line %v is missing, though it was logged after the server was back", l)
			default:
				missing++
				if !within {
					gaps, within = gaps+1, true
				}
			}
		}
		if gaps > lost {
			return fmt.Errorf("%d gaps in the lines of goroutine %d, and %d connections were lost", gaps, caller, lost)
		}
	}
	fmt.Printf("%8d lines came, none twice, and in order\n", len(come))
	fmt.Printf("%8d lines were written and are missing: the last on the connection before the server ended\n", missing)
	fmt.Printf("%8d lines were handed back, %d times a goroutine waited for room in the queue\n", doubtful, b.waits.Load())
	return nil
}
