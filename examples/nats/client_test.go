package main

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/message"
)

func TestWhatIsPublishedIsReceived(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	var in inbox
	client := dial(t, Config{
		Address: s.addr(), Connections: 3, Errors: in.report,
		Subscriptions: []Subscription{{Subject: "test.>", Handle: in.take}},
	})

	for i, data := range []string{
		"hello", "", "\r\n", "PING\r\n", "MSG test.x 1 5\r\nhello\r\n", strings.Repeat("\x00\r\n\xff", 5000),
		strings.Repeat("x", 1<<20), // as much as a server takes by itself
	} {
		require.NoError(t, client.Publish(within(t), "test.data", []byte(data)))
		got := in.has(t, i+1)
		require.Len(t, got, i+1)
		require.Equal(t, "test.data", got[i].Subject)
		require.Empty(t, got[i].Reply)
		require.True(t, data == string(got[i].Data), "the data of message %d is another's", i+1)
	}
	require.Empty(t, in.errs)
	require.Zero(t, client.mux.Stats().Lost)
}

// Each connection is subscribed, and each message comes over one of them.
func TestEachMessageComesOnce(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	const n, publishing = 2000, 8
	var seen [n]atomic.Int64
	client := dial(t, Config{
		Address: s.addr(), Connections: 4,
		Subscriptions: []Subscription{{Subject: "n", Handle: func(m Msg) { seen[binary.BigEndian.Uint32(m.Data)].Add(1) }}},
	})

	var publishers sync.WaitGroup
	for p := range publishing {
		publishers.Go(func() {
			for i := p; i < n; i += publishing {
				if err := client.Publish(within(t), "n", binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
		})
	}
	publishers.Wait()

	comes(t, "all messages", func() bool {
		for i := range seen {
			if seen[i].Load() == 0 {
				return false
			}
		}

		return true
	})
	for i := range seen {
		require.EqualValues(t, 1, seen[i].Load(), "message %d", i)
	}
	// The server's own count says the same, and that all connections took part.
	delivered := 0
	for _, conn := range s.conns(t) {
		require.Equal(t, []string{"n"}, conn.Subs)
		require.Positive(t, conn.OutMsgs)
		delivered += int(conn.OutMsgs)
	}
	require.Equal(t, n, delivered)
}

// Whether two clients get the same messages or share them is for the name of the group to say.
func TestGroups(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	const n = 200
	var each [2]inbox
	var shared [2]inbox
	for i := range 2 {
		dial(t, Config{Address: s.addr(), Connections: 3, Subscriptions: []Subscription{
			{Subject: "n", Handle: each[i].take},
			{Subject: "n", Group: "workers", Handle: shared[i].take},
		}})
	}
	nc := usually(t, s.addr())
	for range n {
		require.NoError(t, nc.Publish("n", []byte("x")))
	}

	require.Len(t, each[0].has(t, n), n)
	require.Len(t, each[1].has(t, n), n)
	comes(t, "shared messages", func() bool { return shared[0].len()+shared[1].len() >= n })
	require.Equal(t, n, shared[0].len()+shared[1].len())
	require.Positive(t, shared[0].len())
	require.Positive(t, shared[1].len())
	delivered := 0
	for _, conn := range s.conns(t) {
		delivered += int(conn.OutMsgs)
	}
	require.Equal(t, 3*n, delivered)
}

// The client that everybody uses understands this one, and the other way round.
func TestWithNATSGo(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	var in inbox
	client := dial(t, Config{
		Address: s.addr(), Connections: 2, Errors: in.report,
		Subscriptions: []Subscription{{Subject: "to.plex.*", Handle: in.take}},
	})
	nc := usually(t, s.addr())
	sub, err := nc.SubscribeSync("from.plex.*")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	require.NoError(t, client.PublishAll(within(t),
		Msg{Subject: "from.plex.1", Data: []byte("one")},
		Msg{Subject: "from.plex.2", Reply: "to.plex.answer", Data: []byte("two\r\n")}))
	for _, want := range []nats.Msg{
		{Subject: "from.plex.1", Data: []byte("one")},
		{Subject: "from.plex.2", Reply: "to.plex.answer", Data: []byte("two\r\n")},
	} {
		got, err := sub.NextMsgWithContext(within(t))
		require.NoError(t, err)
		require.Equal(t, want.Subject, got.Subject)
		require.Equal(t, want.Reply, got.Reply)
		require.Equal(t, want.Data, got.Data)
		if got.Reply != "" {
			require.NoError(t, nc.PublishRequest(got.Reply, "to.nobody", []byte("answer")))
		}
	}
	require.Equal(t, []Msg{{Subject: "to.plex.answer", Reply: "to.nobody", Data: []byte("answer")}}, in.has(t, 1))

	// The server leaves out headers for those who do not want them.
	with := nats.NewMsg("to.plex.header")
	with.Header.Set("key", "value")
	with.Data = []byte("data")
	require.NoError(t, nc.PublishMsg(with))
	require.Equal(t, Msg{Subject: "to.plex.header", Data: []byte("data")}, in.has(t, 2)[1])
	require.Empty(t, in.errs)
}

// What the server would answer by closing the connection, on which others have messages, or would take for something
// else, never gets there.
func TestWhatCannotWorkIsRefused(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) { o.MaxPayload = 100 })
	client := dial(t, Config{Address: s.addr(), Connections: 1})

	require.EqualError(t, client.Publish(within(t), "a", make([]byte, 101)),
		`nats: publish: 101 bytes of data on "a", where the server takes 100 at most`)
	require.NoError(t, client.Publish(within(t), "a", make([]byte, 100)))
	require.ErrorContains(t, client.Publish(within(t), "a.*", nil), "which only a subscription may have")
	require.ErrorContains(t, client.Publish(within(t), "a 1\r\nx\r\nPUB b", nil), "has byte 0x20")
	require.ErrorContains(t, client.PublishAll(within(t), Msg{Subject: "a"}, Msg{Subject: "a", Reply: ">"}),
		"which only a subscription may have")
	require.NoError(t, client.PublishAll(within(t)))

	comes(t, "the one message that was published", func() bool { return s.conns(t)[0].InMsgs == 1 })
	require.Zero(t, client.mux.Stats().Lost)

	for says, subscription := range map[string]Subscription{
		"subscription 1: an empty subject":                    {Handle: func(Msg) {}},
		`subscription 1: the queue group "a b" has byte 0x20`: {Subject: "a", Group: "a b", Handle: func(Msg) {}},
		"subscription 1: its Handle is nil":                   {Subject: "a"},
	} {
		_, err := NewClient(within(t), Config{
			Address: s.addr(), Connections: 1, Subscriptions: []Subscription{subscription},
		})
		require.ErrorContains(t, err, says)
	}
}

