package message_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

func TestLinesAndDelimiter(t *testing.T) {
	for _, c := range []struct {
		name, data string
		split      bufio.SplitFunc
		atEOF      bool
		advance    int
		token      string
		nothing    bool // no message
		err        error
	}{
		{"a line", "one\ntwo\n", message.Lines, false, 4, "one", false, nil},
		{"with a return", "one\r\ntwo", message.Lines, false, 5, "one", false, nil},
		{"only the last return goes", "\ra\r\r\n", message.Lines, false, 5, "\ra\r", false, nil},
		{"an empty line", "\nx", message.Lines, false, 1, "", false, nil},
		{"an empty line with a return", "\r\n", message.Lines, true, 2, "", false, nil},
		{"no line yet", "one\r", message.Lines, false, 0, "", true, nil},
		{"no line any more", "one\r", message.Lines, true, 0, "", true, io.ErrUnexpectedEOF},
		{"no data", "", message.Lines, false, 0, "", true, nil},
		{"the end", "", message.Lines, true, 0, "", true, nil},
		{"delimited", "one--two", message.Delimiter([]byte("--")), false, 5, "one", false, nil},
		{"empty", "--two", message.Delimiter([]byte("--")), false, 2, "", false, nil},
		{"half a delimiter", "one-", message.Delimiter([]byte("--")), false, 0, "", true, nil},
		{"half a delimiter at the end", "one-", message.Delimiter([]byte("--")), true, 0, "", true, io.ErrUnexpectedEOF},
		{"the end of the delimited", "", message.Delimiter([]byte("--")), true, 0, "", true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			advance, token, err := c.split([]byte(c.data), c.atEOF)
			require.Equal(t, c.err, err)
			require.Equal(t, c.advance, advance)
			require.Equal(t, c.token, string(token))
			require.Equal(t, c.nothing, token == nil)
		})
	}
}

func TestDelimiterKeepsACopy(t *testing.T) {
	delimiter := []byte{0}
	split := message.Delimiter(delimiter)
	delimiter[0] = 'x'
	advance, token, err := split([]byte("axb\x00"), false)
	require.NoError(t, err)
	require.Equal(t, 4, advance)
	require.Equal(t, "axb", string(token))
	require.Nil(t, message.Delimiter([]byte{}))
}

func TestPrefixSplit(t *testing.T) {
	little := binary.LittleEndian
	for _, c := range []struct {
		name    string
		p       message.Prefix
		data    string
		atEOF   bool
		advance int
		token   string
		nothing bool
	}{
		{"1 byte", message.Prefix{Bytes: 1}, "\x03onetwo", false, 4, "one", false},
		{"2 bytes", message.Prefix{Bytes: 2}, "\x00\x03onetwo", false, 5, "one", false},
		{"4 bytes", message.Prefix{Bytes: 4}, "\x00\x00\x00\x03onetwo", false, 7, "one", false},
		{"8 bytes", message.Prefix{Bytes: 8}, "\x00\x00\x00\x00\x00\x00\x00\x03onetwo", false, 11, "one", false},
		{"2 bytes, little", message.Prefix{Bytes: 2, Order: little}, "\x03\x00onetwo", false, 5, "one", false},
		{"4 bytes, little", message.Prefix{Bytes: 4, Order: little}, "\x03\x00\x00\x00onetwo", false, 7, "one", false},
		{
			"8 bytes, little",
			message.Prefix{Bytes: 8, Order: little},
			"\x03\x00\x00\x00\x00\x00\x00\x00one", true, 11, "one", false,
		},
		{"big as asked", message.Prefix{Bytes: 2, Order: binary.BigEndian}, "\x00\x03onetwo", false, 5, "one", false},
		{"counting itself", message.Prefix{Bytes: 4, Inclusive: true}, "\x00\x00\x00\x07onetwo", false, 7, "one", false},
		{"1 byte counting itself", message.Prefix{Bytes: 1, Inclusive: true}, "\x04onetwo", false, 4, "one", false},
		{"empty", message.Prefix{Bytes: 2}, "\x00\x00x", false, 2, "", false},
		{"empty, counting itself", message.Prefix{Bytes: 2, Inclusive: true}, "\x00\x02x", false, 2, "", false},
		{"no data", message.Prefix{Bytes: 2}, "", false, 0, "", true},
		{"the end", message.Prefix{Bytes: 2}, "", true, 0, "", true},
		{"half a prefix", message.Prefix{Bytes: 2}, "\x00", false, 0, "", true},
		{"the prefix alone", message.Prefix{Bytes: 2}, "\x00\x01", false, 0, "", true},
		{"all but a byte", message.Prefix{Bytes: 2}, "\x00\x02x", false, 0, "", true},
		{"the longest", message.Prefix{Bytes: 1, Max: 3}, "\x03one", false, 4, "one", false},
		{"the longest by default", message.Prefix{Bytes: 4}, "\x00\x10\x00\x00", false, 0, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			advance, token, err := c.p.Split([]byte(c.data), c.atEOF)
			require.NoError(t, err)
			require.Equal(t, c.advance, advance)
			require.Equal(t, c.token, string(token))
			require.Equal(t, c.nothing, token == nil)
		})
	}
}

