package bus

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// However the bytes arrive, the messages are the same. What is not whole yet is waited for.
func TestSplit(t *testing.T) {
	messages := []string{
		"INFO {\"server_id\":\"X\"}\r\n", "PONG\r\n", "+OK\r\n", "PING\r\n", "-ERR 'Stale Connection'\r\n",
		"MSG a.b 1 5\r\nhello\r\n", "MSG a 12 reply.to 0\r\n\r\n", "MSG a 1 4\r\n\r\n\r\n\r\n", "MSG a 1 6\r\nPING\r\n\r\n", "\r\n",
	}
	for _, broken := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader,
	} {
		var got []string
		s := bufio.NewScanner(broken(strings.NewReader(strings.Join(messages, ""))))
		s.Split(split)
		for s.Scan() {
			got = append(got, s.Text())
		}
		require.NoError(t, s.Err())
		require.Equal(t, messages, got)
	}
	for _, data := range []string{
		"MSG a 1\tx\r\n", "MSG a 1 -1\r\n", "MSG a 1 99999999999\r\n", "MSG a 1 5\r\nhello world\r\n",
	} {
		_, _, err := split([]byte(data), false)
		require.ErrorContains(t, err, "does not end where it says", data)
	}
}

func TestBad(t *testing.T) {
	for _, name := range []string{"a", "a.b.c", "_INBOX.x", "a.*", ">", "ü.ß", "$SYS.REQ"} {
		require.False(t, bad(name), name)
	}
	for _, name := range []string{"", "a b", "a\r\nPUB b 0", "a\t", "a\x00", strings.Repeat("a", 1025)} {
		require.True(t, bad(name), name)
	}
}

// Whatever a server sends, split keeps to the bytes that are there, and a message ends in the end of a line.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{
		"PING\r\n", "MSG a 1 5\r\nhello\r\n", "MSG a 1 b 0\r\n\r\n", "MSG  1\r\n", "MSG a 1 5\r\nhel", "\r\n\r\n", "-ERR 'x'\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for len(data) > 0 {
			advance, token, err := split(data, false)
			if err != nil || advance == 0 {
				return
			}
			require.LessOrEqual(t, advance, len(data))
			require.Equal(t, data[:advance], token)
			require.True(t, strings.HasSuffix(string(token), "\n"))
			data = data[advance:]
		}
	})
}
