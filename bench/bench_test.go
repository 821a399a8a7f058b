package bench_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

// other is the process at the other end of the connections.
var other *peer.Process

func TestMain(m *testing.M) {
	peer.Main()
	var err error
	if other, err = peer.Start(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = other.Close() // it has nothing to say
	os.Exit(code)
}

// BenchmarkCases runs every case as an ordinary benchmark, one subject after
// the other: for profiles, and to compare two versions with benchstat. To
// compare the subjects with each other, run the report, which pairs them.
func BenchmarkCases(b *testing.B) {
	for _, c := range cases.All(other) {
		if c.Lacks != "" {
			b.Logf("%s is left out: %s", c.Name, c.Lacks)
			continue
		}
		for _, s := range c.Subjects {
			b.Run(c.Name+"/"+s.Name, func(b *testing.B) { benchmark(b, s) })
		}
	}
}

func benchmark(b *testing.B, s harness.Subject) {
	work, err := s.Open()
	require.NoError(b, err)
	defer work.Close()
	b.ReportAllocs()
	b.ResetTimer()
	sample, err := work.Run(b.N)
	b.StopTimer()
	require.NoError(b, err)
	for key, v := range sample.Figures {
		b.ReportMetric(v, key) // also the time, if the case measures it itself
	}
}
