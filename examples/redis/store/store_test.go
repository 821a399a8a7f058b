package store

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/request"
)

// However the bytes arrive, the values are the same. What is not whole yet is waited for.
func TestSplit(t *testing.T) {
	values := []string{
		"+OK\r\n", "-ERR no\r\n", ":1\r\n", "$5\r\nvalue\r\n", "$0\r\n\r\n", "$-1\r\n", "*-1\r\n", "_\r\n", "$4\r\n\r\n\r\n\r\n",
		"*0\r\n", "*2\r\n*1\r\n$1\r\na\r\n:1\r\n", "%1\r\n+a\r\n*1\r\n#t\r\n", "~1\r\n,1.5\r\n", ">2\r\n+message\r\n$0\r\n\r\n",
		"|1\r\n+ttl\r\n:1\r\n$1\r\nx\r\n", "=7\r\ntxt:abc\r\n", "!3\r\nERR\r\n", "(123\r\n",
	}
	for _, broken := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader,
	} {
		var got []string
		s := bufio.NewScanner(broken(strings.NewReader(strings.Join(values, ""))))
		s.Split(protocol{}.Split)
		for s.Scan() {
			got = append(got, s.Text())
		}
		require.NoError(t, s.Err())
		require.Equal(t, values, got)
	}
	for data, says := range map[string]string{
		"\r\n":                           "an empty line",
		"OK\r\n":                         `"OK" is no value`,
		"$x\r\n":                         "has a size that cannot be",
		"$-2\r\n":                        "has a size that cannot be",
		"~-1\r\n":                        "has a size that cannot be",
		"$99999999999\r\n":               "has a size that cannot be",
		"*99999999\r\n":                  "has a size that cannot be",
		"*?\r\n":                         "has a size that cannot be",
		"%16777216\r\n":                  "more than 16777216 items",
		"+" + strings.Repeat("x", 1<<17): "does not end",
	} {
		_, _, err := protocol{}.Split([]byte(data), false)
		require.ErrorContains(t, err, says, data)
	}
}

func TestParse(t *testing.T) {
	for data, want := range map[string]Value{
		"+OK\r\n":                              {Kind: '+', Text: "OK"},
		"$5\r\nvalue\r\n":                      {Kind: '$', Text: "value"},
		"$0\r\n\r\n":                           {Kind: '$'},
		"$-1\r\n":                              {Kind: '_'},
		"*-1\r\n":                              {Kind: '_'},
		"*0\r\n":                               {Kind: '*'},
		"=7\r\ntxt:abc\r\n":                    {Kind: '=', Text: "abc"},
		"|1\r\n+ttl\r\n:1\r\n$1\r\nx\r\n":      {Kind: '$', Text: "x"},
		"%1\r\n+a\r\n*1\r\n_\r\n":              {Kind: '%', Items: []Value{{Kind: '+', Text: "a"}, {Kind: '*', Items: []Value{{Kind: '_'}}}}},
		"*2\r\n$2\r\n\r\n\r\n-ERR x\r\n":       {Kind: '*', Items: []Value{{Kind: '$', Text: "\r\n"}, {Kind: '-', Text: "ERR x"}}},
		strings.Repeat("*1\r\n", 3) + ":1\r\n": {Kind: '*', Items: []Value{{Kind: '*', Items: []Value{{Kind: '*', Items: []Value{{Kind: ':', Text: "1"}}}}}}},
	} {
		v, err := protocol{}.Parse([]byte(data), nil)
		require.NoError(t, err, data)
		require.Equal(t, want, v, data)
	}
	for data, says := range map[string]string{
		"$5\r\nvalues!\r\n":                     "does not end there",
		strings.Repeat("*1\r\n", 99) + ":1\r\n": "more than 32 values within each other",
		":1\r\n:2\r\n":                          "behind a value",
	} {
		_, err := protocol{}.Parse([]byte(data), nil)
		require.ErrorContains(t, err, says, data)
	}
	_, err := protocol{}.Parse([]byte(">1\r\n+x\r\n"), nil)
	require.ErrorIs(t, err, request.ErrNotReply)
	_, err = checked(Value{Kind: '-', Text: "ERR x"}, nil)
	require.EqualError(t, err, "redis: the server says ERR x")
}

func TestAppend(t *testing.T) {
	got, err := protocol{}.Append([]byte("before "), []string{"SET", "", "a\r\nb"})
	require.NoError(t, err)
	require.Equal(t, "before *3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n", string(got))
}

// What changes a connection that others share, or has no reply in order, never gets there.
func TestDoRefuses(t *testing.T) {
	for _, command := range [][]string{nil, {"subscribe", "x"}, {"MULTI"}, {"BLPOP", "x", "0"}} {
		_, err := new(Client).Do(t.Context(), command...)
		require.ErrorContains(t, err, "cannot share a connection")
	}
}

// Whatever a server sends, Split and Parse keep to the bytes that are there and do not panic.
func FuzzSplitAndParse(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n", "*2\r\n$1\r\na\r\n:1\r\n", "|1\r\n+a\r\n_\r\n$1\r\nx\r\n", "$5\r\nval", "%1\r\n", "=2\r\nab\r\n", "|0\r\n|0\r\n:1\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for len(data) > 0 {
			advance, token, err := protocol{}.Split(data, false)
			if err != nil || advance == 0 {
				return
			}
			require.LessOrEqual(t, advance, len(data))
			require.Equal(t, data[:advance], token)
			_, _ = protocol{}.Parse(token, nil)
			data = data[advance:]
		}
	})
}
