package main

// Finding the library, and copying it.

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const library = "module go.atomizer.io/plex\n"

// findRoot returns the folder of the library that the working directory is in.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && bytes.HasPrefix(mod, []byte(library)) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("the working directory is not inside the library's repository")
		}
		dir = up
	}
}

// copyLibrary copies what the tests need: the library and faulttest.
func copyLibrary(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone while we looked, such as an editor's backup
			}
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case entry.IsDir() && name != "." && !wanted(name):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o644)
	})
}

// wanted reports whether a folder of the repository is needed: not Git's, the tools', and the like. Some tests of
// the library are about the workflows and the documents.
func wanted(folder string) bool {
	top, _, _ := strings.Cut(folder, string(filepath.Separator))
	switch top {
	case ".github", "faulttest", "testdata", "examples", "internal", "message", "plexdebug", "request", "docs":
		return true
	}
	return false
}
