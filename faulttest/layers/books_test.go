package layers

// The books have to find what is wrong: here they are told wrong things.

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// pool makes a pool of connections to nobody, and their names.
func pool(t *testing.T, n int) (*plex.Multiplexer, []plex.Conn) {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		near, far := net.Pipe()
		t.Cleanup(func() { _ = far.Close() })
		conns[i] = near
	}
	m, err := plex.New(context.Background(), plex.WithConnections(conns...))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	names := make([]plex.Conn, n)
	for i := range names {
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		names[i] = w.Conn()
		defer w.Close()
	}
	return m, names
}

// body is message seq of connection k, as it is received.
func body(k, seq uint32) []byte { return AppendMessage(nil, k, seq, Short(k, seq))[prefixSize:] }

func TestHeardFindsWhatIsWrong(t *testing.T) {
	_, conns := pool(t, 2)
	a, b := conns[0], conns[1]
	take := func(e *Ear, conn plex.Conn, data []byte) { e.Take(message.Message{Data: data, Conn: conn}, nil) }
	cut := func(e *Ear, conn plex.Conn, data []byte, why error) {
		e.Take(message.Message{Conn: conn}, &message.CutError{Conn: conn, Data: data, Err: why})
	}
	frame := AppendMessage(nil, 7, 1, Short(7, 1))
	damaged := body(7, 1)
	damaged[10]++
	for _, c := range []struct {
		name string
		kind func(*Heard) *atomic.Uint64
		tell func(*Ear)
	}{
		{"nothing", nil, func(e *Ear) {
			take(e, a, body(7, 1))
			cut(e, a, AppendMessage(nil, 7, 2, Short(7, 2))[:9], io.EOF)
		}},
		{"again", (*Heard).doubled, func(e *Ear) { take(e, a, body(7, 0)) }},
		{"one is missing", (*Heard).lost, func(e *Ear) { take(e, a, body(7, 2)) }},
		{"another's", (*Heard).glued, func(e *Ear) { take(e, a, body(8, 1)) }},
		{"over another connection", (*Heard).glued, func(e *Ear) { take(e, b, body(7, 1)) }},
		{"damaged", (*Heard).glued, func(e *Ear) { take(e, a, damaged) }},
		{"of another size", (*Heard).glued, func(e *Ear) {
			take(e, a, AppendMessage(nil, 7, 1, Short(7, 1)+1)[prefixSize:])
		}},
		{"two in one", (*Heard).glued, func(e *Ear) { take(e, a, append(body(7, 1), body(7, 2)...)) }},
		{"short", (*Heard).glued, func(e *Ear) { take(e, a, []byte("short")) }},
		{"after the end", (*Heard).disordered, func(e *Ear) { cut(e, a, frame[:5], io.EOF); take(e, a, body(7, 1)) }},
		{"two ends", (*Heard).doubled, func(e *Ear) { cut(e, a, frame[:5], io.EOF); cut(e, a, frame[:5], io.EOF) }},
		{"the end of another's", (*Heard).glued, func(e *Ear) {
			cut(e, a, AppendMessage(nil, 7, 2, Short(7, 2))[:13], io.EOF)
		}},
		{"cut off behind its end", (*Heard).glued, func(e *Ear) { cut(e, a, frame, io.EOF) }},
		{"cut off in front of its beginning", (*Heard).glued, func(e *Ear) { cut(e, a, nil, io.EOF) }},
		{"cut off without a cause", (*Heard).glued, func(e *Ear) { cut(e, a, frame[:5], nil) }},
		{"an unknown error", (*Heard).glued, func(e *Ear) { e.Take(message.Message{Conn: a}, io.ErrNoProgress) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &Heard{}
			e := h.Ear()
			take(e, a, body(7, 0))
			c.tell(e)
			if c.kind == nil {
				require.NoError(t, h.Err())
				return
			}
			require.EqualValues(t, 1, c.kind(h).Load())
			require.Error(t, h.Err())
		})
	}
	require.False(t, (&Heard{}).Ear().Take(message.Message{}, plex.ErrClosed), "the end of all")
}

