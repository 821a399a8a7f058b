package main

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// However the bytes arrive, the messages are the same.
func TestSplit(t *testing.T) {
	messages := []string{
		`INFO {"server_id":"X"}`, "PONG", "+OK", "PING", "-ERR 'Stale Connection'",
		"MSG a.b 1 5\r\nhello", "MSG a 12 reply.to 0\r\n", "MSG a 1 4\r\n\r\n\r\n", "MSG a 1 6\r\nPING\r\n", "",
	}
	stream := strings.Join(messages, "\r\n") + "\r\n"
	for name, r := range map[string]io.Reader{
		"at once":      strings.NewReader(stream),
		"byte by byte": iotest.OneByteReader(strings.NewReader(stream)),
		"by halves":    iotest.HalfReader(strings.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			s := bufio.NewScanner(r)
			s.Split(split)
			for s.Scan() {
				got = append(got, s.Text())
			}
			require.NoError(t, s.Err())
			require.Equal(t, messages, got)
		})
	}
}

func TestSplitOfWhatIsNotThereYet(t *testing.T) {
	for _, part := range []string{"P", "PING\r", "MSG a 1", "MSG a 1 5\r\n", "MSG a 1 5\r\nhello", "MSG a 1 5\r\nhello\r"} {
		advance, token, err := split([]byte(part), false)
		require.NoError(t, err, part)
		require.Zero(t, advance, part)
		require.Nil(t, token, part)

		_, _, err = split([]byte(part), true)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, part)
	}
	_, _, err := split(nil, true)
	require.NoError(t, err)
}

func TestSplitFindsNonsense(t *testing.T) {
	for data, says := range map[string]string{
		"MSG a 1\tx\r\n":                        "has no size of a payload",
		"MSG a 1 -1\r\n":                        "has no size of a payload",
		"MSG a 1 99999999999\r\n":               "has no size of a payload",
		"MSG a 1 5\r\nhello world\r\n":          "does not end where",
		strings.Repeat("x", maxLine+1):          "a line of more than 65536 bytes",
		strings.Repeat("x", maxLine+1) + "\r\n": "a line of more than 65536 bytes",
	} {
		_, _, err := split([]byte(data), false)
		require.ErrorContains(t, err, says, "%.40q", data)
	}
}

func TestParseMSG(t *testing.T) {
	sid, m, err := parseMSG([]byte("MSG a.b 7 3\r\na\r\n"))
	require.NoError(t, err)
	require.Equal(t, 7, sid)
	require.Equal(t, Msg{Subject: "a.b", Data: []byte("a\r\n")}, m)

	sid, m, err = parseMSG([]byte("MSG a 1 _INBOX.x 0\r\n"))
	require.NoError(t, err)
	require.Equal(t, 1, sid)
	require.Equal(t, Msg{Subject: "a", Reply: "_INBOX.x", Data: []byte{}}, m)

	for frame, says := range map[string]string{
		"MSG a 0\r\n":         "has 3 words",
		"MSG a 1 b c 0\r\n":   "has 6 words",
		"MSG a first 0\r\n":   "has no number of a subscription",
		"MSG a first b 0\r\n": "has no number of a subscription",
	} {
		_, _, err := parseMSG([]byte(frame))
		require.ErrorContains(t, err, says, frame)
	}
}

func TestAppendPUB(t *testing.T) {
	for want, m := range map[string]Msg{
		"PUB a.b 5\r\nhello\r\n":           {Subject: "a.b", Data: []byte("hello")},
		"PUB a 0\r\n\r\n":                  {Subject: "a"},
		"PUB a reply.to 2\r\n\r\n\r\n":     {Subject: "a", Reply: "reply.to", Data: []byte("\r\n")},
		"PUB a 6\r\nPING\r\n" + "\r\n":     {Subject: "a", Data: []byte("PING\r\n")},
		"PUB a 12\r\nPUB b 1\r\nc\r\n\r\n": {Subject: "a", Data: []byte("PUB b 1\r\nc\r\n")},
	} {
		require.Equal(t, "before "+want, string(appendPUB([]byte("before "), m)))
	}
}

func TestSubjects(t *testing.T) {
	for _, subject := range []string{"a", "a.b.c", "_INBOX.x", "a*", "ü.ß", "$SYS.REQ"} {
		require.NoError(t, checkSubject(subject, false), subject)
		require.NoError(t, checkSubject(subject, true), subject)
	}
	for _, subject := range []string{"*", ">", "a.*.b", "a.>"} {
		require.ErrorContains(t, checkSubject(subject, false), "which only a subscription may have", subject)
		require.NoError(t, checkSubject(subject, true), subject)
	}
	for subject, says := range map[string]string{
		"":                                "an empty subject",
		".":                               "has an empty part",
		"a.":                              "has an empty part",
		".a":                              "has an empty part",
		"a..b":                            "has an empty part",
		"a.>.b":                           "goes on behind >",
		"a b":                             `has byte 0x20`,
		"a\r\nPUB b 0":                    `has byte 0xd`,
		"a\t":                             `has byte 0x9`,
		"a\x7f":                           `has byte 0x7f`,
		strings.Repeat("a", maxSubject+1): "a subject of 1025 bytes, want at most 1024",
	} {
		require.ErrorContains(t, checkSubject(subject, true), says, "%.40q", subject)
	}
}

func TestParseINFO(t *testing.T) {
	info, err := parseINFO([]byte(`INFO {"server_id":"A","version":"2.12","max_payload":7,"tls_required":true,"more":[1]} `))
	require.NoError(t, err)
	require.Equal(t, serverInfo{ID: "A", Version: "2.12", MaxPayload: 7, TLSRequired: true}, info)

	_, err = parseINFO([]byte("HTTP/1.1 400 Bad Request"))
	require.ErrorContains(t, err, "want INFO: is it a NATS server?")
	_, err = parseINFO([]byte("INFO {"))
	require.ErrorContains(t, err, `begins with "INFO {"`)
}

// Whatever a server sends, split and parseMSG keep to the bytes that are there, and what they leave out is the \r\n.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{
		"PING\r\n", "MSG a 1 5\r\nhello\r\n", "MSG a 1 b 0\r\n\r\n", "MSG  1\r\n", "MSG a 1 5\r\nhel", "\r\n\r\n",
		"-ERR 'x'\r\n",
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
			require.Equal(t, append(bytes.Clone(token), crlf...), data[:advance])
			if isMSG(token) {
				if _, m, err := parseMSG(token); err == nil {
					require.True(t, bytes.HasSuffix(token, m.Data))
				}
			}
			data = data[advance:]
		}
	})
}
