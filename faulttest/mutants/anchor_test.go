package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// libraryFolders reads the packages that there are defects of.
func libraryFolders(t *testing.T) map[string]folder {
	root, err := findRoot()
	require.NoError(t, err)
	packages := make(map[string]folder)
	for _, d := range defects() {
		if packages[d.pkg] == nil {
			packages[d.pkg], err = readFolder(filepath.Join(root, d.pkg))
			require.NoError(t, err)
		}
	}
	return packages
}

// rewritten is a package as it might look after years of tidying: all declarations are in one file, in the opposite
// order, each on one line, and other comments are everywhere.
func rewritten(t *testing.T, f folder) folder {
	var imports, others []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, f[name], 0)
		require.NoError(t, err)
		for _, d := range file.Decls {
			text := f[name][set.Position(d.Pos()).Offset:set.Position(d.End()).Offset]
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT {
				imports = append(imports, onOneLine(t, text))
			} else {
				others = append(others, onOneLine(t, text))
			}
		}
	}
	slices.Reverse(others)
	return folder{"all.go": "package p\n" + strings.Join(imports, "\n") + "\n" + strings.Join(others, "\n") + "\n"}
}

// onOneLine has what the compiler sees of a text, with comments instead of white space.
func onOneLine(t *testing.T, text string) string {
	var b strings.Builder
	require.NoError(t, scan(text, func(w word) { b.WriteString(w.text + " /* replace(1) */ ") }))
	return b.String()
}

func TestAnchorsSurviveAnotherLayoutOtherCommentsAndAMoveToAnotherFile(t *testing.T) {
	packages := libraryFolders(t)
	moved := make(map[string]folder)
	for pkg, f := range packages {
		moved[pkg] = rewritten(t, f)
	}
	// texts is what a defect has made of the declarations that it is about, in any order: a name may be declared
	// once for each system.
	texts := func(d defect, f folder) (all []string) {
		for _, e := range d.edits {
			found, err := f.declared(e.name)
			require.NoError(t, err)
			for _, p := range wholes(found) {
				ws, err := words(p.text[p.marker.from:p.marker.to])
				require.NoError(t, err)
				var text strings.Builder
				for _, w := range ws {
					text.WriteString(w.text + " ")
				}
				all = append(all, text.String())
			}
		}
		slices.Sort(all)
		return all
	}
	for _, d := range defects() {
		t.Run(d.name, func(t *testing.T) {
			here, there := maps.Clone(packages[d.pkg]), maps.Clone(moved[d.pkg])
			require.NoError(t, d.plant(here))
			require.NoError(t, d.plant(there))
			require.Equal(t, texts(d, here), texts(d, there))
		})
	}
}

func TestAnchorsFindWhateverIsDeclared(t *testing.T) {
	f := folder{
		"a.go": "package p\n\nvar a, b = 1, f()\n\nconst (\n\tc = iota\n\td\n)\n\nfunc e() {}\n",
		"b.go": "package p\n\ntype t[K, V any] struct{ k K }\n\nfunc (x *t[K, V]) e() {}\nfunc ((x) u) e() {}\nfunc (*v[K]) e() {}\n",
	}
	f["b.go"] = strings.Replace(f["b.go"], "((x) u)", "(x (u))", 1)
	for _, c := range []struct{ name, at string }{
		{"a", "a.go:3"},
		{"b", "a.go:3"},
		{"d", "a.go:7"},
		{"e", "a.go:10"},
		{"t", "b.go:3"},
		{"t.e", "b.go:5"},
		{"u.e", "b.go:6"},
		{"v.e", "b.go:7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := f.declared(c.name)
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.Equal(t, c.at, found[0].at(found[0].span(found[0].node).from))
		})
	}
}

func TestAnchorsIgnoreLayoutAndComments(t *testing.T) {
	for _, c := range []struct{ text, marker string }{
		{"f(1,\n\t// one\n\t2,\n)", "f(1, 2)"},
		{"f(1, 2)", "f(\n1,\n2,\n)"},
		{"x = []int{\n\t1, // one\n\t2,\n}", "[]int{1,2}"},
		{"if a { b(); c() }", "{\nb()\nc()\n}"},
		{"if a {\n\tb()\n\n\t// and\n\tc()\n}", "{ b(); c() }"},
		{"a := `x\ny`", "`x\ny`"},
		{"a  :=  b /* */ . c", "a := b.c"},
	} {
		t.Run(c.marker, func(t *testing.T) {
			_, err := folder{"a.go": "package p\nfunc f() {\n" + c.text + "\n}\n"}.locate("f", "", c.marker, 0)
			require.NoError(t, err)
		})
	}
}