// It returns the error as soon as the prefix has arrived, before any of the message has.
func TestPrefixSplitRefusesALengthAtOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		p    message.Prefix
		data string
		size uint64 // of a TooLongError; 0 for another error
		says string
	}{
		{"beyond Max", message.Prefix{Bytes: 2, Max: 9}, "\x00\x0a", 10, "10 bytes or more; at most 9 are allowed"},
		{"beyond Max, counting itself", message.Prefix{Bytes: 2, Max: 9, Inclusive: true}, "\x00\x0c", 10, "9 are allowed"},
		{"beyond the default", message.Prefix{Bytes: 4}, "\x00\x10\x00\x01", 1<<20 + 1, "1048576 are allowed"},
		{"text", message.Prefix{Bytes: 4}, "HTTP", 0x48545450, "1048576 are allowed"},
		{"beyond an int", message.Prefix{Bytes: 8, Max: math.MaxInt}, "\xff\xff\xff\xff\xff\xff\xff\xff", math.MaxUint64, ""},
		{"just beyond an int", message.Prefix{Bytes: 8, Max: math.MaxInt}, "\x80\x00\x00\x00\x00\x00\x00\x00", 1 << 63, ""},
		{
			"beyond an int, counting itself",
			message.Prefix{Bytes: 8, Max: math.MaxInt, Inclusive: true},
			"\xff\xff\xff\xff\xff\xff\xff\xff", math.MaxUint64 - 8, "",
		},
		{"too short to count itself", message.Prefix{Bytes: 4, Inclusive: true}, "\x00\x00\x00\x03", 0, "4 bytes says 3"},
		{"0, counting itself", message.Prefix{Bytes: 1, Inclusive: true}, "\x00", 0, "1 bytes says 0"},
		{"no size", message.Prefix{}, "\x00", 0, "Bytes is 0; it must be 1, 2, 4 or 8"},
		{"a size of 3", message.Prefix{Bytes: 3}, "", 0, "Bytes is 3; it must be 1, 2, 4 or 8"},
		{"a Max below 0", message.Prefix{Bytes: 2, Max: -1}, "\x00\x00", 0, "Max is -1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			advance, token, err := c.p.Split([]byte(c.data), false)
			require.ErrorContains(t, err, c.says)
			require.Zero(t, advance)
			require.Nil(t, token)
			var long *message.TooLongError
			require.Equal(t, c.size != 0, errors.As(err, &long))
			if c.size != 0 {
				require.Equal(t, c.size, long.Size)
			}
		})
	}
	// The arithmetic does not overflow for the longest length.
	longest := message.Prefix{Bytes: 8, Max: math.MaxInt}
	advance, token, err := longest.Split(binary.BigEndian.AppendUint64(nil, math.MaxInt), false)
	require.NoError(t, err)
	require.Zero(t, advance)
	require.Nil(t, token)
}

