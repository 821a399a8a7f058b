package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// The library changes, and a defect must go on saying what it says.
func TestEveryDefectFindsItsPlaceInTheLibrary(t *testing.T) {
	packages := libraryFolders(t)
	names := make(map[string]bool)
	for _, d := range defects() {
		t.Run(d.name, func(t *testing.T) {
			require.False(t, names[d.name], "there are two defects of this name")
			names[d.name] = true
			require.NotEmpty(t, d.what)
			require.NotEmpty(t, d.tests)
			require.NoError(t, d.plant(maps.Clone(packages[d.pkg])))
		})
	}
}

// What plant makes of the files of a package is written to where they are, and nothing else is touched.
func TestADefectIsPlantedIntoACopy(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "message"), 0o755))
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "message", name), []byte(text), 0o644))
	}
	write("a.go", "package message\n\nfunc a() { println(1) }\n")
	write("b.go", "package message\n\nfunc b() {}\n")
	write("b_test.go", "package message\n\nfunc a() {}\n") // in another package, as far as the library goes
	d := defect{name: "some", pkg: "message", edits: []edit{in("a", replace("1", "2"))}}
	require.NoError(t, d.apply(dir))
	f, err := readFolder(filepath.Join(dir, "message"))
	require.NoError(t, err)
	require.Equal(t, folder{
		"a.go": "package message\n\nfunc a() { println(2) }\n",
		"b.go": "package message\n\nfunc b() {}\n",
	}, f)

	require.ErrorContains(t, d.apply(dir), `defect some: a: the marker "1" is not there`)
	require.Error(t, defect{name: "some", pkg: "elsewhere"}.apply(dir))
}

func TestADefectThatChangesNothingSaysSo(t *testing.T) {
	d := defect{name: "some", edits: []edit{in("a", replace("1", "1"))}}
	require.ErrorContains(t, d.plant(folder{"a.go": "package p; func a() { b(1) }"}), "defect some changes nothing")
}

func TestADefectThatMakesNoGoSaysSo(t *testing.T) {
	d := defect{name: "some", edits: []edit{in("a", replace("1", "(1"))}}
	require.ErrorContains(t, d.plant(folder{"a.go": "package p; func a() { b(1) }"}), "defect some: what comes of it is no Go: a.go:1:")
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

func TestThePartsAreAllDefectsOnce(t *testing.T) {
	all := make([]defect, 11)
	for i := range all {
		all[i].name = string(rune('a' + i))
	}
	for _, n := range []string{"1", "2", "3", "12"} {
		count := map[string]int{}
		parts, err := strconv.Atoi(n)
		require.NoError(t, err)
		for i := range parts {
			some, err := partOf(all, fmt.Sprintf("%d/%s", i+1, n))
			require.NoError(t, err)
			for _, d := range some {
				count[d.name]++
			}
		}
		require.Len(t, count, len(all))
		for name, times := range count {
			require.Equal(t, 1, times, name)
		}
	}
	for _, bad := range []string{"", "1", "0/2", "3/2", "x/y", "1/0"} {
		_, err := partOf(all, bad)
		require.ErrorContains(t, err, "give i/n", bad)
	}
}
