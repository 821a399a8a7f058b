package fakenet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type result struct {
	n   int
	err error
}

func equal[T comparable](t *testing.T, want, got T, what string) {
	t.Helper()

	if want != got {
		t.Errorf("%s: %v was wanted, got %v", what, want, got)
	}
}

func is(t *testing.T, err, target error) {
	t.Helper()

	if !errors.Is(err, target) {
		t.Errorf("%v was wanted, got %v", target, err)
	}
}

func later(f func([]byte) (int, error), p []byte) <-chan result {
	ch := make(chan result, 1)

	go func() { n, err := f(p); ch <- result{n, err} }()

	return ch
}

func recovered(f func()) (v any) {
	defer func() { v = recover() }()

	f()

	return nil
}

func TestAReadTakesWhatWasSentAndThenEOF(t *testing.T) {
	c, p := Pair()
	p.Send("ab")
	p.Send("cd")
	equal(t, 4, p.Unsent(), "unsent")

	b := make([]byte, 3)
	n, err := c.Read(b)
	equal(t, "abc", string(b[:n]), "the first Read")
	is(t, err, nil)
	equal(t, false, p.Ended(), "ended")
	equal(t, nil, p.CloseWrite(), "CloseWrite")
	equal(t, true, p.Ended(), "ended")

	n, _ = c.Read(b)
	equal(t, "d", string(b[:n]), "the second Read")

	equal(t, Told{}, c.Told(), "told")
	_, err = c.Read(b)
	equal(t, io.EOF, err, "the end")
	equal(t, Told{EOF: true}, c.Told(), "told")

	_, err = c.Write([]byte("still"))
	is(t, err, nil)
	equal(t, "still", p.ReadN(5), "what the Conn wrote")

	_, err = p.Write(b)
	is(t, err, syscall.EPIPE)
}

func TestNoReadReadsPastASegment(t *testing.T) {
	c, p := Pair()
	p.Send("a")
	p.SendSegments("bc", "d")
	p.Send("e")
	p.Send("f")

	b := make([]byte, 10)
	for _, want := range []string{"a", "bc", "d", "ef"} {
		n, err := c.Read(b)
		is(t, err, nil)
		equal(t, want, string(b[:n]), "a Read")
	}
}

func TestAWriteStopsAtTheAllowanceAndIsShortWhenInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := Pair()
		p.Allow(3)
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		began := time.Now()
		n, err := c.Write([]byte("hello"))
		equal(t, 3, n, "written")
		is(t, err, os.ErrDeadlineExceeded)
		equal(t, time.Second, time.Since(began), "time")
		equal(t, "hel", p.Unread(), "unread")

		equal(t, Written{Bytes: 3, Largest: 5, Torn: true}, c.Written(), "what was written")

		_ = c.SetWriteDeadline(time.Time{})
		w := later(c.Write, []byte("xy"))
		synctest.Wait()
		equal(t, 0, len(w), "the Write has not returned")
		equal(t, 0, p.Allowed(), "allowed")
		p.Allow(-1)
		equal(t, -1, p.Allowed(), "allowed")
		equal(t, result{2, nil}, <-w, "the Write")

		_ = c.CloseWrite()
		equal(t, "helxy", p.ReadAll(), "all")
		equal(t, 1, c.Calls().CloseWrites, "calls of CloseWrite")
		is(t, c.Close(), nil)
		is(t, c.CloseWrite(), net.ErrClosed)
	})
}

func TestWritesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := Pair()
		p.Allow(1)
		first := later(c.Write, []byte("aa"))
		synctest.Wait()
		second := later(c.Write, []byte("bb"))
		synctest.Wait()
		equal(t, 2, c.Calls().PeakWrites, "Writes at once")
		p.Allow(-1)
		equal(t, result{2, nil}, <-first, "the first")
		equal(t, result{2, nil}, <-second, "the second")
		equal(t, "aabb", p.Unread(), "what was written")
	})
}

