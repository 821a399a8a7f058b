package resolver

import (
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/request"
)

func TestParse(t *testing.T) {
	wire := binary.BigEndian.AppendUint16(nil, 65535)
	wire = append(wire, 1<<7, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	id, reply, err := protocol{}.Parse(wire)
	require.NoError(t, err)
	require.EqualValues(t, 65535, id)
	require.Equal(t, wire, reply)

	wire[2] = 0
	_, _, err = protocol{}.Parse(wire)
	require.ErrorIs(t, err, request.ErrNotReply)
	_, _, err = protocol{}.Parse(wire[:11])
	require.ErrorContains(t, err, "a message of 11 bytes, want at least the 12 of a header")
}

// The identifier on the wire is the client's, and the caller's query keeps its own.
func TestAppend(t *testing.T) {
	query := new(dns.Msg).SetQuestion("plex.test.", dns.TypeA)
	query.Id = 7
	got, err := protocol{}.Append([]byte("before"), 4711, query)
	require.NoError(t, err)
	require.EqualValues(t, 7, query.Id)
	advance, wire, err := protocol{}.Split(got[len("before"):], false)
	require.NoError(t, err)
	require.Equal(t, len(got)-len("before"), advance)
	sent := new(dns.Msg)
	require.NoError(t, sent.Unpack(wire))
	require.EqualValues(t, 4711, sent.Id)
	require.Equal(t, query.Question, sent.Question)
}
