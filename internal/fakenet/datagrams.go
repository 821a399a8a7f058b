package fakenet

import (
	"bytes"
	"io"
	"net"
	"os"
)

// Datagrams is a connected datagram socket. A Read takes one packet and drops what does not fit; a
// Write sends one. Its deadlines, Close and counts are those of a Conn, and its addresses those of
// UDP.
type Datagrams struct {
	*Conn

	peer *Peer
}

// NewDatagrams makes a datagram socket.
func NewDatagrams() *Datagrams {
	c, p := Pair()
	d := &Datagrams{Conn: c, peer: p}
	c.OnRead(func(b []byte, _ func([]byte) (int, error)) (int, error) { return d.read(b) })
	c.OnWrite(func(b []byte, _ func([]byte) (int, error)) (int, error) { return d.write(b) })

	return d
}

// LocalAddr is a *net.UDPAddr.
func (d *Datagrams) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(d.number)}
}

// RemoteAddr is a *net.UDPAddr.
func (d *Datagrams) RemoteAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: int(d.number)}
}

func (d *Datagrams) read(p []byte) (int, error) {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()

	for {
		switch {
		case w.closed:
			return 0, d.opError("read", net.ErrClosed)
		case w.rd.passed:
			return 0, d.opError("read", os.ErrDeadlineExceeded)
		case len(w.readErrs) > 0:
			err := w.readErrs[0]
			w.readErrs = w.readErrs[1:]

			return 0, d.opError("read", err)
		case len(w.arrived) > 0:
			n := copy(p, w.arrived[0])
			w.arrived = w.arrived[1:]

			return n, nil
		case w.inEOF:
			w.told.EOF = true

			return 0, io.EOF
		}

		w.cond.Wait()
	}
}

func (d *Datagrams) write(p []byte) (int, error) {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()

	for {
		switch {
		case w.closed:
			return 0, d.opError("write", net.ErrClosed)
		case w.wd.passed:
			return 0, d.opError("write", os.ErrDeadlineExceeded)
		case w.credit != 0:
			w.sentPackets = append(w.sentPackets, bytes.Clone(p))

			return len(p), nil
		}

		w.cond.Wait()
	}
}

// Deliver has packets arrive.
func (d *Datagrams) Deliver(packets ...string) {
	d.w.change(func() {
		for _, p := range packets {
			d.w.arrived = append(d.w.arrived, []byte(p))
		}
	})
}

// End has Reads return io.EOF behind the last packet, as on a SEQPACKET socket.
func (d *Datagrams) End() { _ = d.peer.CloseWrite() }

// FailRead has one Read return err, before any packet that has arrived.
func (d *Datagrams) FailRead(err error) {
	d.w.change(func() { d.w.readErrs = append(d.w.readErrs, err) })
}

// Peer is the test's end. What it sends and reads is no packet, but it says whether packets have
// ended.
func (d *Datagrams) Peer() *Peer { return d.peer }

// Allow stalls writes if n is 0, and lets them go on otherwise.
func (d *Datagrams) Allow(n int) { d.peer.Allow(n) }

// Packets returns what was sent.
func (d *Datagrams) Packets() []string {
	return look(d.w, func() []string {
		all := []string{}
		for _, p := range d.w.sentPackets {
			all = append(all, string(p))
		}

		return all
	})
}
