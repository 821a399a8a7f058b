package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// run fails by itself if the shares do not become even again, or a reply is wrong.
func TestRun(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(&out))
	t.Log(out.String())
	for _, note := range []string{"server 2 goes down", "server 2 is back", "all have the same again"} {
		require.Contains(t, out.String(), note)
	}
}
