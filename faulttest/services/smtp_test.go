package services

// net/smtp, which was written for a net.Conn of its own, over whole connections of a pool, against an SMTP server that
// nobody here wrote.

import (
	"context"
	"fmt"
	"io"
	"net"
	netsmtp "net/smtp"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// mailbox is what the server has been given, and by how many connections.
type mailbox struct {
	mu       sync.Mutex
	mails    map[string]int // sender, recipients and text of each
	sessions int
	open     int
	most     int // sessions that were open at the same time
}

// mailing is one connection's session.
type mailing struct {
	box  *mailbox
	from string
	to   []string
}

func (s *mailing) Reset() { s.from, s.to = "", nil }

func (s *mailing) Logout() error {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.open--
	return nil
}

func (s *mailing) Mail(from string, _ *smtp.MailOptions) error { s.from = from; return nil }

func (s *mailing) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody") {
		return &smtp.SMTPError{Code: 550, Message: "no such user"}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *mailing) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails[fmt.Sprintf("%s %v %s", s.from, s.to, text)]++
	return err
}

// mailServer serves until the test ends.
func mailServer(t *testing.T) (box *mailbox, address string) {
	t.Helper()
	box = &mailbox{mails: map[string]int{}}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		box.mu.Lock()
		defer box.mu.Unlock()
		box.sessions++
		box.open++
		box.most = max(box.most, box.open)
		return &mailing{box: box}, nil
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-served
	})
	return box, l.Addr().String()
}

func mailPool(t *testing.T, connect plex.Connect) *plex.Multiplexer {
	t.Helper()
	m, err := plex.New(t.Context(), plex.WithConnector(connect), plex.WithMinConnections(2), plex.WithMaxCapacity(2))
	require.NoError(t, err)
	t.Cleanup(func() {
		s := m.Stats()
		require.Zero(t, s.LeasedReaders+s.LeasedWriters+s.Waiting)
		require.NoError(t, m.Close())
	})
	return m
}

// sendMails has many callers send mails at the same time. Each mail has to arrive once, and be refused to nobody.
func sendMails(t *testing.T, box *mailbox, mailers, mails int, send func(from, to, text string) error) {
	t.Helper()
	want := map[string]int{}
	var all sync.WaitGroup
	for i := range mailers {
		for j := range mails {
			from, to := fmt.Sprintf("from%d@plex.test", i), fmt.Sprintf("to%d@plex.test", j)
			text := fmt.Sprintf("mail %d of %d\r\n.hidden dot\r\n", j, i)
			want[fmt.Sprintf("%s [%s] %s", from, to, text)] = 1
		}
		all.Go(func() {
			for j := range mails {
				from, to := fmt.Sprintf("from%d@plex.test", i), fmt.Sprintf("to%d@plex.test", j)
				assert.NoError(t, send(from, to, fmt.Sprintf("mail %d of %d\r\n.hidden dot\r\n", j, i)))
				err := send(from, "nobody@plex.test", "")
				refused := new(textproto.Error)
				if assert.ErrorAs(t, err, &refused) {
					assert.Equal(t, 550, refused.Code)
				}
			}
		})
	}
	all.Wait()
	box.mu.Lock()
	defer box.mu.Unlock()
	require.Equal(t, want, box.mails)
}

// deliver sends one mail.
func deliver(c *netsmtp.Client, from, to, text string) error {
	if err := c.Mail(from); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return w.Close()
}

// farewell is a lease of a protocol that says goodbye before it closes: the connection has ended, so it goes to nobody
// else.
type farewell struct{ plex.Duplex }

func (f farewell) Close() error { return f.Kill() }

// Each client greets and quits, as net/smtp does. There are few, because plex takes a service that hangs up after a moment
// for one that does not want it, and connects no faster than the backoff allows.
func TestSMTPWithAGreetingAndAGoodbye(t *testing.T) {
	balance(t)
	box, address := mailServer(t)
	m := mailPool(t, plex.Dial("tcp", address))
	ctx := within(t)
	const mailers, mails = 3, 2
	sendMails(t, box, mailers, mails, func(from, to, text string) error {
		whole, err := m.Duplex(ctx, 0)
		if err != nil {
			return err
		}
		c, err := netsmtp.NewClient(farewell{whole}, "plex.test")
		if err != nil {
			return err
		}
		defer func() { assert.ErrorIs(t, c.Close(), net.ErrClosed, "the second one is inert") }()
		err = deliver(c, from, to, text)
		assert.NoError(t, c.Quit())
		return err
	})
	require.EqualValues(t, 2*mailers*mails, m.Stats().Lost, "one connection for each")
}

// greeted is a lease on a connection whose greeting the connector has read: net/smtp gets another.
type greeted struct {
	plex.Duplex
	greeting *strings.Reader
}

func (g greeted) Read(p []byte) (int, error) {
	if g.greeting.Len() > 0 {
		return g.greeting.Read(p)
	}
	return g.Duplex.Read(p)
}

// The connections go from client to client, for as long as they live.
func TestSMTPOverConnectionsThatStay(t *testing.T) {
	balance(t)
	box, address := mailServer(t)
	dial := plex.Dial("tcp", address)
	m := mailPool(t, func(ctx context.Context, conn net.Conn) error {
		if err := dial(ctx, conn); err != nil {
			return err
		}
		_, _, err := textproto.NewConn(conn).ReadCodeLine(220)
		return err
	})
	ctx := within(t)
	sendMails(t, box, 6, 10, func(from, to, text string) error {
		whole, err := m.Duplex(ctx, 0)
		if err != nil {
			return err
		}
		c, err := netsmtp.NewClient(greeted{whole, strings.NewReader("220 again\r\n")}, "plex.test")
		if err != nil {
			return err
		}
		err = deliver(c, from, to, text) // which begins with EHLO, and that forgets what was before
		assert.NoError(t, c.Close())
		assert.ErrorIs(t, c.Close(), net.ErrClosed, "the second one is inert")
		assert.ErrorIs(t, c.Noop(), net.ErrClosed)
		return err
	})
	s := m.Stats()
	require.Zero(t, s.Lost)
	require.EqualValues(t, 2, s.Connected)
	require.Equal(t, 2, box.most)
}
