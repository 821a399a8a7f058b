package plex_test

// What the library brings into the programs of its users: itself, and the standard library.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// goTool runs the go command in a directory, with nothing of the caller's settings that would matter, and returns what it
// prints.
func goTool(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command")
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOWORK=off", "GOFLAGS="), env...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, said.String())
	return string(out)
}

// On every system: a file for one of them may import something, too.
func TestPackagesImportTheStandardLibraryAlone(t *testing.T) {
	for _, system := range []string{"linux", "darwin", "windows", "freebsd", "plan9", "js"} {
		arch := "amd64"
		if system == "js" {
			arch = "wasm"
		}
		out := goTool(t, ".", []string{"GOOS=" + system, "GOARCH=" + arch, "CGO_ENABLED=0"},
			"list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./...")
		packages := strings.Fields(out)
		require.Contains(t, packages, "go.atomizer.io/plex/request")
		for _, p := range packages {
			if p != "go.atomizer.io/plex" && !strings.HasPrefix(p, "go.atomizer.io/plex/") {
				t.Errorf("%s: a package imports %s", system, p)
			}
		}
	}
}

// A program that uses plex builds without a download, and its go.mod and go.sum name nothing else: what go.mod requires
// for the tests stays here.
func TestUsersDownloadNothing(t *testing.T) {
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	goVersion := strings.TrimSpace(goTool(t, ".", nil, "list", "-m", "-f", "{{.GoVersion}}"))

	dir := t.TempDir()
	module := fmt.Sprintf("module example.test/user\n\ngo %s\n\nrequire go.atomizer.io/plex v0.0.0\n\nreplace go.atomizer.io/plex => %q\n",
		goVersion, here)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(`package main

import (
	_ "go.atomizer.io/plex"
	_ "go.atomizer.io/plex/message"
	_ "go.atomizer.io/plex/request"
)

func main() {}
`), 0o600))

	goTool(t, dir, []string{"GOPROXY=off", "GOMODCACHE=" + t.TempDir()}, "build", "-mod=readonly", "-o", os.DevNull, ".")
	_, err = os.Stat(filepath.Join(dir, "go.sum"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