func TestAnchorsThatFindNoPlaceSaySo(t *testing.T) {
	f := folder{
		"a.go": "package p\n\nfunc (q *queue) put(h *half) {\n\tif h == nil {\n\t\tq.n++\n\t}\n\tfor range 2 {\n\t\tq.n++\n\t}\n\tq.wake(h)\n\tq.wake(nil)\n}\n",
		"b.go": "package p\n\nfunc (i *ids) put(h int) {\n}\n\nfunc clock() { system() }\n\nfunc which(a int) {\n\tswitch a {\n\tcase 1:\n\t}\n}\n\nvar one = two\n",
		"c.go": "package p\n\nfunc clock() { system() }\n",
	}
	for _, c := range []struct {
		what string
		edit edit
		says string
	}{
		{"no such function", in("queue.get", drop("x")), "queue.get: the package does not declare it, nor anything of that name"},
		{"another receiver", in("line.put", drop("x")), "line.put: the package does not declare it, but ids.put, queue.put"},
		{"no such marker", in("queue.put", drop("q.wakeAll(h)")), `queue.put: the marker "q.wakeAll(h)" is not there; the most that is there of its beginning: "q." (a.go:5)`},
		{"nothing of it", in("queue.put", drop("x")), `queue.put: the marker "x" is not there; the most that is there of its beginning: nothing (a.go:3)`},
		{"in the comment of another", in("ids.put", drop("q.wake(h)")), `ids.put: the marker "q.wake(h)" is not there`},
		{"twice", in("queue.put", drop("q.n++")), `queue.put: the marker "q.n++" is there 2 times, at a.go:5, a.go:8; make it longer, or say within or nth`},
		{"the outer marker twice", in("queue.put", drop("h").within("q.wake")), `queue.put: the marker "q.wake" is there 2 times`},
		{"the outer marker missing", in("queue.put", drop("h").within("q.sleep")), `queue.put: the marker "q.sleep" is not there`},
		{"not in the part", in("queue.put", drop("h").within("for range")), `queue.put: the marker "h" is not there`},
		{"too high a number", in("queue.put", drop("q.n++").nth(3)), `queue.put: the marker "q.n++" has no occurrence 3: it is there 2 times, at a.go:5, a.go:8`},
		{"empty", in("queue.put", drop("/* */")), "queue.put: the marker is empty"},
		{"no Go", in("queue.put", drop("'")), "queue.put: the marker is no Go"},
		{"in two files", in("clock", drop("system()")), `clock: the marker "system()" is there 2 times, at b.go:6, c.go:3`},
		{"the start of two functions", in("clock", atStart("return")), `clock: it is declared 2 times, at b.go:6, c.go:3`},
		{"the start of a variable", in("one", atStart("return")), `one: it is no function`},
		{"the statement of a variable", in("one", drop("two")), `one: the marker "two" at b.go:14 is in no single statement`},
		{"two statements", in("queue.put", drop("q.wake(h); q.wake(nil)")), `queue.put: the marker "q.wake(h)\n\tq.wake(nil)" at a.go:10 is in no single statement`},
		{"two statements within another", in("queue.put", drop("nil { q.n++")), `goes over several statements`},
		{"no condition", in("queue.put", never("q.wake(h)")), `queue.put: the marker "q.wake(h)" at a.go:10 is in no condition`},
		{"a case with a value", in("which", never("1")), `which: the marker "1" at b.go:10 is in no condition`},
	} {
		t.Run(c.what, func(t *testing.T) {
			err := defect{name: "some", edits: []edit{c.edit}}.plant(maps.Clone(f))
			require.ErrorContains(t, err, "defect some: "+c.edit.name+": ")
			require.ErrorContains(t, err, c.says)
		})
	}
}
