package main

import (
	"context"
	"encoding/binary"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

func TestExchange(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		_, connect := start(t, overTLS, nil)
		client := dial(t, connect, 2)

		query := ask(7, false)
		query.Id = 4711
		before := query.String()
		reply, err := client.Exchange(within(t), query)
		require.NoError(t, err)
		require.NoError(t, verify(reply, 4711, 7))
		require.Equal(t, before, query.String(), "the caller's query has been changed")

		unknown := new(dns.Msg).SetQuestion("nobody.example.", dns.TypeMX)
		reply, err = client.Exchange(within(t), unknown)
		require.NoError(t, err, "that there is no such name is an answer")
		require.Equal(t, dns.RcodeNameError, reply.Rcode)
		require.Equal(t, unknown.Id, reply.Id)
	})
}

// Callers choose their identifiers without knowing of each other.
func TestExchangeOfQueriesWithTheSameIdentifier(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		_, connect := start(t, overTLS, nil)
		client := dial(t, connect, 2)

		var callers sync.WaitGroup
		for i := range uint32(50) {
			callers.Go(func() {
				for k := range uint32(20) {
					n := 1000*i + k
					query := ask(n, n%7 == 0)
					query.Id = 1
					reply, err := client.Exchange(within(t), query)
					if err == nil {
						err = verify(reply, 1, n)
					}
					if err != nil {
						t.Errorf("query %d: %v", n, err)
						return
					}
				}
			})
		}
		callers.Wait()
	})
}

// A reply that takes its time holds up no other, on the same connection.
func TestRepliesOvertakeEachOther(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		heard, release := make(chan uint32, 2), make(chan struct{})
		_, connect := start(t, overTLS, func(s *server) {
			s.heard = func(n uint32) { heard <- n }
			s.wait = func() { <-release }
		})
		client := dial(t, connect, 1)

		done := make(chan error, 1)
		go func() {
			query := ask(1, true)
			reply, err := client.Exchange(within(t), query)
			if err == nil {
				err = verify(reply, query.Id, 1)
			}
			done <- err
		}()
		require.EqualValues(t, 1, <-heard)

		query := ask(2, false)
		reply, err := client.Exchange(within(t), query)
		require.NoError(t, err)
		require.NoError(t, verify(reply, query.Id, 2))
		select {
		case err := <-done:
			require.FailNow(t, "the late query has ended before its reply was there", "%v", err)
		default:
		}

		close(release)
		require.NoError(t, <-done)
	})
}

// There are 65,536 identifiers. More queries than that go by while one waits for its reply, and another's caller has
// given up: neither's identifier may be used again, or its reply would answer somebody else's query.
func TestIdentifiersInUseAreSkippedWhenTheyBeginAgain(t *testing.T) {
	balance(t)
	var heard sync.WaitGroup
	heard.Add(2)
	release := make(chan struct{})
	_, connect := start(t, false, func(s *server) { s.wait = func() { heard.Done(); <-release } })
	client := dial(t, connect, 4)

	done := make(chan error, 2)
	wait := func(ctx context.Context, n uint32) {
		query := ask(n, true)
		reply, err := client.Exchange(ctx, query)
		if err == nil {
			err = verify(reply, query.Id, n)
		}
		done <- err
	}
	impatient, giveUp := context.WithCancel(t.Context())
	go wait(impatient, 100)
	go wait(within(t), 200)
	heard.Wait()
	giveUp()
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	var failed *request.Error
	require.ErrorAs(t, err, &failed)
	require.True(t, failed.MaybeSent)

	const callers, each = 50, 1400 // 70,000
	var calling sync.WaitGroup
	for i := range uint32(callers) {
		calling.Go(func() {
			for k := range uint32(each) {
				n := i*each + k
				query := ask(n, false)
				reply, err := client.Exchange(within(t), query)
				if err == nil {
					err = verify(reply, query.Id, n)
				}
				if err != nil {
					t.Errorf("query %d: %v", n, err)
					return
				}
			}
		})
	}
	calling.Wait()

	close(release)
	require.NoError(t, <-done)
	comes(t, "the reply that nobody waits for", func() bool { return client.requests.Stats().Late == 1 })
	require.Zero(t, client.requests.Stats().Unknown)
	require.Zero(t, client.mux.Stats().Lost)
}

