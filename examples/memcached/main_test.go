package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	require.NoError(t, run(nil))
	require.ErrorContains(t, run([]string{"127.0.0.1:1"}), "connection refused")
}
