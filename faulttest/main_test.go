package faulttest_test

// The seed of everything random in the tests, and the way into the subprocesses that some of them need.

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

var seedFlag = flag.Uint64("seed", 0, "seed of everything random; 0 is a new one (environment: PLEX_SEED)")

// seed is what all that is random depends on.
var seed uint64

func TestMain(m *testing.M) {
	flag.Parse()
	seed = *seedFlag
	if s := os.Getenv("PLEX_SEED"); seed == 0 && s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			fmt.Fprintln(os.Stderr, "PLEX_SEED:", err)
			os.Exit(2)
		}
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	code := m.Run()
	if code != 0 || testing.Verbose() {
		fmt.Fprintf(os.Stderr, "seed %d; to have the same again: go test . -seed %d\n", seed, seed)
	}
	os.Exit(code)
}

// random is the test's own source, so that it does not depend on which tests have run before.
func random(t testing.TB) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.Name())) // a hash never fails
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