func (h *Heard) lost() *atomic.Uint64       { return &h.Lost }
func (h *Heard) doubled() *atomic.Uint64    { return &h.Doubled }
func (h *Heard) disordered() *atomic.Uint64 { return &h.Disordered }
func (h *Heard) glued() *atomic.Uint64      { return &h.Glued }

func TestHeardComparesWithWhatWasSent(t *testing.T) {
	_, conns := pool(t, 1)
	for _, c := range []struct {
		ending      Ending
		whole       uint32
		rest, cut   int
		strict      Strict
		right, must bool
	}{
		{Finished, 3, 0, 0, Strict{Finished: true}, true, true},
		{Finished, 4, 0, 0, Strict{Finished: true}, false, true},
		{Finished, 4, 0, 0, Strict{}, true, false},
		{Finished, 2, 0, 0, Strict{}, false, false}, // more than was sent
		{Finished, 3, 9, 9, Strict{Finished: true}, true, true},
		{Finished, 3, 9, 8, Strict{Finished: true}, false, true},
		{Finished, 3, 9, 0, Strict{Finished: true}, false, true},
		{Finished, 3, 0, 9, Strict{Finished: true}, false, true},
		{Closed, 4, 0, 0, Strict{Finished: true}, true, false},
		{Closed, 4, 0, 0, Strict{Closed: true}, false, true},
		{Live, 4, 0, 0, Strict{Live: true}, false, true},
		{Live, 3, 9, 0, Strict{Live: true}, true, true},
		{Broken, 9, 0, 0, Strict{true, true, true}, true, false},
		{Away, 9, 0, 0, Strict{true, true, true}, true, false},
	} {
		h := &Heard{}
		e := h.Ear()
		for seq := range uint32(3) {
			e.Take(message.Message{Data: body(7, seq), Conn: conns[0]}, nil)
		}
		if c.cut > 0 {
			data := AppendMessage(nil, 7, 3, Short(7, 3))[:c.cut]
			e.Take(message.Message{Conn: conns[0]}, &message.CutError{Conn: conns[0], Data: data, Err: io.EOF})
		}
		talker := &Talker{talks: map[uint32]*talk{7: {number: 7, whole: c.whole, rest: c.rest, ending: c.ending}}}
		n, err := h.Compare(talker, c.strict)
		require.Equal(t, c.right, err == nil, "%+v: %v", c, err)
		require.Equal(t, c.must, n == 1, "%+v", c)
		require.NoError(t, h.Err())
	}
}

func TestTheTalkersAccountOfAWrite(t *testing.T) {
	l := &talk{}
	for _, c := range []struct {
		n     int
		whole uint32
		rest  int
	}{{0, 0, 0}, {9, 0, 9}, {10, 1, 0}, {24, 1, 14}, {25, 2, 0}} {
		l.whole, l.rest = 0, 0
		l.wrote(c.n, []int{10, 25})
		require.Equal(t, [2]int{int(c.whole), c.rest}, [2]int{int(l.whole), l.rest}, "%d bytes", c.n)
	}
}

func TestAskedFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name     string
		account  uint8
		executed uint8
		what     string
	}{
		{"executed and replied", uint8(Replied), 1, ""},
		{"lost and executed", uint8(Reset), 1, ""},
		{"lost and not executed", uint8(Reset), 0, ""},
		{"not sent", uint8(NoConn) | notSent, 0, ""},
		{"not returned", uint8(Pending), 1, "has not returned"},
		{"executed twice", uint8(Replied), 2, "executed 2 times"},
		{"a reply out of nothing", uint8(Replied), 0, "was not executed"},
		{"sent all the same", uint8(NoConn) | notSent, 1, "was not sent, and it was executed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := pool(t, 1)
			a, err := NewAsked(m)
			require.NoError(t, err)
			defer a.Client.Close()
			a.next.Store(1)
			a.accounts = []uint8{c.account}
			err = a.Compare(&Executor{executed: []uint8{c.executed}})
			if c.what == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.what)
			}
			a.by[Replied].Add(1)
			require.ErrorContains(t, a.Compare(&Executor{executed: []uint8{c.executed}}), "the client's figures")
		})
	}

	a := &Asked{Calls: &Calls{}}
	require.Equal(t, Replied, a.judge(t.Context(), Ask{Unique: 1}, Answer{Unique: 1}, nil))
	require.NoError(t, a.Err())
	a.judge(t.Context(), Ask{Unique: 1}, Answer{Unique: 2}, nil)
	require.ErrorContains(t, a.Err(), "request 1 has been given the reply to request 2")
	require.EqualValues(t, 1, a.Mispaired.Load())
	a = &Asked{Calls: &Calls{}}
	require.Equal(t, Otherwise, a.judge(t.Context(), Ask{}, Answer{}, io.EOF))
	require.ErrorContains(t, a.Err(), "no *request.Error")
	a = &Asked{Calls: &Calls{}}
	frame := appendAnswer(nil, kindReply, 1, 2, 20)
	frame[30]++
	_, _, err := a.Calls.Parse(frame[prefixSize:])
	require.Error(t, err)
	require.ErrorContains(t, a.Err(), "1 replies are damaged")
}

func TestTheExecutorFindsWhatIsWrong(t *testing.T) {
	e := &Executor{}
	x := &executing{e: e}
	e.execute(asked{id: 5, Ask: Ask{Unique: 0}}, x, Alone)
	x.send(&asked{id: 5, Ask: Ask{Unique: 0}}, nil)
	e.execute(asked{id: 5, Ask: Ask{Unique: 1}}, x, Alone)
	require.NoError(t, e.Err())
	require.True(t, e.Has(1))
	require.False(t, e.Has(2))
	e.execute(asked{id: 5, Ask: Ask{Unique: 2}}, x, Alone)
	require.ErrorContains(t, e.Err(), "identifier 5 of request 1 is used for request 2")
	e.execute(asked{id: 6, Ask: Ask{Unique: 2}}, x, Alone)
	require.ErrorContains(t, e.Err(), "request 2 has come twice")
	now, peak := e.Pending()
	require.Equal(t, [2]int{2, 2}, [2]int{now, peak})
}

func TestWhatIsOnTheWireCanBeTakenApart(t *testing.T) {
	q := Ask{Unique: 77, Manner: Later, Delay: 123, Size: 45, ReplySize: 67}
	frame, err := (&Calls{}).Append([]byte("before"), 99, q)
	require.NoError(t, err)
	_, token, err := (&Calls{}).Split(frame[len("before"):], false)
	require.NoError(t, err)
	a, err := parseAsk(token)
	require.NoError(t, err)
	require.Equal(t, asked{id: 99, Ask: q}, a)
	for i := range token {
		token[i] ^= 4
		_, err := parseAsk(token)
		require.Error(t, err, "byte %d", i)
		token[i] ^= 4
	}
	_, err = (&Calls{}).Append(nil, 1, Ask{Size: -1})
	require.ErrorIs(t, err, ErrUnencodable)

	reply := appendAnswer(nil, kindReply, 99, 77, 67)
	id, got, err := (&Calls{}).Parse(reply[prefixSize:])
	require.NoError(t, err)
	require.EqualValues(t, 99, id)
	require.Equal(t, Answer{ID: 99, Unique: 77}, got)
}

func TestLeftKnowsWhereToLook(t *testing.T) {
	m, _ := pool(t, 1)
	r, err := message.New(m, Framing.Split)
	require.NoError(t, err)
	n, what := Left(r)
	require.Zero(t, n, what)
	require.Panics(t, func() { Left(&struct{ other int }{}) })
	a, err := NewAsked(m)
	require.NoError(t, err)
	require.NoError(t, a.Client.Close())
	n, what = Left(a.Client)
	require.Zero(t, n, what)
	require.False(t, errors.Is(a.Odd(), io.EOF))
}
