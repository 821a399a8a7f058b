package message_test

// Connections end in many ways, at random, while loops come and go, at random too. The log has the
// seed.

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/message"
)

// ending is how a peer's connection ends.
type ending int

const (
	clean ending = iota // all is sent, then the connection is closed
	torn                // closed in the middle of a message
	reset               // after some of it; what is on its way is lost
)

// numberedPeer sends numbered messages over one connection. Its plan is made beforehand. Read the
// result when the peer is done.
type numberedPeer struct {
	seed    uint64
	address string // of the client
	ends    ending
	plan    int // messages
	failed  error
}

// message returns the ith message that the peer sends.
func (p *numberedPeer) message(i int) string {
	r := rand.New(rand.NewPCG(p.seed, uint64(i)))
	size := r.IntN(40)
	if r.IntN(10) == 0 {
		size = r.IntN(9000)
	}
	return fmt.Sprintf("%x.%d.%s", p.seed, i, strings.Repeat(string(rune('a'+i%26)), size))
}

// run sends what is planned, cut at random places, and ends.
func (p *numberedPeer) run(conn *net.TCPConn) {
	defer conn.Close()
	r := rand.New(rand.NewPCG(p.seed, 1<<63))
	var out []byte
	for i := range p.plan {
		out, _ = framing.Append(out, []byte(p.message(i))) // none is too long
	}
	if p.ends == torn {
		next, _ := framing.Append(nil, []byte(p.message(p.plan)))
		out = append(out, next[:1+r.IntN(len(next)-1)]...)
	}
	for len(out) > 0 {
		n := min(len(out), 1+r.IntN(1<<r.IntN(14)))
		if _, err := conn.Write(out[:n]); err != nil {
			p.failed = err
			return
		}
		out = out[n:]
		if r.IntN(4) == 0 {
			time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
		}
	}
	if p.ends == reset {
		_ = conn.SetLinger(0)
		return
	}
	_ = conn.CloseWrite()
	_, _ = io.Copy(io.Discard, conn) // until the client has closed it
}

var framing = message.Prefix{Bytes: 2, Order: binary.LittleEndian, Max: 10_000}

// numberedService accepts connections and runs a peer on each.
type numberedService struct {
	net.Listener
	begin   func() // starts the peers, after plex.New, which fails if a connection does
	running sync.WaitGroup

	mu    sync.Mutex
	peers map[string]*numberedPeer
}

// newNumberedService keeps as many peers active as plex can keep remains of. A peer counts until
// its end has been received; plex would give up the remains of more.
func newNumberedService(t *testing.T, seed uint64, atOnce int, all *records) *numberedService {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	begun := make(chan struct{})
	s := &numberedService{
		Listener: l, peers: map[string]*numberedPeer{}, begin: sync.OnceFunc(func() { close(begun) }),
	}
	t.Cleanup(func() {
		_ = s.Close() // it is closed already if all went well
		s.begin()
		s.running.Wait()
	})
	s.running.Go(func() {
		var open []*numberedPeer
		for n := uint64(0); ; n++ {
			for len(open) >= atOnce {
				time.Sleep(100 * time.Microsecond)
				open = slices.DeleteFunc(open, all.accountedFor)
			}
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := rand.New(rand.NewPCG(seed, n))
			p := &numberedPeer{
				seed: r.Uint64(), address: conn.RemoteAddr().String(), plan: 1 + r.IntN(300),
				ends: []ending{clean, clean, torn, reset}[r.IntN(4)],
			}
			s.mu.Lock()
			if s.peers[p.address] != nil {
				t.Errorf("%s has been there before; run the test again", p.address)
			}
			s.peers[p.address] = p
			s.mu.Unlock()
			open = append(open, p)
			s.running.Go(func() {
				<-begun
				p.run(conn.(*net.TCPConn))
			})
		}
	})
	return s
}

// record is what was received over one connection.
type record struct {
	conn     plex.Conn
	messages []string
	cut      *message.CutError
	killed   bool // by the test
}

// records are the records of all connections, by the client's address.
type records struct {
	t    *testing.T
	over atomic.Bool // the test is over

	mu sync.Mutex
	of map[string]*record
}

// get returns the record of a connection. The caller holds mu.
func (rs *records) get(c plex.Conn) *record {
	address := c.LocalAddr().String()
	if rs.of[address] == nil {
		rs.of[address] = &record{conn: c}
	}
	if rs.of[address].conn != c {
		rs.t.Errorf("%s is two connections", address)
	}
	return rs.of[address]
}

