package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	before := runtime.NumGoroutine()
	err := run(nil)
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.ErrorContains(t, run([]string{"127.0.0.1:1"}), "connection refused")
	for begun := time.Now(); runtime.NumGoroutine() > before && time.Since(begun) < 20*time.Second; {
		time.Sleep(time.Millisecond)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
}
