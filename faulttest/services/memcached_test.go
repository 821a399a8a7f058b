package services

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/examples/memcached/cache"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/request"
)

// memcached starts the memcached that is installed.
func memcached(t *testing.T, options ...string) (p *program, address string) {
	t.Helper()
	host, port := freeAddress(t)
	address = fmt.Sprintf("%s:%d", host, port)
	args := []string{installed(t, "memcached"), "-l", host, "-p", strconv.Itoa(port), "-U", "0", "-m", "256"}
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody") // it refuses to run as root
	}
	return start(t, &program{args: append(args, options...), addresses: []string{address}}), address
}

// dialCache makes a client, which has nothing left when the test ends.
func dialCache(t *testing.T, address string, connections int) *cache.Client {
	t.Helper()
	client, err := cache.Dial(t.Context(), address, connections)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, client.Close())
		pool, requests := client.Stats()
		require.Zero(t, pool.Open+pool.LeasedReaders+pool.LeasedWriters+requests.InFlight)
	})
	return client
}

func lostBy(client *cache.Client) func() uint64 {
	return func() uint64 { pool, _ := client.Stats(); return pool.Lost }
}

func TestMemcachedSetGetDelete(t *testing.T) {
	balance(t)
	_, address := memcached(t)
	client := dialCache(t, address, 2)
	ctx := within(t)

	_, err := client.Get(ctx, "key")
	require.ErrorIs(t, err, cache.ErrNotFound)
	require.ErrorIs(t, client.Delete(ctx, "key"), cache.ErrNotFound)
	longest := strings.Repeat("k", cache.MaxKey)
	for _, value := range []string{
		"value", "", "\r\n", "EN O1\r\nVA 5 O2\r\n", strings.Repeat("\x00\r\n\xff", 1000), strings.Repeat("v", cache.MaxValue),
	} {
		for _, key := range []string{"key", longest} {
			require.NoError(t, client.Set(ctx, key, []byte(value), 0))
			got, err := client.Get(ctx, key)
			require.NoError(t, err)
			require.True(t, value == string(got), "%.40q", got)
		}
	}
	require.NoError(t, client.Delete(ctx, "key"))
	_, err = client.Get(ctx, "key")
	require.ErrorIs(t, err, cache.ErrNotFound)

	// memcached takes a large number of seconds for a date, which must not be one in the past.
	require.NoError(t, client.Set(ctx, "months", []byte("v"), 60*24*time.Hour))
	require.NoError(t, client.Set(ctx, "second", []byte("v"), time.Millisecond))
	_, err = client.Get(ctx, "months")
	require.NoError(t, err)
	eventually(t, "the expiry of a key", func() bool {
		_, err := client.Get(ctx, "second")
		return errors.Is(err, cache.ErrNotFound)
	})
	require.Zero(t, lostBy(client)())
}

// The lines in which memcached refuses something say nothing of a token, so that nobody knows what they are about. No
// request may get another's reply for it, and none may wait for ever.
func TestMemcachedRefusalCostsTheConnectionAndNothingElse(t *testing.T) {
	balance(t)
	_, address := memcached(t, "-I", "512k") // its values are smaller than the client believes
	client := dialCache(t, address, 1)
	require.NoError(t, client.Set(within(t), "small", []byte("v"), 0))

	err := client.Set(within(t), "large", make([]byte, 600<<10), 0)
	failed := new(request.Error)
	require.ErrorAs(t, err, &failed)
	require.True(t, failed.MaybeSent)
	require.ErrorContains(t, err, "SERVER_ERROR object too large for cache")

	got, err := client.Get(within(t), "small")
	require.NoError(t, err)
	require.Equal(t, "v", string(got))
	require.EqualValues(t, 1, lostBy(client)())
}

// answeringLines is a server that answers each line with what its function makes of it.
func answeringLines(t *testing.T, answer func(line string) string) (address string) {
	return answering(t, func(conn *net.TCPConn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if _, err := io.WriteString(conn, answer(lines.Text())); err != nil {
				return
			}
		}
	})
}

