package cache

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// However the bytes arrive, the replies are the same. What is not whole yet is waited for.
func TestSplit(t *testing.T) {
	replies := []string{
		"HD O1\r\n", "EN O2\r\n", "VA 5 O3\r\nvalue\r\n", "VA 0 O4\r\n\r\n", "VA 4 f0 O5\r\n\r\n\r\n\r\n", "NF O6\r\n",
		"VA 7 O7\r\nEN O1\r\n\r\n", "SERVER_ERROR out of memory storing object\r\n", "MN\r\n",
	}
	for _, broken := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader,
	} {
		var got []string
		s := bufio.NewScanner(broken(strings.NewReader(strings.Join(replies, ""))))
		s.Split(protocol{}.Split)
		for s.Scan() {
			got = append(got, s.Text())
		}
		require.NoError(t, s.Err())
		require.Equal(t, replies, got)
	}
	for data, says := range map[string]string{
		"VA O1\r\n":             "has no size of a value",
		"VA -1 O1\r\n":          "has no size of a value",
		"VA 99999999999 O1\r\n": "has no size of a value",
		"VA 5 O1\r\nvalues\r\n": "does not end there",
	} {
		_, _, err := protocol{}.Split([]byte(data), false)
		require.ErrorContains(t, err, says, data)
	}
}

func TestParse(t *testing.T) {
	for message, want := range map[string]struct {
		id uint64
		reply
	}{
		"HD O1\r\n":                    {1, reply{status: "HD", value: []byte{}}},
		"EN O18446744073709551615\r\n": {1<<64 - 1, reply{status: "EN", value: []byte{}}},
		"VA 5 O7\r\nvalue\r\n":         {7, reply{status: "VA", value: []byte("value")}},
		"VA 2 f5 O7\r\n\r\n\r\n":       {7, reply{status: "VA", value: []byte("\r\n")}},
		"VA 0 O0\r\n\r\n":              {0, reply{status: "VA", value: []byte{}}},
	} {
		id, r, err := protocol{}.Parse([]byte(message))
		require.NoError(t, err, message)
		require.Equal(t, want.id, id, message)
		require.Equal(t, want.reply, r, message)
	}
	for _, message := range []string{
		"EN\r\n", "HD k\r\n", "HD Oabc\r\n", "HD O-1\r\n", "HD O18446744073709551616\r\n", "ERROR\r\n",
		"CLIENT_ERROR bad O1\r\n", "\r\n",
	} {
		_, _, err := protocol{}.Parse([]byte(message))
		require.ErrorContains(t, err, "not to which request", message)
	}
}

func TestAppend(t *testing.T) {
	for want, c := range map[string]command{
		"before mg key O42 v\r\n":                            {name: "mg", key: "key"},
		"before ms key 5 O42 T60\r\nvalue\r\n":               {name: "ms", key: "key", value: []byte("value"), seconds: 60},
		"before ms key 0 O42 T0\r\n\r\n":                     {name: "ms", key: "key"},
		"before md " + strings.Repeat("k", 250) + " O42\r\n": {name: "md", key: strings.Repeat("k", 250)},
	} {
		got, err := protocol{}.Append([]byte("before "), 42, c)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

// Whatever a server sends, Split and Parse keep to the bytes that are there, and a reply that they find is written there.
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
			if _, r, err := (protocol{}).Parse(message); err == nil && r.status == "VA" {
				line, _, _ := bytes.Cut(message, []byte("\r\n"))
				require.Equal(t, len(message), len(line)+len(r.value)+2*len("\r\n"))
			}
			data = data[advance:]
		}
	})
}