func TestALaterDeadlineReplacesAnEarlierOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := Pair()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		r := later(c.Read, make([]byte, 1))
		synctest.Wait()
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, 0, len(r), "the Read has not returned")
		_ = c.SetReadDeadline(time.Unix(1, 0))
		is(t, (<-r).err, os.ErrDeadlineExceeded)
		p.Send("x")
		_, err := c.Read(make([]byte, 1))
		is(t, err, os.ErrDeadlineExceeded)
		_ = c.SetReadDeadline(time.Time{})
		_, err = c.Read(make([]byte, 1))
		is(t, err, nil)

		read, write := c.DeadlinesLeft()
		equal(t, true, read.IsZero() && !write.IsZero(), "the deadlines left")
		is(t, c.Close(), nil)
		is(t, c.SetReadDeadline(time.Now()), net.ErrClosed)
	})
}

// A timer may have fired already when a new deadline stops it, and come for the lock only
// afterwards.
func TestATimerThatComesTooLateEndsNoLaterDeadline(t *testing.T) {
	for name, later := range map[string]time.Time{"none": {}, "another": time.Now().Add(time.Hour)} {
		c, p := Pair()
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		late := c.w.rd.changes
		_ = c.SetReadDeadline(later)
		c.w.expire(&c.w.rd, late)
		p.Send("x")
		_, err := c.Read(make([]byte, 1))
		equal(t, nil, err, "a Read after "+name)
		is(t, c.Close(), nil)
	}

	c, _ := Pair()
	_ = c.SetReadDeadline(time.Now().Add(time.Hour))
	c.w.expire(&c.w.rd, c.w.rd.changes)
	_, err := c.Read(make([]byte, 1))
	is(t, err, os.ErrDeadlineExceeded)
	is(t, c.Close(), nil)
}

func TestDeadlinesAreRefusedOrIgnoredOnDemand(t *testing.T) {
	c, p := Pair()
	at := time.Unix(1, 0)

	c.TreatDeadlines(DeadlinesRefused)
	is(t, c.SetDeadline(at), os.ErrNoDeadline)
	read, _ := c.DeadlinesLeft()
	equal(t, true, read.IsZero(), "no deadline was set")

	c.TreatDeadlines(DeadlinesIgnored)
	is(t, c.SetDeadline(at), nil)
	read, write := c.DeadlinesLeft()
	equal(t, true, read.Equal(at) && write.Equal(at), "both were set")
	p.Send("x")
	n, err := c.Read(make([]byte, 1))
	equal(t, result{1, nil}, result{n, err}, "a Read")
}

func TestAResetIsToldToTheFirstAskerAndABreakToAll(t *testing.T) {
	b := make([]byte, 10)

	c, p := Pair()
	p.Send("kept")
	p.Reset(syscall.ECONNRESET, true)
	n, err := c.Read(b)
	equal(t, result{4, nil}, result{n, err}, "what was sent before")
	_, err = c.Write(b)
	is(t, err, syscall.ECONNRESET)
	equal(t, Told{Err: Writes}, c.Told(), "told")
	_, err = c.Read(b)
	equal(t, io.EOF, err, "the other half's Read")
	equal(t, Told{Err: Writes}, c.Told(), "told")
	_, err = c.Write(b)
	is(t, err, syscall.EPIPE)

	c, p = Pair()
	p.Send("dropped")
	p.Break(syscall.ETIMEDOUT, false)
	for range 2 {
		_, err = c.Read(b)
		is(t, err, syscall.ETIMEDOUT)
		_, err = c.Write(b)
		is(t, err, syscall.ETIMEDOUT)
		equal(t, Told{Err: Reads}, c.Told(), "told")
	}

	_, p = Pair()
	p.SendSegments("ab", "cd")
	equal(t, 4, p.Drop(), "dropped")
	equal(t, 0, p.Drop()+p.Unsent(), "dropped")
}

func TestABrokenHalfLeavesTheOtherAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, half := range []Half{Reads, Writes} {
			c, p := Pair()
			p.BreakHalf(half, syscall.ECONNRESET)
			r, w := later(c.Read, make([]byte, 1)), later(c.Write, []byte("x"))
			synctest.Wait()

			if half == Reads {
				is(t, (<-r).err, syscall.ECONNRESET)
				equal(t, result{1, nil}, <-w, "the Write")

				continue
			}

			is(t, (<-w).err, syscall.ECONNRESET)
			equal(t, 0, len(r), "the Read has not returned")
			is(t, c.Close(), nil)
			is(t, (<-r).err, net.ErrClosed)
		}
	})
}

