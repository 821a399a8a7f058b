package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/faulttest/scaffold"
)

var (
	soakFor  = flag.Duration("soak.for", 2*time.Second, "how long TestSoak takes")
	soakSeed = flag.Uint64("soak.seed", 0, "its seed; 0 draws one")
)

// A short soak of many pools, so that each kind of pool and of end has its turn.
func TestSoak(t *testing.T) {
	o := options{lanes: len(lives), stops: canStop}
	o.Options = scaffold.Options{
		Length: *soakFor, Seed: *soakSeed, Capacity: 6, Faults: 10, Each: 200 * time.Millisecond, Verbose: true,
		Program: program,
	}.Drawn()
	var out bytes.Buffer
	f, err := run(context.Background(), o, &out)
	require.NoError(t, err)
	f.Print(&out)
	require.False(t, f.Failed(), out.String())
	t.Log(out.String())
}

func TestTheSameSeedDrivesTheSameFaults(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		a, b := still(t, seed).lanes[0], still(t, seed).lanes[0]
		a.mercy.Store(true) // no faults of the listener, for there is none
		b.mercy.Store(true)
		for n := range 200 {
			require.Equal(t, a.drawSetup(n), b.drawSetup(n))
		}
		a.mercy.Store(false)
		b.mercy.Store(false)
		drawn := make(map[connectorFault]int)
		for n := range uint64(20000) {
			f := a.drawConnectorFault(n)
			drawn[f]++
			require.Equal(t, f, b.drawConnectorFault(n))
		}
		require.Len(t, drawn, int(connectorFaults), "some fault is never drawn")
	}
}

// still is a soak that does not run.
func still(t *testing.T, seed uint64) *soak {
	o := scaffold.Options{Length: time.Second, Seed: seed, Capacity: 4, Faults: 10, Program: program}
	s, err := newSoak(options{Options: o, lanes: 1}, io.Discard)
	require.NoError(t, err)
	return s
}

func TestAFailureTellsItsHistory(t *testing.T) {
	s := still(t, 7)
	s.Tell = func() string { return "the last fault" }
	l := &link{number: 5}
	l.addr = linkAddr{fakeAddr("here"), l}
	for range 2 * trailLength {
		l.log.note("read", 10, nil)
	}
	s.fail(l, os.ErrInvalid)
	f := s.Verdict(s.Figures(""))
	require.True(t, f.Failed())
	var out strings.Builder
	f.Print(&out)
	for _, part := range []string{
		"go run ./soak -seed 7 -capacity 4", "connection 5 (here): invalid argument", "(40 steps before these)",
		"read 10 bytes", "the last fault",
	} {
		require.Contains(t, out.String(), part)
	}
}

type fakeAddr string

func (fakeAddr) Network() string  { return "fake" }
func (a fakeAddr) String() string { return string(a) }