func TestPrefixSplitAtTheEnd(t *testing.T) {
	for _, data := range []string{"\x00", "\x00\x02", "\x00\x02x"} {
		_, _, err := message.Prefix{Bytes: 2}.Split([]byte(data), true)
		require.Equal(t, io.ErrUnexpectedEOF, err, "%q", data)
	}
	s := bufio.NewScanner(strings.NewReader("\x00\x01a\x00\x02b"))
	s.Split(message.Prefix{Bytes: 2}.Split)
	require.True(t, s.Scan())
	require.Equal(t, "a", s.Text())
	require.False(t, s.Scan())
	require.Equal(t, io.ErrUnexpectedEOF, s.Err(), "a Scanner reports it too")
}

func TestPrefixAppend(t *testing.T) {
	for _, c := range []struct {
		p    message.Prefix
		want string
	}{
		{message.Prefix{Bytes: 1}, "=\x03abc"},
		{message.Prefix{Bytes: 2}, "=\x00\x03abc"},
		{message.Prefix{Bytes: 4}, "=\x00\x00\x00\x03abc"},
		{message.Prefix{Bytes: 8}, "=\x00\x00\x00\x00\x00\x00\x00\x03abc"},
		{message.Prefix{Bytes: 2, Order: binary.LittleEndian}, "=\x03\x00abc"},
		{message.Prefix{Bytes: 4, Order: binary.LittleEndian, Inclusive: true}, "=\x07\x00\x00\x00abc"},
		{message.Prefix{Bytes: 8, Order: binary.LittleEndian}, "=\x03\x00\x00\x00\x00\x00\x00\x00abc"},
		{message.Prefix{Bytes: 1, Inclusive: true}, "=\x04abc"},
	} {
		got, err := c.p.Append([]byte("="), []byte("abc"))
		require.NoError(t, err)
		require.Equal(t, c.want, string(got), "%+v", c.p)

		advance, token, err := c.p.Split(got[1:], true)
		require.NoError(t, err)
		require.Equal(t, len(c.want)-1, advance)
		require.Equal(t, "abc", string(token), "%+v", c.p)
	}
	dst := make([]byte, 1, 64)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = message.Prefix{Bytes: 4}.Append(dst, dst)
	}), "allocations where there is room")
}

func TestPrefixAppendRefusesWhatThePrefixCannotSay(t *testing.T) {
	for _, c := range []struct {
		name    string
		p       message.Prefix
		longest int
	}{
		{"1 byte", message.Prefix{Bytes: 1}, 255},
		{"1 byte that counts itself", message.Prefix{Bytes: 1, Inclusive: true}, 254},
		{"2 bytes", message.Prefix{Bytes: 2}, 65535},
		{"2 bytes that count themselves", message.Prefix{Bytes: 2, Inclusive: true}, 65533},
		{"4 bytes, by default", message.Prefix{Bytes: 4}, message.DefaultMaxSize},
		{"8 bytes, with a Max", message.Prefix{Bytes: 8, Max: 2 << 20}, 2 << 20},
		{"1 byte, with a Max below", message.Prefix{Bytes: 1, Max: 7}, 7},
		{"1 byte, with a Max beyond", message.Prefix{Bytes: 1, Max: 700}, 255},
	} {
		t.Run(c.name, func(t *testing.T) {
			framed, err := c.p.Append(nil, make([]byte, c.longest))
			require.NoError(t, err)
			_, token, err := c.p.Split(framed, false)
			require.NoError(t, err)
			require.Len(t, token, c.longest)

			dst := []byte("dst")
			got, err := c.p.Append(dst, make([]byte, c.longest+1))
			var long *message.TooLongError
			require.ErrorAs(t, err, &long)
			require.Equal(t, &message.TooLongError{Size: uint64(c.longest) + 1, Max: c.longest}, long)
			require.Equal(t, dst, got)
		})
	}
	_, err := message.Prefix{Bytes: 5}.Append(nil, nil)
	require.ErrorContains(t, err, "Bytes is 5; it must be 1, 2, 4 or 8")
}