// Without a connection nothing is sent, and the error says so, and why.
func TestPublishWithoutAServer(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	client := dial(t, Config{Address: s.addr(), Connections: 2})
	s.down()
	comes(t, "the end of the connections", func() bool { return client.mux.Stats().Open == 0 })
	comes(t, "a failed connect", func() bool { return client.mux.Stats().ConnectFailed > 0 })

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := client.Publish(ctx, "a", nil)
	var failed *message.SendError
	require.ErrorAs(t, err, &failed)
	require.False(t, failed.MaybeSent)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// What the server complains about, and does not close the connection for, is told; and nothing else changes.
func TestComplaintsOfTheServerAreTold(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "plex", Password: "secret", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"forbidden"}},
		}}}
	})
	var in inbox
	client := dial(t, Config{
		Address: s.addr(), Connections: 1, User: "plex", Password: "secret", Errors: in.report,
		Subscriptions: []Subscription{{Subject: "*", Handle: in.take}},
	})
	require.NoError(t, client.Publish(within(t), "forbidden", nil))
	require.NoError(t, client.Publish(within(t), "allowed", nil))

	require.Equal(t, []Msg{{Subject: "allowed", Data: []byte{}}}, in.has(t, 1))
	require.Equal(t, ServerError(`Permissions Violation for Publish to "forbidden"`), in.hasError(t))
	require.Zero(t, client.mux.Stats().Lost)
}

// conns is what the server says of its connections.
func (b *broker) conns(t *testing.T) []*server.ConnInfo {
	t.Helper()
	all, err := b.running.Connz(&server.ConnzOptions{Subscriptions: true})
	require.NoError(t, err)

	return all.Conns
}