// The first releases of 1.6 do not say which request a miss is the reply to; and a server may not be memcached at all.
func TestMemcachedRepliesThatMakeNoSense(t *testing.T) {
	for answer, says := range map[string]string{
		"EN\r\n":                       `the server says "EN", not to which request`,
		"HTTP/1.1 400 Bad Request\r\n": `the server says "HTTP/1.1 400 Bad Request", not to which request`,
		"VA x O1\r\n\r\n":              "has no size of a value",
	} {
		t.Run(says, func(t *testing.T) {
			balance(t)
			client := dialCache(t, answeringLines(t, func(string) string { return answer }), 1)
			_, err := client.Get(within(t), "key")
			require.ErrorContains(t, err, says)
			require.ErrorAs(t, err, new(*request.Error))
			require.Positive(t, lostBy(client)())
		})
	}
}

// A reply that makes sense, and is none to what was asked, is an error of that request alone.
func TestMemcachedRepliesToSomethingElse(t *testing.T) {
	balance(t)
	token := regexp.MustCompile(`O\d+`)
	client := dialCache(t, answeringLines(t, func(line string) string {
		if !strings.HasPrefix(line, "m") {
			return "" // the value of a set
		}
		return "NS " + token.FindString(line) + "\r\n"
	}), 1)
	_, err := client.Get(within(t), "key")
	require.EqualError(t, err, `memcached: mg "key": the server answers NS`)
	require.EqualError(t, client.Set(within(t), "key", []byte("v"), 0), `memcached: ms "key": the server answers NS`)
	require.EqualError(t, client.Delete(within(t), "key"), `memcached: md "key": the server answers NS`)
	require.Zero(t, lostBy(client)())
}

func TestMemcachedRequestsThatCannotWorkAreRefused(t *testing.T) {
	balance(t)
	client := dialCache(t, answeringLines(t, func(line string) string { t.Errorf("the server got %q", line); return "" }), 1)
	for _, key := range []string{"", strings.Repeat("k", cache.MaxKey+1), "two words", "key\r\nmd other", "rubout\x7f", "\x00"} {
		const says = "want 1 to 250 bytes without blanks"
		_, err := client.Get(within(t), key)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, client.Set(within(t), key, nil, 0), says)
		require.ErrorContains(t, client.Delete(within(t), key), says)
	}
	require.ErrorContains(t, client.Set(within(t), "key", make([]byte, cache.MaxValue+1), 0), "at most 1047552 bytes")
	_, requests := client.Stats()
	require.Zero(t, requests.Sent)
}

// keys is what the callers of a load do with memcached. A key has one caller that uses it, who therefore knows what its
// value has to be.
type keys struct {
	client    *cache.Client
	forgotten atomic.Int64 // keys that a restart has lost

	// restarts is counted up before the server goes down, and once more when it is down. A key that was set in an earlier
	// count may be forgotten.
	restarts atomic.Int64
}

func (k *keys) load(pace time.Duration) *load {
	return &load{stats: k.client.Stats, pace: pace, newCaller: func(number int) func(context.Context) error {
		return (&keyUser{keys: k, number: number}).step
	}}
}

// keyUser uses one key at a time, and many values for it.
type keyUser struct {
	*keys
	number, used int
	key          string
	value        []byte // that the key has; nil: there is no such key
	count        int64  // of restarts, before the key was set
}

func (u *keyUser) step(ctx context.Context) error {
	if u.key == "" {
		u.used++
		u.key, u.value = fmt.Sprintf("caller:%d:%d", u.number, u.used), nil
	}
	switch p := rand.IntN(100); {
	case p < 60:
		return u.get(ctx)
	case p < 90:
		return u.set(ctx)
	default:
		return u.delete(ctx)
	}
}

