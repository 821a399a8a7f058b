package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/request"
)

func TestSetGetDelete(t *testing.T) {
	servers(t, func(t *testing.T, server backend) {
		client := dial(t, server.addr(), 2)
		ctx := within(t)

		_, err := client.Get(ctx, "key")
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorIs(t, client.Delete(ctx, "key"), ErrNotFound)

		for _, value := range []string{
			"value", "", "\r\n", "EN O1\r\nVA 5 O2\r\n", strings.Repeat("\x00\r\n\xff", 1000), strings.Repeat("v", MaxValue),
		} {
			require.NoError(t, client.Set(ctx, "key", []byte(value), 0))
			got, err := client.Get(ctx, "key")
			require.NoError(t, err)
			require.Equal(t, []byte(value), got)
		}

		require.NoError(t, client.Delete(ctx, "key"))
		_, err = client.Get(ctx, "key")
		require.ErrorIs(t, err, ErrNotFound)
		require.Zero(t, client.mux.Stats().Lost)
	})
}

func TestLongestKeyWithLongestValue(t *testing.T) {
	servers(t, func(t *testing.T, server backend) {
		client := dial(t, server.addr(), 1)
		key, value := strings.Repeat("k", MaxKey), bytes.Repeat([]byte("v"), MaxValue)
		require.NoError(t, client.Set(within(t), key, value, 0))
		got, err := client.Get(within(t), key)
		require.NoError(t, err)
		require.True(t, bytes.Equal(value, got))
	})
}

// Everybody uses the same few connections, hits beside misses beside deletes, and gets what is theirs.
func TestManyCallers(t *testing.T) {
	servers(t, func(t *testing.T, server backend) {
		l := &load{client: dial(t, server.addr(), 2), patience: long}
		var calling sync.WaitGroup
		for i := range 100 {
			calling.Go(func() {
				c := &caller{load: l, number: i}
				for range 100 {
					c.step()
				}
			})
		}
		calling.Wait()

		require.NoError(t, l.audit())
		require.EqualValues(t, 100*100, l.answered())
		require.Positive(t, l.hits.Load())
		require.Positive(t, l.misses.Load())
		require.Positive(t, l.deletes.Load())
		require.Zero(t, l.forgotten.Load())
		require.Zero(t, l.client.mux.Stats().Lost)
	})
}

func TestTimeToLive(t *testing.T) {
	balance(t)
	client := dial(t, memcached(t).addr(), 1)
	require.NoError(t, client.Set(within(t), "month", []byte("v"), 60*24*time.Hour))
	require.NoError(t, client.Set(within(t), "second", []byte("v"), time.Millisecond))
	_, err := client.Get(within(t), "month")
	require.NoError(t, err, "a date that memcached took for a time in the past")
	comes(t, "the end of a key", func() bool {
		_, err := client.Get(within(t), "second")
		return err == ErrNotFound
	})
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	balance(t)
	client := dial(t, up(t, &embedded{address: free(t)}).addr(), 1)

	for key, says := range map[string]string{
		"":                              "a key of 0 bytes, want 1 to 250",
		strings.Repeat("k", MaxKey+1):   "a key of 251 bytes, want 1 to 250",
		"two words":                     `"two words" has byte 0x20, want no blanks`,
		"key\r\nmd other":               "has byte 0xd",
		"rubout\x7f":                    "has byte 0x7f",
		"no-byte-\x00-of-that-kind-too": "has byte 0x0",
	} {
		_, err := client.Get(within(t), key)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, client.Set(within(t), key, nil, 0), says)
		require.ErrorContains(t, client.Delete(within(t), key), says)
	}
	require.ErrorContains(t, client.Set(within(t), "key", make([]byte, MaxValue+1), 0),
		fmt.Sprintf("a value of %d bytes, want at most %d", MaxValue+1, MaxValue))
	require.ErrorContains(t, client.Set(within(t), "key", nil, -1), "a time to live of -1ns")
	require.Zero(t, client.requests.Stats().Sent)
}

// The lines in which memcached refuses something say nothing of a token, so that nobody knows what they are about. No
// request may get another's reply for it, and none may wait for ever.
func TestRefusalsEndTheConnectionAndNothingElse(t *testing.T) {
	balance(t)
	// A server whose values are smaller than the client believes.
	client := dial(t, memcached(t, "-I", "512k").addr(), 1)
	require.NoError(t, client.Set(within(t), "small", []byte("v"), 0))

	err := client.Set(within(t), "large", make([]byte, 600<<10), 0)
	var failed *request.Error
	require.ErrorAs(t, err, &failed)
	require.True(t, failed.MaybeSent)
	require.ErrorContains(t, err, "SERVER_ERROR object too large for cache")

	got, err := client.Get(within(t), "small")
	require.NoError(t, err)
	require.Equal(t, "v", string(got))
	require.EqualValues(t, 1, client.mux.Stats().Lost)
}

// The first releases of 1.6 do not say which request a miss is the reply to.
func TestServersThatDoNotRepeatTheTokenAreRefused(t *testing.T) {
	balance(t)
	server := up(t, &embedded{address: free(t), old: true})
	_, err := NewClient(within(t), server.addr(), 1)
	require.ErrorContains(t, err, `answers mg with "EN\r\n", want EN O1`)
}

func TestServersThatAreNotMemcachedAreRefused(t *testing.T) {
	for answer, says := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n": `"HTTP/1.1 400 Bad Request\r\n", want EN O1`,
		"VA 0 O1\r\n\r\n":              `want EN O1`,
		strings.Repeat("x", 5000):      "a line of more than 2048 bytes",
	} {
		t.Run(says, func(t *testing.T) {
			balance(t)
			_, err := NewClient(within(t), answerer(t, func(string) string { return answer }), 1)
			require.ErrorContains(t, err, says)
		})
	}
}

// Replies that make sense and are none to what was asked.
func TestRepliesToSomethingElse(t *testing.T) {
	token := regexp.MustCompile(`O\d+`)
	balance(t)
	client := dial(t, answerer(t, func(line string) string {
		if strings.Contains(line, "plex:hello") {
			return "EN O1\r\n"
		}
		if !strings.HasPrefix(line, "m") {
			return "" // the value of a set
		}

		return "NS " + token.FindString(line) + "\r\n"
	}), 1)

	_, err := client.Get(within(t), "key")
	require.EqualError(t, err, `memcached: Get "key": the server answers NS`)
	require.EqualError(t, client.Set(within(t), "key", []byte("v"), 0), `memcached: Set "key": the server answers NS`)
	require.EqualError(t, client.Delete(within(t), "key"), `memcached: Delete "key": the server answers NS`)
	require.Zero(t, client.mux.Stats().Lost)
}
