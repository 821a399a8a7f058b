package plex

// The one way out: how a transport is closed, whatever the reason. It happens in a goroutine of its
// own and under no lock, since a transport may take long to close, and nobody but Close and
// Shutdown waits for it. The slot is free only when the transport is closed, so that the peer never
// sees more connections than the capacity.
//
//	hard      the multiplexer closes, or nothing is unsent          Close
//	linger    after a failure, with something unsent                end both directions, wait until the peer has
//	                                                                taken what was sent, reset
//	graceful  a healthy connection is retired, or Shutdown ends it  end the write side, read until the peer ends its
//	                                                                own or has taken everything, Close

import (
	"crypto/tls"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/sock"
)

const (
	lingerClose = 100 * time.Millisecond // how long a linger may take once the multiplexer closes
	lingerLook  = time.Millisecond       // the first pause before another look whether the peer has taken everything
	lingerPause = 200 * time.Millisecond // the longest
)

// end closes the transport. Whoever began it by closeLocked calls end once. Close waits for it from
// closeLocked on, also the Close of somebody else.
func (c *conn) end() { c.m.tasks.begin(transportTask, c.closeTransport) }

func (c *conn) closeTransport() {
	defer c.closed() // also if the transport panics or ends the goroutine
	defer c.shut()
	c.member.Remove()
	switch endingOf(c.failure(), c.peer.reached(peerRead), c.socket.Unsent()) {
	case endsLingering:
		c.linger()
	case endsGracefully:
		c.sayGoodbye()
		_ = c.r.readUntilTaken(time.Now().Add(c.m.cfg.linger.Get()), 0) // what comes is nobody's any more
	}
}

// shut closes the transport, once.
func (c *conn) shut() {
	c.shutting.Do(func() {
		_ = caller.Guard("the transport's Close", c.nc.Close) // a connection that is thrown away has no more to say
	})
}

type ending int8

const (
	endsHard ending = iota
	endsLingering
	endsGracefully
)

// endingOf says how a transport is closed: after a failure or without one, with all that the peer
// sends read or not, and with so many bytes unsent.
func endingOf(cause error, read bool, unsent int) ending {
	switch {
	case cause == nil && !read:
		return endsGracefully
	case cause != nil && cause != ErrClosed && cause != ErrRetired && unsent > 0:
		return endsLingering
	}
	return endsHard
}

// linger ends both directions, which wakes whoever is blocked in them, and waits until the peer has
// taken what was sent or its time is up. The close of a TCP connection that has failed may queue
// behind what the peer has not taken, for minutes if it has stopped reading; for so long the peer
// would have one connection more than the capacity. So the close will be a reset, also when what
// was sent has arrived: a peer that is itself blocked in a write learns of the end only by that,
// since the window that it waits for is not opened any more.
func (c *conn) linger() {
	c.socket.ShutDown()
	end, closing := time.Now().Add(c.m.cfg.linger.Get()), c.m.tasks.closing
	pause := lingerLook
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for c.socket.Unsent() > 0 && time.Now().Before(end) {
		select {
		case <-timer.C:
			pause = min(2*pause, lingerPause)
		case <-closing: // no slot is waited for, but Close waits
			end, closing = time.Now().Add(lingerClose), nil
		}
		timer.Reset(pause)
	}
	c.socket.ResetOnClose()
}

// sayGoodbye ends the write side. If that fails, the peer learns of it by the close.
func (c *conn) sayGoodbye() {
	if c.wasReset() || c.saidBye.Swap(true) {
		return
	}
	_ = caller.Apart("the transport's CloseWrite", func() error { return sock.CloseWrite(c.nc) })
	if tc, ok := c.nc.(*tls.Conn); ok { // whose CloseWrite leaves the connection beneath open
		_ = caller.Apart("the transport's CloseWrite", func() error { return sock.CloseWrite(tc.NetConn()) })
	}
}

// closeWriteSide says goodbye to a peer that has said so, after the last write lease. The
// connection is kept for what is still to be read, but no longer counts: both sides have ended it.
func (c *conn) closeWriteSide() {
	c.sayGoodbye()
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.peer.reached(peerNoticed) {
		c.uncountLocked()
	}
}

// closed accounts for a transport that is closed.
func (c *conn) closed() {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	c.life, _ = c.life.turn(phaseClosed, whyNone)
	c.unknownLocked()
	c.uncountLocked()
	c.forgetLocked()
	m.changed.Broadcast()
}

// readOut is the end of a connection that is retired: its write half is retired, and its read half
// held. It says goodbye and reads what the peer still sends, until the peer ends its side or has
// taken everything, for the linger at most. What has arrived is kept for whoever asks for it.
func (c *conn) readOut() {
	h, more := &c.r, false
	until := c.leftAt.Add(c.m.cfg.linger.Get())
	c.whileHeld(func() arrival {
		c.sayGoodbye()
		err := h.readUntilTaken(until, remainsLimit)
		more = err == errMoreToRead && time.Now().Before(until)
		switch {
		case more:
			return fromHold // for whoever comes for it; then its lease's end goes on here, and otherwise the linger's
		case err != nil && err != errMoreToRead:
			h.lookFailed(err)
		}
		c.readEnough()
		return c.afterLook(fromRead)
	})
	if more {
		c.endRetirementAfter(time.Until(until))
	}
}