func TestTheFirstWriteAfterThePeersCloseIsAccepted(t *testing.T) {
	c, p := Pair()
	is(t, p.Close(), nil)

	n, err := c.Write([]byte("x"))
	equal(t, result{1, nil}, result{n, err}, "the first Write")
	_, err = c.Write([]byte("x"))
	is(t, err, syscall.ECONNRESET)
	equal(t, "", p.ReadAll(), "the peer's Read")
}

func TestCloseEndsWhatIsBlockedAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := Pair()
		p.Allow(0)
		c.FailClose(io.ErrNoProgress)
		var after int
		equal(t, true, c.AfterClose(func() { after++ }), "it is open")
		r, w := later(c.Read, make([]byte, 1)), later(c.Write, []byte("x"))
		synctest.Wait()
		equal(t, io.ErrNoProgress, c.Close(), "the first Close")
		is(t, (<-r).err, net.ErrClosed)
		is(t, (<-w).err, net.ErrClosed)
		<-p.ConnClosed()
		is(t, c.Close(), net.ErrClosed)
		equal(t, 2, c.Closes(), "calls of Close")
		equal(t, 1, after, "calls of AfterClose's function")
		equal(t, false, c.AfterClose(func() {}), "it is closed")
	})
}

func TestHooksAreCalledFirstAndCallsAreCounted(t *testing.T) {
	c, p := Pair()
	var calls string
	c.Hooks = Hooks{
		Read:             func([]byte) { calls += "r" },
		Write:            func([]byte) { calls += "w" },
		Close:            func() { calls += "c" },
		SetReadDeadline:  func(time.Time) { calls += "R" },
		SetWriteDeadline: func(time.Time) { calls += "W" },
	}
	p.Send("x")
	_, _ = c.Read(make([]byte, 1))
	_, _ = c.Write([]byte("x"))
	_ = c.SetDeadline(time.Time{})
	_ = c.Close()
	equal(t, "rwRWc", calls, "hooks")

	want := Calls{Reads: 1, Writes: 1, ReadDeadlines: 1, WriteDeadlines: 1, Closes: 1, PeakReads: 1, PeakWrites: 1}
	equal(t, want, c.Calls(), "calls")
	equal(t, 5, c.Calls().All(), "all calls")
}

func TestFaultsTakeThePlaceOfReadAndWrite(t *testing.T) {
	c, p := Pair()
	b := make([]byte, 4)

	for _, io := range []struct {
		set func(IO)
		do  func([]byte) (int, error)
	}{{c.OnRead, c.Read}, {c.OnWrite, c.Write}} {
		p.Send("data")

		io.set(Panics("boom"))
		equal[any](t, "boom", recovered(func() { _, _ = io.do(b) }), "the panic")

		io.set(Goexits())
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.do(b)
			returned = true
		})
		wg.Wait()
		equal(t, false, returned, "Goexit returns")

		io.set(Returns(0, nil))
		n, err := io.do(b)
		equal(t, result{0, nil}, result{n, err}, "empty")

		io.set(Returns(-1, os.ErrInvalid))
		n, err = io.do(b)
		equal(t, result{-1, os.ErrInvalid}, result{n, err}, "below 0")

		io.set(TooMany(3))
		n, err = io.do(b)
		equal(t, result{7, nil}, result{n, err}, "above len(p)")

		io.set(Short(1))
		n, err = io.do(b)
		equal(t, result{1, nil}, result{n, err}, "short")

		var seen result
		io.set(Once(Then(func(n int, err error) { seen = result{n, err} })))
		n, _ = io.do(b[:1])
		equal(t, result{1, nil}, seen, "what the call was about to return")
		equal(t, 1, n, "and returned")
		seen = result{}
		n, _ = io.do(b[:1])
		equal(t, result{1, nil}, result{n, nil}, "the second call")
		equal(t, result{}, seen, "which is not the first")

		io.set(nil)
		n, err = io.do(b[:1])
		equal(t, result{1, nil}, result{n, err}, "with no fault")
	}

	calls := c.Calls()
	equal(t, calls.Reads, calls.Writes, "calls, those that failed included")
	equal(t, 1, calls.PeakReads, "a call that has panicked is under way no longer")
}

