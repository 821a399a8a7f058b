package main

// What a defect is, and how it gets into a copy of the library.

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// defect is a deliberate mistake.
type defect struct {
	name  string
	what  string // in one line: what is wrong with a pool that has it
	file  string // of the library
	edits []edit
	tests []suite // those that are known to catch it, in the order in which they are tried
}

// edit replaces a text that occurs exactly once in the file.
type edit struct {
	old, new string
	file     string // another than the defect's, if not empty
}

// suite is tests of one package.
type suite struct {
	pkg   string   // "." is the library's, "faulttest" the table's, others are below it, such as "./model"
	names []string // none means all
}

// root names tests of the library itself, fault tests of a package in faulttest.
func root(names ...string) suite              { return suite{".", names} }
func fault(pkg string, names ...string) suite { return suite{pkg, names} }

// defects returns all of them.
func defects() []defect {
	return slices.Concat(leaseDefects, poolDefects, connectDefects, streamDefects, healDefects, watchDefects, readyDefects, reviewedDefects, layerDefects())
}

// apply plants d into the copy of the library at dir.
func (d defect) apply(dir string) error {
	for i, e := range d.edits {
		file := d.file
		if e.file != "" {
			file = e.file
		}
		path := filepath.Join(dir, file)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := bytes.Count(text, []byte(e.old)); n != 1 {
			return fmt.Errorf("defect %s: the old text of edit %d is %d times in %s, it has to be there exactly once:\n%s",
				d.name, i+1, n, file, e.old)
		}
		if err := os.WriteFile(path, bytes.Replace(text, []byte(e.old), []byte(e.new), 1), 0o644); err != nil {
			return err
		}
	}
	return nil
}
