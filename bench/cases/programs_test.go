package cases

import (
	"errors"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/harness"
)

func TestAProgramThatIsMissingIsSaidToBe(t *testing.T) {
	c := program{name: "plex-no-such-program"}.needs(&harness.Case{})
	assert.Equal(t, "plex-no-such-program is not installed (on Debian: apt-get install plex-no-such-program)", c.Lacks)
	_, err := (&shared{program: program{name: "plex-no-such-program", args: redisServer.args}}).open()
	require.ErrorContains(t, err, "apt-get install plex-no-such-program")
}

func TestASharedServerLivesAsLongAsItsUsers(t *testing.T) {
	if lacks := redisServer.needs(&harness.Case{}).Lacks; lacks != "" && os.Getenv("CI") != "true" {
		t.Skip(lacks)
	}
	prepared := 0
	s := &shared{program: redisServer, ready: func(string) error { prepared++; return nil }}
	address, err := s.open()
	require.NoError(t, err)
	again, err := s.open()
	require.NoError(t, err)
	assert.Equal(t, address, again)
	require.NoError(t, s.close())
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err, "one still uses it")
	require.NoError(t, conn.Close())
	require.NoError(t, s.close())
	_, err = net.Dial("tcp", address)
	require.Error(t, err)
	assert.Equal(t, 1, prepared)

	broken := errors.New("broken")
	s.ready = func(string) error { return broken }
	_, err = s.open()
	require.ErrorIs(t, err, broken)
	_, err = net.Dial("tcp", s.address)
	require.Error(t, err, "nobody uses it")
}
