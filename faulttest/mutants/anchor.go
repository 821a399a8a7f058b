package main

// Anchors: how a defect finds its place. It names a declaration of a package and, in that, a marker: a short piece of
// Go that is there once. Both survive what does not concern the defect: other comments, another layout, a function that
// has moved to another file, and whatever happens in the rest of the function.

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// folder is the text of a package's files by name, without its tests, for all operating systems.
type folder map[string]string

func readFolder(dir string) (folder, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	f := make(folder)
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		f[name] = string(text)
	}
	return f, nil
}

// declaration is a function, or one constant, variable or type, of a package.
type declaration struct {
	file string // its name in the folder
	text string // of the file
	set  *token.FileSet
	node ast.Node
}

// span is a part of a file, from one offset up to another.
type span struct{ from, to int }

func (s span) holds(t span) bool { return s.from <= t.from && t.to <= s.to }

func (d declaration) span(n ast.Node) span {
	return span{d.set.PositionFor(n.Pos(), false).Offset, d.set.PositionFor(n.End(), false).Offset}
}

// body is that of a function, with its braces.
func (d declaration) body() (body span, ok bool) {
	f, ok := d.node.(*ast.FuncDecl)
	if !ok || f.Body == nil {
		return span{}, false
	}
	return d.span(f.Body), true
}

// at says where in the files an offset is.
func (d declaration) at(offset int) string {
	return fmt.Sprintf("%s:%d", d.file, 1+strings.Count(d.text[:offset], "\n"))
}

// declared finds what has the name: "close" is a function, constant, variable or type, "half.close" a method. Where each
// operating system has its own, there are several.
func (f folder) declared(name string) ([]declaration, error) {
	var found []declaration
	var similar []string
	for _, file := range slices.Sorted(maps.Keys(f)) {
		if !strings.Contains(f[file], last(name)) {
			continue // which saves parsing most files
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, f[file], parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for other, node := range declarations(parsed) {
			switch {
			case other == name:
				found = append(found, declaration{file, f[file], set, node})
			case last(other) == last(name):
				similar = append(similar, other)
			}
		}
	}
	switch {
	case found != nil:
		return found, nil
	case similar != nil:
		slices.Sort(similar)
		return nil, fmt.Errorf("the package does not declare it, but %s", strings.Join(similar, ", "))
	}
	return nil, errors.New("the package does not declare it, nor anything of that name")
}

// last is the name of a method without that of its type.
func last(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// declarations ranges over what a file declares.
func declarations(file *ast.File) func(yield func(string, ast.Node) bool) {
	return func(yield func(string, ast.Node) bool) {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if !yield(functionName(d), d) {
					return
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					for _, name := range specNames(spec) {
						if !yield(name.Name, spec) {
							return
						}
					}
				}
			}
		}
	}
}

// functionName is "close", or "half.close" for a method, whether its receiver is a pointer or not.
func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) != 1 {
		return f.Name.Name
	}
	t := f.Recv.List[0].Type
	for {
		switch of := t.(type) {
		case *ast.StarExpr:
			t = of.X
		case *ast.ParenExpr:
			t = of.X
		case *ast.IndexExpr:
			t = of.X
		case *ast.IndexListExpr:
			t = of.X
		case *ast.Ident:
			return of.Name + "." + f.Name.Name
		default:
			return f.Name.Name
		}
	}
}

func specNames(spec ast.Spec) []*ast.Ident {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		return spec.Names
	case *ast.TypeSpec:
		return []*ast.Ident{spec.Name}
	}
	return nil
}

// word is a token of Go at its place.
type word struct {
	span
	kind token.Token
	text string
}

// scan calls f for each token of a text, in order.
func scan(text string, f func(word)) error {
	var s scanner.Scanner
	var errs scanner.ErrorList
	file := token.NewFileSet().AddFile("", -1, len(text))
	s.Init(file, []byte(text), errs.Add, 0)
	for {
		pos, kind, lit := s.Scan()
		if kind == token.EOF {
			return errs.Err()
		}
		if !kind.IsLiteral() {
			lit = kind.String()
		}
		from := file.Offset(pos)
		f(word{span{from, from + len(lit)}, kind, lit})
	}
}

// words splits a text into tokens. It leaves out what depends on the layout: comments, semicolons, and the comma behind
// the last of a list.
func words(text string) (all []word, err error) {
	err = scan(text, func(w word) {
		switch w.kind {
		case token.SEMICOLON:
			return
		case token.RPAREN, token.RBRACK, token.RBRACE:
			if n := len(all); n > 0 && all[n-1].kind == token.COMMA {
				all = all[:n-1]
			}
		}
		all = append(all, w)
	})
	return all, err
}

