package directory

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/request"
)

// answer is a message from a server.
func answer(id uint64, tag ber.Tag, parts ...*ber.Packet) []byte {
	return operation{tag, parts}.frame(id)
}

func found(id uint64, dn, attribute string, values ...string) []byte {
	set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
	for _, v := range values {
		set.AppendChild(octets(v))
	}
	return answer(id, searchEntry, octets(dn), sequence(sequence(octets(attribute), set)))
}

func done(id uint64, code int64) []byte {
	return answer(id, searchDone, enumerated(code), octets(""), octets("text"))
}

// However the bytes arrive, the messages are the same. What is not whole yet is waited for.
func TestSplit(t *testing.T) {
	messages := [][]byte{
		done(1, 0), found(1, "cn=a", "sn"), found(70_000, "cn=b", "sn", strings.Repeat("x", 200)),
		found(lastID, "cn=c", "sn", strings.Repeat("x", 50_000), ""), done(0, 52),
	}
	for _, broken := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader,
	} {
		var got [][]byte
		s := bufio.NewScanner(broken(bytes.NewReader(bytes.Join(messages, nil))))
		s.Split(protocol{}.Split)
		for s.Scan() {
			got = append(got, bytes.Clone(s.Bytes()))
		}
		require.NoError(t, s.Err())
		require.Equal(t, messages, got)
	}
	for data, says := range map[string]string{
		"\x31\x00":                 "not with a sequence",
		"\x30\x80":                 "a length of 0 bytes",
		"\x30\x85\x00":             "a length of 5 bytes",
		"\x30\x84\x7f\xff\xff\xff": "a message of more than",
	} {
		_, _, err := protocol{}.Split([]byte(data), false)
		require.ErrorContains(t, err, says, "%x", data)
	}
}

// A connector that binds must leave what is behind the answer.
func TestReadMessageReadsNoFurther(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	long := found(7, "cn=c", "sn", strings.Repeat("x", 70_000))
	go func() { _, _ = far.Write(bytes.Join([][]byte{done(1, 0), long, []byte("behind")}, nil)) }()
	for _, want := range [][]byte{done(1, 0), long} {
		got, err := readMessage(near)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	rest := make([]byte, 6)
	_, err := io.ReadFull(near, rest)
	require.NoError(t, err)
	require.Equal(t, "behind", string(rest))
}

func TestParsePart(t *testing.T) {
	id, r, last, err := protocol{}.ParsePart(found(70_000, "cn=a", "sn", "1", ""))
	require.NoError(t, err)
	require.False(t, last)
	require.EqualValues(t, 70_000, id)
	e, err := r.entry()
	require.NoError(t, err)
	require.Equal(t, Entry{"cn=a", map[string][]string{"sn": {"1", ""}}}, e)
	require.Equal(t, "1", e.Get("sn"))
	require.Empty(t, e.Get("cn"))

	id, r, last, err = protocol{}.ParsePart(done(lastID, 32))
	require.NoError(t, err)
	require.True(t, last)
	require.EqualValues(t, lastID, id)
	_, err = r.result(success)
	require.EqualError(t, err, "ldap: the server says 32, no such object text")
	code, err := r.result(success, 32)
	require.NoError(t, err)
	require.EqualValues(t, 32, code)

	for _, tag := range []ber.Tag{searchReference, intermediate} {
		_, _, last, err = protocol{}.ParsePart(answer(9, tag))
		require.NoError(t, err)
		require.False(t, last)
	}
	_, _, _, err = protocol{}.ParsePart(answer(0, 24))
	require.ErrorIs(t, err, request.ErrNotReply)

	for _, bad := range []string{"\x30\x00", "\x30\x03\x02\x01\x01", "\x30\x04\x04\x01\x01\x65", "\x30\x05\x02\x01\x01\x30\x00"} {
		_, _, _, err = protocol{}.ParsePart([]byte(bad))
		require.ErrorContains(t, err, "ldap: a message has", "%x", bad)
	}
	_, err = reply{searchDone, []byte("\x30\x05\x02\x01\x01\x65\x00")}.result(success)
	require.ErrorContains(t, err, "less than its 3 parts")
}

// The bytes are those that RFC 4511 asks for, and what abandons a search names it.
func TestAppend(t *testing.T) {
	s := Search{Base: "o", Scope: Subtree, Filter: And(Equal("a", "b"), Not(Present("c"))), Attributes: []string{"d"}, Limit: 2}
	got, err := protocol{}.Append([]byte("-"), 5, s.operation())
	require.NoError(t, err)
	require.Equal(t, "-\x30\x2b\x02\x01\x05\x63\x26\x04\x01o\x0a\x01\x02\x0a\x01\x00\x02\x01\x02\x02\x01\x00\x01\x01\x00"+
		"\xa0\x0d\xa3\x06\x04\x01a\x04\x01b\xa2\x03\x87\x01c\x30\x03\x04\x01d", string(got))
	got, err = protocol{}.AppendCancel([]byte("-"), 5, s.operation())
	require.NoError(t, err)
	require.Equal(t, "-\x30\x09\x02\x04\x7f\xff\xff\xff\x50\x01\x05", string(got))
}

// Whatever a server sends, nothing panics, and a message that is found is written there.
func FuzzReplies(f *testing.F) {
	for _, seed := range [][]byte{done(1, 0), found(5, "cn=a", "sn", "1"), []byte("\x30\x82\x00\x04"), []byte("\x30\x02\x02\x00")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for len(data) > 0 {
			advance, token, err := protocol{}.Split(data, false)
			if err != nil || advance == 0 {
				return
			}
			require.LessOrEqual(t, advance, len(data))
			require.Equal(t, data[:advance], token)
			if _, r, _, err := (protocol{}).ParsePart(token); err == nil {
				_, _ = r.entry()
				_, _ = r.result(success)
			}
			data = data[advance:]
		}
	})
}
