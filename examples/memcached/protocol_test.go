package main

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// However the bytes arrive, the replies are the same.
func TestSplit(t *testing.T) {
	replies := []string{
		"HD O1\r\n", "EN O2\r\n", "VA 5 O3\r\nvalue\r\n", "VA 0 O4\r\n\r\n", "VA 4 f0 O5\r\n\r\n\r\n\r\n", "NF O6\r\n",
		"VA 7 O7\r\nEN O1\r\n\r\n", "SERVER_ERROR out of memory storing object\r\n", "MN\r\n",
	}
	stream := strings.Join(replies, "")
	for name, r := range map[string]io.Reader{
		"at once":      strings.NewReader(stream),
		"byte by byte": iotest.OneByteReader(strings.NewReader(stream)),
		"by halves":    iotest.HalfReader(strings.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			s := bufio.NewScanner(r)
			s.Split(protocol{}.Split)
			for s.Scan() {
				got = append(got, s.Text())
			}
			require.NoError(t, s.Err())
			require.Equal(t, replies, got)
		})
	}
}

func TestSplitAsksForMore(t *testing.T) {
	for _, part := range []string{"", "H", "HD O1\r", "VA 5", "VA 5 O1\r\n", "VA 5 O1\r\nvalue", "VA 5 O1\r\nvalue\r"} {
		advance, token, err := protocol{}.Split([]byte(part), false)
		require.NoError(t, err, part)
		require.Zero(t, advance, part)
		require.Nil(t, token, part)
	}
}

func TestSplitFindsNonsense(t *testing.T) {
	for data, says := range map[string]string{
		"VA O1\r\n":                             "has no size of a value",
		"VA -1 O1\r\n":                          "has no size of a value",
		"VA 99999999999 O1\r\n":                 "has no size of a value",
		"VA 5 O1\r\nvalues\r\n":                 "does not end where",
		strings.Repeat("x", maxLine+1):          "a line of more than 2048 bytes",
		strings.Repeat("x", maxLine+1) + "\r\n": "a line of more than 2048 bytes",
	} {
		_, _, err := protocol{}.Split([]byte(data), false)
		require.ErrorContains(t, err, says, "%.40q", data)
	}
}

func TestParse(t *testing.T) {
	for message, want := range map[string]struct {
		id uint64
		reply
	}{
		"HD O1\r\n":                    {1, reply{status: "HD"}},
		"EN O18446744073709551615\r\n": {1<<64 - 1, reply{status: "EN"}},
		"VA 5 O7\r\nvalue\r\n":         {7, reply{status: "VA", value: []byte("value")}},
		"VA 2 f5 O7 W\r\n\r\n\r\n":     {7, reply{status: "VA", value: []byte("\r\n")}},
		"VA 0 O0\r\n\r\n":              {0, reply{status: "VA", value: []byte{}}},
	} {
		id, r, err := protocol{}.Parse([]byte(message))
		require.NoError(t, err, message)
		require.Equal(t, want.id, id, message)
		require.Equal(t, want.reply, r, message)
	}

	for message, says := range map[string]string{
		"EN\r\n":                       `"EN" does not say which request it answers`,
		"HD k\r\n":                     `does not say which request`,
		"HD Oabc\r\n":                  "a token that no request had",
		"HD O-1\r\n":                   "a token that no request had",
		"HD O18446744073709551616\r\n": "a token that no request had",
		"ERROR\r\n":                    `the server says "ERROR", not to which request`,
		"CLIENT_ERROR bad O1\r\n":      `the server says "CLIENT_ERROR bad O1"`,
		"\r\n":                         `the server says ""`,
	} {
		_, _, err := protocol{}.Parse([]byte(message))
		require.ErrorContains(t, err, says, message)
	}
}

func TestAppend(t *testing.T) {
	for want, c := range map[string]command{
		"before mg key O42 v\r\n":                            {name: "mg", key: "key"},
		"before ms key 5 O42 T60\r\nvalue\r\n":               {name: "ms", key: "key", value: []byte("value"), expires: 60},
		"before ms key 0 O42 T0\r\n\r\n":                     {name: "ms", key: "key"},
		"before md " + strings.Repeat("k", 250) + " O42\r\n": {name: "md", key: strings.Repeat("k", 250)},
	} {
		got, err := protocol{}.Append([]byte("before "), 42, c)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

func TestExpiry(t *testing.T) {
	now := time.Unix(2_000_000_000, 0)
	const day = 24 * time.Hour
	for ttl, want := range map[time.Duration]int64{
		0:                       0,
		1:                       1,
		time.Second:             1,
		1500 * time.Millisecond: 2,
		30 * day:                30 * 86_400,
		30*day + 1:              2_000_000_000 + 30*86_400 + 1,
		365 * day:               2_000_000_000 + 365*86_400,
	} {
		got, err := expiry(ttl, now)
		require.NoError(t, err)
		require.Equal(t, want, got, ttl)
	}
	_, err := expiry(-time.Second, now)
	require.ErrorContains(t, err, "a time to live of -1s, want none (0) or more")
}

// Whatever a server sends, Split and Parse keep to the bytes that are there, and a reply that they find is the one that
// is written there.
func FuzzSplitAndParse(f *testing.F) {
	for _, seed := range []string{
		"HD O1\r\n", "VA 5 O3\r\nvalue\r\n", "VA 5 O3\r\nval", "EN\r\n", "VA \r\n", "ERROR\r\n", "\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for len(data) > 0 {
			advance, message, err := protocol{}.Split(data, false)
			if err != nil || advance == 0 {
				return
			}
			require.LessOrEqual(t, advance, len(data))
			require.Equal(t, data[:advance], message)
			if _, r, err := (protocol{}).Parse(message); err == nil {
				line, _, _ := bytes.Cut(message, crlf)
				want := len(line) + len(crlf)
				if r.status == "VA" {
					want += len(r.value) + len(crlf)
				}
				require.Equal(t, want, len(message))
			}
			data = data[advance:]
		}
	})
}
