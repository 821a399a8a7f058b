package main

import (
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A defect that does not compile would be found by the gate only, after minutes.
func TestEveryDefectCompiles(t *testing.T) {
	root, err := findRoot()
	require.NoError(t, err)
	packages := libraryFolders(t)
	cgo := build.Default.CgoEnabled
	t.Cleanup(func() { build.Default.CgoEnabled = cgo })
	build.Default.CgoEnabled = false // package net has sources that need no C compiler, too
	set := token.NewFileSet()
	checker := types.Config{Importer: &sources{
		from: importer.ForCompiler(set, "source", nil).(types.ImporterFrom), dir: root, read: make(map[string]*types.Package),
	}}
	parsed := make(map[string]*ast.File) // by their text; a defect changes one or two
	for _, d := range defects() {
		t.Run(d.name, func(t *testing.T) {
			f := maps.Clone(packages[d.pkg])
			require.NoError(t, d.plant(f))
			var files []*ast.File
			for name, text := range f {
				ours, err := build.Default.MatchFile(filepath.Join(root, d.pkg), name)
				require.NoError(t, err)
				if !ours {
					continue // another operating system's
				}
				if parsed[text] == nil {
					parsed[text], err = parser.ParseFile(set, name, text, parser.SkipObjectResolution)
					require.NoError(t, err)
				}
				files = append(files, parsed[text])
			}
			_, err := checker.Check(d.pkg, set, files, nil)
			require.NoError(t, err)
		})
	}
}

// sources imports packages from their sources, as they are seen from a folder, each once.
type sources struct {
	from types.ImporterFrom
	dir  string
	read map[string]*types.Package
}

func (s *sources) Import(path string) (*types.Package, error) {
	if p := s.read[path]; p != nil {
		return p, nil
	}
	p, err := s.from.ImportFrom(path, s.dir, 0)
	s.read[path] = p
	return p, err
}