func (rs *records) note(m message.Message, err error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.get(m.Conn)
	switch cut, ok := err.(*message.CutError); {
	case r.cut != nil:
		rs.t.Errorf("something behind the end of %v: %.40q, %v", m.Conn.LocalAddr(), m.Data, err)
	case err == nil:
		r.messages = append(r.messages, string(m.Data))
	case ok:
		r.cut = cut
	default:
		rs.t.Error(err)
	}
}

// kill records that the test is about to kill a connection.
func (rs *records) kill(c plex.Conn) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.get(c).killed = true
}

// accountedFor reports whether everything has been received from a peer that can be.
func (rs *records) accountedFor(p *numberedPeer) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.of[p.address]
	switch {
	case rs.over.Load() || p.ends == reset || r != nil && r.killed:
		return true
	case r == nil:
		return false
	case p.ends == torn:
		return r.cut != nil
	default:
		return len(r.messages) >= p.plan
	}
}

// missing names a peer that something is missing from.
func (rs *records) missing(s *numberedService) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for address, p := range s.peers {
		if !rs.accountedFor(p) {
			return fmt.Sprintf("%s, with %d messages, ends %d", address, p.plan, p.ends)
		}
	}
	return ""
}

// Each connection delivers its first messages, in order, with none missing in between, none twice
// and none glued to another; and all of them if nothing destroyed any. What is reported as cut off
// is the beginning of the next message.
func TestRandomEndsLoseDoubleAndGlueNoMessage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections are told apart by their local addresses, for which 127.0.0.0/8 has to be had")
	}
	fakenet.BalanceProcess(t)
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	const connections = 24
	all := &records{t: t, of: map[string]*record{}}
	defer all.over.Store(true)
	s := newNumberedService(t, seed, connections, all)
	var dials atomic.Uint32
	dial := plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
		n := dials.Add(1)
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
		return d.DialContext(ctx, "tcp", s.Addr().String())
	})
	m, err := plex.New(context.Background(), plex.WithConnector(dial),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	require.NoError(t, err)
	s.begin()
	r := receiver(t, m, framing.Split, message.WithMaxSize(10_000))

	var loops sync.WaitGroup
	over, end := context.WithTimeout(context.Background(), patience)
	defer end()
	for i := range 4 {
		random := rand.New(rand.NewPCG(seed, uint64(1+i)))
		loops.Go(func() {
			for over.Err() == nil { // a loop ends by itself, or is left, or has its ctx end
				ctx, cancel := context.WithTimeout(over, time.Duration(random.IntN(20_000))*time.Microsecond)
				left := random.IntN(400)
				for msg, err := range r.All(ctx) {
					if msg.Conn == (plex.Conn{}) {
						break
					}
					all.note(msg, err)
					if random.IntN(5000) == 0 {
						all.kill(msg.Conn)
						r.Kill(msg.Conn)
					}
					if left--; left < 0 {
						break
					}
				}
				cancel()
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for stop := time.Now().Add(2 * time.Second); time.Now().Before(stop); {
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		if w, err := m.Writer(t.Context(), -1); err == nil {
			all.kill(w.Conn())
			_ = w.Kill()
		}
	}
	require.NoError(t, s.Close())
	for missing := "?"; missing != ""; {
		require.NoError(t, over.Err(), "not all has come: "+missing)
		time.Sleep(5 * time.Millisecond)
		missing = all.missing(s)
	}
	end()
	loops.Wait()
	require.NoError(t, m.Close())
	for msg, err := range r.All(t.Context()) {
		if msg.Conn != (plex.Conn{}) {
			all.note(msg, err)
		}
	}
	require.Zero(t, r.Leftovers())
	s.running.Wait()

	messages, whole, cut := 0, 0, 0
	for address, rec := range all.of {
		if len(rec.messages) == 0 && rec.cut == nil {
			continue // killed before it was accepted, perhaps
		}
		p := s.peers[address]
		require.NotNil(t, p, "a connection of nobody's: %v", address)
		sent := p.plan
		require.LessOrEqual(t, len(rec.messages), sent)
		for i, got := range rec.messages {
			require.Equal(t, p.message(i), got, "message %d of %v", i, address)
		}
		messages += len(rec.messages)
		if len(rec.messages) == sent {
			whole++
		}
		if rec.cut != nil {
			next, err := framing.Append(nil, []byte(p.message(len(rec.messages))))
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(next, rec.cut.Data), "what was cut off is no beginning of what was next")
			require.Less(t, len(rec.cut.Data), len(next))
			cut++
		}
	}
	t.Logf("%d connections, %d of them whole, %d cut off, %d messages", len(all.of), whole, cut, messages)
	require.NotZero(t, whole)
	require.NotZero(t, cut)
}