func TestExchangeRefusesWhatCannotWork(t *testing.T) {
	balance(t)
	_, connect := start(t, false, func(s *server) { s.heard = func(n uint32) { t.Errorf("the server got query %d", n) } })
	client := dial(t, connect, 1)

	reply := ask(1, false)
	reply.Response = true
	signed := ask(1, false)
	signed.SetTsig("key.", dns.HmacSHA256, 300, 0)
	transfer := new(dns.Msg).SetAxfr(zone)
	endless := ask(1, false)
	endless.Question[0].Name = "an unfinished name"

	for name, c := range map[string]struct {
		query *dns.Msg
		says  string
	}{
		"no query":      {nil, "the query is nil"},
		"a reply":       {reply, "its Response flag is set"},
		"a TSIG":        {signed, "a TSIG signs the identifier"},
		"a transfer":    {transfer, "AXFR has more replies than one"},
		"a broken name": {endless, "fully qualified"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Exchange(within(t), c.query)
			require.ErrorContains(t, err, c.says)
		})
	}
	require.Zero(t, client.requests.Stats().Sent)
}

// What a server does wrong must not become somebody's answer.
func TestRepliesThatMakeNoSense(t *testing.T) {
	pack := func(m *dns.Msg) []byte {
		wire, err := m.Pack()
		if err != nil {
			panic(err)
		}

		return wire
	}
	unpack := func(wire []byte) *dns.Msg {
		m := new(dns.Msg)
		if err := m.Unpack(wire); err != nil {
			panic(err)
		}

		return m
	}

	for name, c := range map[string]struct {
		answer func(query []byte) []byte
		says   string
		lost   bool // the connection is not to be trusted any more
	}{
		"about something else": {
			answer: func(query []byte) []byte {
				m := answer(unpack(query), 1)
				m.Question[0].Name = "elsewhere.example."

				return pack(m)
			},
			says: "asked for n1.plex.test. A, got a reply about elsewhere.example. A",
		},
		"without its question": {
			answer: func(query []byte) []byte {
				m := answer(unpack(query), 1)
				m.Question = nil

				return pack(m)
			},
			says: "got a reply about nothing",
		},
		"broken behind the header": {
			answer: func(query []byte) []byte {
				wire := pack(answer(unpack(query), 1))

				return wire[:len(wire)-3]
			},
			says: "the reply to n1.plex.test. A",
		},
		"shorter than a header": {
			answer: func(query []byte) []byte { return query[:5] },
			says:   "a message of 5 bytes, want at least the 12 of a header",
			lost:   true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			balance(t)
			client := dial(t, answerer(t, c.answer), 1)
			_, err := client.Exchange(within(t), ask(1, false))
			require.ErrorContains(t, err, c.says)
			var failed *request.Error
			if c.lost {
				require.ErrorAs(t, err, &failed)
				require.True(t, failed.MaybeSent)
				comes(t, "another connection", func() bool { return client.mux.Stats().Healed == 1 })
			} else {
				require.Zero(t, client.mux.Stats().Lost)
			}
		})
	}
}

// A server need not repeat the question of a query that it could not read.
func TestErrorWithoutQuestion(t *testing.T) {
	balance(t)
	client := dial(t, answerer(t, func(query []byte) []byte {
		reply := make([]byte, 12)
		copy(reply, query[:2])
		reply[2], reply[3] = 1<<7, dns.RcodeFormatError

		return reply
	}), 1)

	query := ask(1, false)
	reply, err := client.Exchange(within(t), query)
	require.NoError(t, err)
	require.Equal(t, dns.RcodeFormatError, reply.Rcode)
	require.Equal(t, query.Id, reply.Id)
}

// A message with the identifier of a query that is a query itself is no reply to it.
func TestQueriesFromTheServerAreNoReplies(t *testing.T) {
	balance(t)
	first := true
	client := dial(t, answerer(t, func(query []byte) []byte {
		if first {
			first = false

			return query // as it came
		}
		reply := append([]byte(nil), query...)
		reply[2] |= 1 << 7

		return reply
	}), 1)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := client.Exchange(ctx, ask(1, false))
		done <- err
	}()
	comes(t, "the query that is no reply", func() bool { return client.requests.Stats().Unsolicited == 1 })
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	reply, err := client.Exchange(within(t), ask(2, false))
	require.NoError(t, err)
	require.True(t, reply.Response)
}

func TestNewClientSaysWhatIsWrong(t *testing.T) {
	balance(t)
	_, err := NewClient(t.Context(), nil, 1)
	require.ErrorContains(t, err, "WithConnector")

	s := new(server)
	require.NoError(t, s.up())
	require.NoError(t, s.down())
	_, err = NewClient(t.Context(), plex.Dial("tcp", s.address), 1)
	require.ErrorContains(t, err, s.address)
}

func TestParse(t *testing.T) {
	wire := binary.BigEndian.AppendUint16(nil, 65535)
	wire = append(wire, 1<<7, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	id, reply, err := protocol{}.Parse(wire)
	require.NoError(t, err)
	require.EqualValues(t, 65535, id)
	require.Equal(t, wire, reply)
}