func TestACloseCanBeSlowOrEndlessOrPanicOrExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := Pair()
		c.OnClose(SlowClose(time.Minute))
		began := time.Now()
		is(t, c.Close(), nil)
		equal(t, time.Minute, time.Since(began), "time")

		release := make(chan struct{})
		c, p := Pair()
		c.OnClose(CloseAfter(release))
		done := later(func([]byte) (int, error) { return 0, c.Close() }, nil)
		<-p.ConnClosed()
		time.Sleep(time.Hour)
		synctest.Wait()
		equal(t, 0, len(done), "Close has not returned")
		close(release)
		is(t, (<-done).err, nil)

		c, _ = Pair()
		c.OnClose(PanicClose("boom"))
		equal[any](t, "boom", recovered(func() { _ = c.Close() }), "the panic")
		equal(t, 1, c.Closes(), "it has closed")

		c, p = Pair()
		c.OnClose(GoexitClose())
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = c.Close()
			returned = true
		})
		wg.Wait()
		<-p.ConnClosed()
		equal(t, false, returned, "Goexit returns")
	})
}

func TestOneMutexKeepsDeadlinesOutWhileAReadBlocks(t *testing.T) {
	for _, lockClose := range []bool{false, true} {
		inner, p := Pair()
		reading := make(chan struct{})
		inner.Hooks.Read = func([]byte) { close(reading) }
		c := &OneMutex{Conn: inner, LockClose: lockClose}
		r := later(c.Read, make([]byte, 1))
		<-reading
		set := make(chan error, 1)
		go func() { set <- c.SetDeadline(time.Unix(1, 0)) }()

		for range 100 {
			runtime.Gosched()
		}

		equal(t, 0, len(set), "the deadline waits")
		equal(t, 0, inner.Calls().ReadDeadlines, "and has not reached the connection")

		if lockClose {
			p.Send("x")
			equal(t, result{1, nil}, <-r, "the Read")
			is(t, c.Close(), nil)
		} else {
			is(t, c.Close(), nil)
			is(t, (<-r).err, net.ErrClosed)
		}

		<-set
	}
}

func TestAGateHoldsUpOneCallAfterItIsArmed(t *testing.T) {
	g := NewGate()
	c, p := Pair()
	c.Hooks = Hooks{Read: g.PassIO, SetReadDeadline: g.PassDeadline}
	p.Send("x")
	_ = c.SetReadDeadline(time.Time{})
	g.Arm()
	r := later(c.Read, make([]byte, 1))
	<-g.Entered
	_ = c.SetReadDeadline(time.Time{}) // the second call passes
	equal(t, 0, len(r), "the Read is held up")
	close(g.Leave)
	equal(t, result{1, nil}, <-r, "the Read")
}

func TestDatagramsKeepTheirEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDatagrams()
		d.Deliver("long", "", "b")
		d.FailRead(syscall.ECONNREFUSED)
		b := make([]byte, 2)
		_, err := d.Read(b)
		is(t, err, syscall.ECONNREFUSED)

		for _, want := range []string{"lo", "", "b"} {
			n, err := d.Read(b)
			is(t, err, nil)
			equal(t, want, string(b[:n]), "a packet")
		}

		_ = d.SetReadDeadline(time.Now().Add(time.Second))
		_, err = d.Read(b)
		is(t, err, os.ErrDeadlineExceeded)

		_, _ = d.Write([]byte("one"))
		d.Allow(0)
		_ = d.SetWriteDeadline(time.Now().Add(time.Second))
		_, err = d.Write([]byte("two"))
		is(t, err, os.ErrDeadlineExceeded)
		d.Allow(-1)
		_ = d.SetWriteDeadline(time.Time{})
		_, _ = d.Write([]byte("three"))
		equal(t, "one three", strings.Join(d.Packets(), " "), "what was sent")
		equal(t, "udp", d.LocalAddr().Network()[:3], "network")
		equal(t, "udp", d.RemoteAddr().Network()[:3], "network")
		_ = d.SetReadDeadline(time.Time{})
		d.Deliver("z")
		d.End()
		equal(t, true, d.Peer().Ended(), "ended")
		n, err := d.Read(b)
		equal(t, result{1, nil}, result{n, err}, "the last packet")
		_, err = d.Read(b)
		equal(t, io.EOF, err, "the end")
		is(t, d.Close(), nil)
		_, err = d.Read(b)
		is(t, err, net.ErrClosed)
		_, err = d.Write(b)
		is(t, err, net.ErrClosed)
	})
}

func TestADialBlocksUntilItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer(t)
		errs := make(chan error, 4)
		dial := func(ctx context.Context) {
			go func() {
				defer func() {
					if v := recover(); v != nil {
						errs <- v.(error)
					}
				}()

				_, err := d.Dial(ctx)
				errs <- err
			}()
			synctest.Wait()
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		for range 4 {
			dial(ctx)
		}
		equal(t, 4, d.Pending(), "dials that wait")
		equal(t, 0, len(errs), "dials that have returned")

		c, _ := Pair()
		first := d.Next()
		equal(t, 1, first.N, "its number")
		first.Succeed(c)
		is(t, <-errs, nil)
		d.Next().Fail(io.ErrNoProgress)
		is(t, <-errs, io.ErrNoProgress)
		d.Next().Panic(io.ErrShortWrite)
		is(t, <-errs, io.ErrShortWrite)

		var ended int
		d.Ended = func(_ context.Context, n int) { ended = n }
		cancel(io.ErrClosedPipe)
		is(t, <-errs, io.ErrClosedPipe)
		equal(t, 4, ended, "the dial whose ctx ended")
		synctest.Wait()
		equal(t, DialCounts{Total: 4, Open: 1, PeakDialing: 4, PeakInUse: 4}, d.Counts(), "counts")

		is(t, c.Close(), nil)
		equal(t, 0, d.Counts().Open, "open")

		d.Next()
		d.IgnoreCtx = true
		dial(ctx)
		equal(t, 0, len(errs), "an ended ctx is ignored")
		d.Next().Succeed(c) // which is closed already
		is(t, <-errs, nil)
		equal(t, 0, d.Counts().Open, "open")

		d.Auto = func(n int) (*Conn, error) { return nil, io.EOF }
		conn, err := d.Dial(ctx)
		equal(t, io.EOF, err, "answered at once")
		equal(t, nil, conn, "no typed nil")
	})
}

func TestAConnectIsAnsweredLikeADialAndAttaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer(t)
		handle, _ := Pair()
		var attached net.Conn
		attach := func(h, conn net.Conn) error {
			equal[net.Conn](t, handle, h, "the handle")
			attached = conn
			equal(t, 1, d.Counts().Dialing, "it is in progress while it attaches")

			return io.ErrNoProgress
		}
		connect := func() <-chan result {
			return later(func([]byte) (int, error) { return 0, d.Connect(t.Context(), handle, attach) }, nil)
		}

		equal(t, nil, d.NextWithin(time.Second), "a dial")
		c, _ := Pair()
		done := connect()
		call := d.NextWithin(time.Second)
		equal[net.Conn](t, handle, call.Handle, "the call's handle")
		call.Succeed(c)
		is(t, (<-done).err, io.ErrNoProgress)
		equal[net.Conn](t, c, attached, "attached")
		equal(t, DialCounts{Total: 1, Open: 1, PeakDialing: 1, PeakInUse: 1}, d.Counts(), "counts")
		is(t, c.Close(), nil)

		attached = nil
		answers := []func(*Dial){
			func(call *Dial) { call.Fail(io.ErrClosedPipe) },
			func(call *Dial) { call.Do(func() (*Conn, error) { return nil, nil }) },
		}
		for i, want := range []error{io.ErrClosedPipe, nil} {
			done = connect()
			synctest.Wait()
			calls := d.TakePending()
			equal(t, 1, len(calls), "dials that wait")
			answers[i](calls[0])
			equal(t, want, (<-done).err, "what Connect returns")
		}
		equal(t, nil, attached, "attached")
		equal(t, 3, d.Total(), "dials")
		equal(t, 0, d.Counts().Open+d.Counts().Dialing, "open and in progress")
		equal(t, 0, len(d.TakePending()), "dials that wait")
	})
}

func TestAListenerHandsOutBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		accepted := make(chan net.Conn, 1)
		go func() {
			peer, _ := l.Accept()
			accepted <- peer
		}()
		c, err := l.Dial(t.Context())
		is(t, err, nil)
		peer := <-accepted
		equal(t, c.RemoteAddr(), peer.LocalAddr(), "the peer's address")
		equal(t, c.LocalAddr(), peer.RemoteAddr(), "the Conn's address")
		equal(t, peer.(*Peer).Conn(), c.(*Conn), "the other end")
		is(t, peer.SetDeadline(time.Time{}), os.ErrNoDeadline)
		equal(t, 1, l.Books().Open(), "open")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = l.Dial(ctx)
		is(t, err, context.DeadlineExceeded)

		_ = l.Close()
		_ = l.Close()
		_, err = l.Accept()
		is(t, err, net.ErrClosed)
		_, err = l.Dial(t.Context())
		is(t, err, net.ErrClosed)
		is(t, c.Close(), nil)
		equal(t, "", l.Books().Unbalanced(), "the books")
	})
}

func TestBooksSeeAConnectionLeftOpenAndOneClosedTwice(t *testing.T) {
	var b Books
	open, _ := Pair()
	once, _ := Pair()
	twice, _ := Pair()
	back, _ := Pair()
	taken, _ := Pair()
	b.Watch(open, once, twice, back, taken)
	b.HandedBack(back, taken)
	for _, c := range []*Conn{once, twice, twice, taken} {
		_ = c.Close()
	}
	equal(t, 2, b.Open(), "open")

	wrong := b.Unbalanced()
	for c, named := range map[*Conn]bool{open: true, once: false, twice: true, back: false, taken: true} {
		equal(t, named, strings.Contains(wrong, c.RemoteAddr().String()+" was"), c.RemoteAddr().String())
	}
}

// failing notes failures and cleanups instead of carrying them out.
type failing struct {
	testing.TB

	cleanups []func()
	failures int
}

func (f *failing) Helper()               {}
func (f *failing) Cleanup(do func())     { f.cleanups = append(f.cleanups, do) }
func (f *failing) Errorf(string, ...any) { f.failures++ }

func (f *failing) end() int {
	for _, do := range f.cleanups {
		do()
	}

	return f.failures
}

func TestBooksFailATestThatLeavesAConnectionOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, closed := range []bool{true, false} {
			f := &failing{TB: t}
			b := NewBooks(f)
			conns, _ := b.Pairs(2)
			d := b.Datagrams()
			equal(t, 3, b.Open(), "open")
			_ = conns[0].Close()
			_ = d.Close()
			time.AfterFunc(time.Second, func() { // whoever closes has a moment
				if closed {
					_ = conns[1].Close()
				}
			})
			equal(t, !closed, f.end() > 0, "the test fails")
		}
	})
}

func TestTheProcessIsBalanced(t *testing.T) {
	equal(t, false, InBubble(), "a bubble")
	synctest.Test(t, func(t *testing.T) { equal(t, true, InBubble(), "a bubble") })

	f := &failing{TB: t}
	BalanceProcess(f)
	stop := make(chan struct{})
	go func() { <-stop }()
	time.AfterFunc(50*time.Millisecond, func() { close(stop) })
	equal(t, 0, f.end(), "failures once the goroutine has ended")
	equal(t, 1, len(f.cleanups), "checks")
}

func TestAddressesDiffer(t *testing.T) {
	a, b := NewAddr("x"), NewAddr("x")
	equal(t, false, a == b, "the same")
	equal(t, "fake", a.Network(), "network")
	equal(t, true, strings.HasPrefix(a.String(), "x-"), a.String())
}
