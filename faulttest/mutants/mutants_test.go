package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The library changes, and a defect must go on saying what it says.
func TestEveryDefectFindsItsPlaceInTheLibrary(t *testing.T) {
	root, err := findRoot()
	require.NoError(t, err)

	names := make(map[string]bool)
	for _, d := range defects() {
		t.Run(d.name, func(t *testing.T) {
			require.False(t, names[d.name], "there are two defects of this name")
			names[d.name] = true
			require.NotEmpty(t, d.what)

			dir := t.TempDir()
			files := map[string]string{d.file: ""}
			for _, e := range d.edits {
				if e.file != "" {
					files[e.file] = ""
				}
			}
			for file := range files {
				text, err := os.ReadFile(filepath.Join(root, file))
				require.NoError(t, err)
				files[file] = string(text)
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), text, 0o644))
			}
			require.NoError(t, d.apply(dir))
			for file, before := range files {
				changed, err := os.ReadFile(filepath.Join(dir, file))
				require.NoError(t, err)
				require.NotEqual(t, before, string(changed))
			}
		})
	}
}

func TestADefectThatDoesNotFindItsPlaceSaysSo(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.go"), []byte("one two two"), 0o644))
	for _, old := range []string{"two", "three"} {
		d := defect{name: "some", file: "a.go", edits: []edit{{old: old, new: "x"}}}
		require.ErrorContains(t, d.apply(dir), "exactly once")
	}
}

func TestTheCulpritIsFoundInTheOutputOfTests(t *testing.T) {
	for _, c := range []struct{ output, by, how string }{
		{"=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n=== RUN   TestB/x\n    --- FAIL: TestB/x (0.00s)\n--- FAIL: TestB (0.00s)\nFAIL\n", "TestB/x", "fails"},
		{"=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\npanic: test timed out after 1m0s\n\trunning tests:\n", "TestB", "hangs"},
		{"=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\npanic: send on closed channel\n", "TestB", "panics"},
		{"=== RUN   TestA\nfatal error: all goroutines are asleep - deadlock!\n", "TestA", "panics"},
	} {
		by, how := culprit(c.output)
		require.Equal(t, c.by, by)
		require.Equal(t, c.how, how)
	}
}
