package main

// What a defect is, and how it gets into a copy of the library.

import (
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// defect is a deliberate mistake.
type defect struct {
	name  string
	what  string // in one line: what is wrong with a pool that has it
	pkg   string // the folder of the package, empty for the library's own
	edits []edit
	tests []suite // those that are known to catch it, in the order in which they are tried
}

// edit is changes to one declaration of the package: a function ("judge"), a method ("half.close", whether or not the
// receiver is a pointer), a constant, a variable or a type. It may be in any file.
type edit struct {
	name    string
	changes []change
}

// in names the declaration that is changed. The changes are made one after another.
func in(name string, changes ...change) edit { return edit{name, changes} }

// suite is tests of one package.
type suite struct {
	pkg   string   // "." is the library's, "faulttest" the table's; "./model" is below that, "internal/pace" in the library
	names []string // none means all
	tags  string   // for the build
}

// root names tests of the library itself, own tests of a package inside it, fault tests of a package in faulttest.
func root(names ...string) suite              { return suite{pkg: ".", names: names} }
func own(pkg string, names ...string) suite   { return suite{pkg: pkg, names: names} }
func fault(pkg string, names ...string) suite { return suite{pkg: pkg, names: names} }

// parked runs a suite with the poller of the systems that are not Linux.
func parked(s suite) suite {
	s.tags = "plexportable"
	return s
}

// program names what a suite is built into.
func (s suite) program() string {
	return strings.NewReplacer(".", "root", "/", "-").Replace(s.pkg) + s.tags + ".test"
}

// defects returns all of them.
func defects() []defect {
	return slices.Concat(
		leaseDefects, poolDefects, connectDefects, streamDefects, healDefects, watchDefects, readyDefects, reviewedDefects,
		wordDefects, lifeDefects, limitDefects, deadlineDefects, wayDefects, guardDefects, paceDefects, layerDefects(),
		partDefects(), debugDefects(),
	)
}

// apply plants d into the copy of the library at dir.
func (d defect) apply(dir string) error {
	dir = filepath.Join(dir, d.pkg)
	was, err := readFolder(dir)
	if err != nil {
		return err
	}
	is := maps.Clone(was)
	if err := d.plant(is); err != nil {
		return err
	}
	for file, text := range is {
		if text == was[file] {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// plant plants d into the files of its package.
func (d defect) plant(f folder) error {
	was := maps.Clone(f)
	for _, e := range d.edits {
		for _, c := range e.changes {
			if err := f.plant(e.name, c); err != nil {
				return fmt.Errorf("defect %s: %s: %w", d.name, e.name, err)
			}
		}
	}
	for file, text := range f {
		if text == was[file] {
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution); err != nil {
			return fmt.Errorf("defect %s: what comes of it is no Go: %w", d.name, err)
		}
	}
	if maps.Equal(f, was) {
		return fmt.Errorf("defect %s changes nothing", d.name)
	}
	return nil
}