func (u *keyUser) get(ctx context.Context) error {
	value, err := u.client.Get(ctx, u.key)
	switch {
	case errors.Is(err, cache.ErrNotFound):
		return u.missing()
	case err == nil && (u.value == nil || !bytes.Equal(value, u.value)):
		return fmt.Errorf("%s has the value %.60q, want %.60q", u.key, value, u.value)
	}
	return err
}

func (u *keyUser) set(ctx context.Context) error {
	value := fmt.Appendf(nil, "%s, %d%s", u.key, rand.Uint64(), strings.Repeat(".", rand.IntN(2048)))
	count := u.restarts.Load()
	if err := u.client.Set(ctx, u.key, value, time.Hour); err != nil {
		return u.doubt(err)
	}
	u.value, u.count = value, count
	return nil
}

func (u *keyUser) delete(ctx context.Context) error {
	switch err := u.client.Delete(ctx, u.key); {
	case errors.Is(err, cache.ErrNotFound):
		return u.missing()
	case err != nil:
		return u.doubt(err)
	case u.value == nil:
		return fmt.Errorf("%s was deleted, or never set, and could be deleted", u.key)
	}
	u.value = nil
	return nil
}

// missing is what a caller is told who asks for a key that is not there. That is right if it has not set the key, and if
// the server has been restarted since.
func (u *keyUser) missing() error {
	if u.value != nil && u.restarts.Load() == u.count {
		return fmt.Errorf("%s: not found, though it was set to %.60q", u.key, u.value)
	}
	if u.value != nil {
		u.forgotten.Add(1)
	}
	u.value = nil
	return nil
}

// doubt has the caller go on with another key if nobody knows what the value of this one is, or will be when the server
// has read what had come over a connection that broke.
func (u *keyUser) doubt(err error) error {
	if failed := new(request.Error); !errors.As(err, &failed) || failed.MaybeSent {
		u.key = ""
	}
	return err
}

// Everybody uses the same few connections, hits beside misses beside deletes, and gets what is theirs.
func TestMemcachedManyCallers(t *testing.T) {
	balance(t)
	_, address := memcached(t)
	k := &keys{client: dialCache(t, address, 2)}
	l := k.load(0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx, 100) }()
	eventually(t, "answers", func() bool { return l.right.Load() > 10_000 })
	cancel()
	<-done
	l.audit(t)
	require.Equal(t, l.begun.Load(), l.right.Load())
	require.Zero(t, k.forgotten.Load())
	require.Zero(t, lostBy(k.client)())
}

func TestMemcachedWhileConnectionsBreak(t *testing.T) {
	balance(t)
	_, address := memcached(t)
	way, _ := breaking(t, address, 4)
	k := &keys{client: dialCache(t, way.Addr(), 4)}
	k.load(time.Millisecond).endure(t, func() { wearOut(t, way, lostBy(k.client), 50) })
	require.Zero(t, k.forgotten.Load(), "keys that nobody had the server forget")
}

// The server ends by itself, or has no time for it, and comes back on the same port with nothing of what it knew.
func TestMemcachedWhileTheServerRestarts(t *testing.T) {
	balance(t)
	server, address := memcached(t)
	k := &keys{client: dialCache(t, address, 4)}
	l := k.load(time.Millisecond)
	l.endure(t, func() {
		for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			k.restarts.Add(1)
			server.down(signal)
			k.restarts.Add(1)
			time.Sleep(5 * pause)
			server.up()
			l.answers(t)
		}
	})
	require.Positive(t, k.forgotten.Load(), "keys that the restarted server does not know")
	require.Positive(t, lostBy(k.client)())
}

func TestMemcachedCallersThatGiveUp(t *testing.T) {
	balance(t)
	_, address := memcached(t)
	way := passing(t, proxy.Config{Backend: address})
	k := &keys{client: dialCache(t, way.Addr(), 4)}
	k.load(0).giveUp(t, way, func(ctx context.Context) error {
		_, err := k.client.Get(ctx, "key")
		return err
	})
}