// occurrences finds a marker in a part of a declaration's file. If there is none, near is the most that its beginning
// has in common with anything there.
func (d declaration) occurrences(marker string, part span) (found []span, near span, err error) {
	want, err := words(marker)
	if err != nil {
		return nil, near, fmt.Errorf("the marker is no Go: %w", err)
	}
	if len(want) == 0 {
		return nil, near, errors.New("the marker is empty")
	}
	all, err := words(d.text)
	if err != nil {
		return nil, near, err
	}
	have := slices.DeleteFunc(all, func(w word) bool { return !part.holds(w.span) })
	most := 0
	for i := range have {
		n := 0
		for n < len(want) && i+n < len(have) && have[i+n].kind == want[n].kind && have[i+n].text == want[n].text {
			n++
		}
		if n == len(want) {
			found = append(found, span{have[i].from, have[i+n-1].to})
		}
		if n > most {
			most, near = n, span{have[i].from, have[i+n-1].to}
		}
	}
	return found, near, nil
}

// place is where a marker is.
type place struct {
	declaration
	marker span
}

// wholes are the places of whole declarations.
func wholes(found []declaration) (all []place) {
	for _, d := range found {
		all = append(all, place{d, d.span(d.node)})
	}
	return all
}

// locate finds a marker in the declarations of a name: the nth occurrence, or, if n is 0, the only one. If within is not
// empty, it looks only in the statement that has that marker.
func (f folder) locate(name, within, marker string, n int) (place, error) {
	found, err := f.declared(name)
	if err != nil {
		return place{}, err
	}
	parts := wholes(found)
	if within != "" {
		outer, err := unique(parts, within, 0)
		if err != nil {
			return place{}, err
		}
		statement, err := outer.statement()
		if err != nil {
			return place{}, err
		}
		parts = []place{{outer.declaration, statement}}
	}
	return unique(parts, marker, n)
}

// unique finds a marker in one of the parts.
func unique(parts []place, marker string, n int) (place, error) {
	var all []place
	var nearest []string
	for _, part := range parts {
		found, near, err := part.occurrences(marker, part.marker)
		if err != nil {
			return place{}, err
		}
		for _, s := range found {
			all = append(all, place{part.declaration, s})
		}
		if near.to > 0 {
			nearest = append(nearest, fmt.Sprintf("%q (%s)", part.text[near.from:near.to], part.at(near.from)))
		} else {
			nearest = append(nearest, fmt.Sprintf("nothing (%s)", part.at(part.marker.from)))
		}
	}
	switch {
	case n > 0 && n <= len(all):
		return all[n-1], nil
	case n > 0:
		return place{}, fmt.Errorf("the marker %q has no occurrence %d: it is there %s", marker, n, times(all))
	case len(all) == 1:
		return all[0], nil
	case len(all) > 1:
		return place{}, fmt.Errorf("the marker %q is there %s; make it longer, or say within or nth", marker, times(all))
	}
	return place{}, fmt.Errorf("the marker %q is not there; the most that is there of its beginning: %s", marker, strings.Join(nearest, ", "))
}

// times says how often and where something is.
func times(all []place) string {
	var where []string
	for _, p := range all {
		where = append(where, p.at(p.marker.from))
	}
	return fmt.Sprintf("%d times, at %s", len(all), strings.Join(where, ", "))
}

// statement is the innermost statement of a block, or case of a switch or select, that has the marker.
func (p place) statement() (span, error) {
	var innermost span
	crossed := false
	ast.Inspect(p.node, func(n ast.Node) bool {
		var list []ast.Stmt
		switch n := n.(type) {
		case *ast.BlockStmt:
			list = n.List
		case *ast.CaseClause:
			list = n.Body
		case *ast.CommClause:
			list = n.Body
		}
		for _, statement := range list {
			s := p.span(statement)
			if s.holds(p.marker) {
				innermost = s
			} else if s.from >= p.marker.from && s.from < p.marker.to {
				crossed = true // a statement begins in the marker, which goes on behind it
			}
		}
		return true
	})
	text := p.text[p.marker.from:p.marker.to]
	switch {
	case innermost == span{}:
		return span{}, fmt.Errorf("the marker %q at %s is in no single statement", text, p.at(p.marker.from))
	case crossed && innermost.from != p.marker.from:
		return span{}, fmt.Errorf("the marker %q at %s goes over several statements", text, p.at(p.marker.from))
	}
	return innermost, nil
}

// condition is the innermost condition that has the marker: of an if, of a for, or of a case without a value to compare
// with.
func (p place) condition() (span, error) {
	var innermost span
	try := func(e ast.Expr) {
		if e == nil {
			return
		}
		if s := p.span(e); s.holds(p.marker) {
			innermost = s
		}
	}
	ast.Inspect(p.node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.IfStmt:
			try(n.Cond)
		case *ast.ForStmt:
			try(n.Cond)
		case *ast.SwitchStmt:
			if n.Tag != nil {
				break
			}
			for _, clause := range n.Body.List {
				for _, e := range clause.(*ast.CaseClause).List {
					try(e)
				}
			}
		}
		return true
	})
	if innermost == (span{}) {
		return span{}, fmt.Errorf("the marker %q at %s is in no condition", p.text[p.marker.from:p.marker.to], p.at(p.marker.from))
	}
	return innermost, nil
}