// splits returns the split functions that the fuzz test uses.
func splits() []bufio.SplitFunc {
	return []bufio.SplitFunc{
		message.Lines, message.Delimiter([]byte("ab")),
		message.Prefix{Bytes: 1}.Split, message.Prefix{Bytes: 1, Inclusive: true, Max: 20}.Split,
		message.Prefix{Bytes: 2, Order: binary.LittleEndian, Max: 300}.Split,
		bufio.ScanLines, bufio.ScanWords, bufio.ScanRunes, bufio.ScanBytes,
	}
}

// FuzzMessagesAreThoseOfAScanner delivers the same bytes in many different pieces, to loops that
// are left now and then. It expects the messages that bufio.Scanner finds in them, and then the
// Scanner's error, if there is one.
func FuzzMessagesAreThoseOfAScanner(f *testing.F) {
	for split := range splits() {
		for _, data := range []string{
			"", "one\ntwo\r\n\nthree", "\x03one\x00\x03two\x05fo", "xabyabab", " a  bc d ", "\x04\xff\xfe\x01ä",
		} {
			for _, cuts := range []string{"", "\x01", "\x02\x01\x83", "\xff\x03"} {
				f.Add(uint8(split), data, cuts)
			}
		}
	}
	f.Fuzz(func(t *testing.T, split uint8, data, cuts string) {
		if len(data) > 4000 {
			return
		}
		f := splits()[int(split)%len(splits())]
		want, problem := scanned(f, data)

		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			// Each byte of cuts is the length of a piece. If its upper bit is set, time passes
			// after the piece.
			c := w.peers[0]
			var sender sync.WaitGroup
			defer sender.Wait()
			sender.Go(func() {
				rest := data
				for i := 0; len(rest) > 0; i++ {
					n := len(rest)
					if len(cuts) > 0 {
						cut := cuts[i%len(cuts)]
						n = min(n, max(1, int(cut&0x7f)))
						if cut&0x80 != 0 {
							settle()
						}
					}
					c.SendSegments(rest[:n])
					rest = rest[n:]
				}
				_ = c.CloseWrite()
			})
			r := receiver(w, m, f)
			var (
				words []string
				wrong string
				end   error
			)
			for leave := 1; end == nil; leave = leave%5 + 1 {
				n := 0
				for m, err := range r.All(w.Context()) {
					switch {
					case m.Conn == plex.Conn{}:
						end = err
					case err != nil:
						require.Empty(w, wrong, "two errors of one connection")
						wrong, _, _ = strings.Cut(word(m, err), "(")
					default:
						require.Empty(w, wrong, "a message behind an error")
						words = append(words, string(m.Data))
					}
					if n++; n == leave {
						break
					}
				}
			}
			require.ErrorIs(w, end, plex.ErrNoConnections)
			require.Equal(w, want, words)
			require.Equal(w, problem, wrong)
			synctest.Wait() // until plex has told that a killed connection has ended
			require.Zero(w, r.Leftovers())
		})
	})
}

// scanned returns what a bufio.Scanner finds, and the kind of its error as word returns it.
func scanned(split bufio.SplitFunc, data string) (words []string, problem string) {
	s := bufio.NewScanner(iotest.OneByteReader(strings.NewReader(data)))
	s.Split(split)
	for s.Scan() {
		words = append(words, s.Text())
	}
	var long *message.TooLongError
	switch err := s.Err(); {
	case err == nil:
	case errors.Is(err, io.ErrUnexpectedEOF):
		problem = "cut"
	case errors.As(err, &long):
		problem = "long"
	default:
		problem = "split"
	}
	return words, problem
}
