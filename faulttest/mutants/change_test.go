package main

import (
	"go/format"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChanges(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   change
		old, new string
	}{
		{"replace", replace("b", "c(1)"), "a(b)", "a(c(1))"},
		{"replace over lines", replace("a(b, c)", "d"), "e(a(\n\tb, // b\n\tc,\n))", "e(d)"},
		{"drop", drop("b()"), "a()\nb()\nc()", "a()\n\nc()"},
		{"drop the whole statement", drop("b"), "a()\nx := f(b, c)\nd()", "a()\n\nd()"},
		{"drop by the head", drop("if b"), "a()\nif b {\n\tc()\n} else {\n\td()\n}\ne()", "a()\n\ne()"},
		{"drop by what a head begins with", drop("x := b()"), "if x := b(); x {\n\tc()\n}\ne()", "\ne()"},
		{"drop by the head and more", drop("if b { c()"), "a()\nif b {\n\tc()\n\td()\n}\ne()", "a()\n\ne()"},
		{"drop the innermost", drop("b()"), "if a {\n\tb()\n}", "if a {\n\n}"},
		{"drop on a line with others", drop("b()"), "func() { a(); b(); c() }()", "func() { a(); ; c() }()"},
		{"drop before a comment", drop("b()"), "b() // b\nc()", "// b\nc()"},
		{"drop in a function literal", drop("b()"), "a(func() { b() })", "a(func() {})"},
		{"drop in a case", drop("b()"), "switch {\ncase a:\n\tb()\n}", "switch {\ncase a:\n\n}"},
		{"drop a case", drop("case b:"), "switch {\ncase a:\n\tc()\ncase b:\n\td()\n}", "switch {\ncase a:\n\tc()\n\n}"},
		{"drop a case by its condition", drop("b == 1"), "switch {\ncase a, b == 1:\n\tc()\n}", "switch {\n}"},
		{"drop the default", drop("default:"), "switch a {\ndefault:\n\tc()\n}", "switch a {\n}"},
		{"drop a communication", drop("case <-b"), "select {\ncase x := <-a:\n\tc()\ncase <-b:\n}", "select {\ncase x := <-a:\n\tc()\n\n}"},
		{"instead", instead("a", "b()\nc()"), "if a {\n}\nd()", "b()\nc()\nd()"},
		{"twice", twice("a()"), "go a() // once\nb()", "go a()\ngo a() // once\nb()"},
		{"before", before("b", "return"), "a()\nb(c)", "a()\nreturn\nb(c)"},
		{"before a case", before("case b", "case a:"), "switch {\ncase b:\n}", "switch {\ncase a:\ncase b:\n}"},
		{"before a case's statement", before("b", "return"), "switch {\ncase a:\n\tb()\n}", "switch {\ncase a:\n\treturn\n\tb()\n}"},
		{"after", after("a", "return"), "f(a) // a\nb()", "f(a)\nreturn // a\nb()"},
		{"after the last", after("a", "return"), "func() { a() }()", "func() {\n\ta()\n\treturn\n}()"},
		{"after an if", after("a", "return"), "if a {\n\tb()\n} else {\n\tc()\n}", "if a {\n\tb()\n} else {\n\tc()\n}\nreturn"},
		{"onlyIf", onlyIf("b", "c == 1"), "a(func() { b() })", "a(func() {\n\tif c == 1 {\n\t\tb()\n\t}\n})"},
		{"always", always("a"), "if a || b {\n}", "if true || (a || b) {\n}"},
		{"never", never("a"), "if x := b(); a && b {\n}", "if x := b(); false && (a && b) {\n}"},
		{"never in a for", never("a"), "for i := 0; a(i); i++ {\n}", "for i := 0; false && (a(i)); i++ {\n}"},
		{"never in a case", never("b"), "switch {\ncase a, b == 1:\n}", "switch {\ncase a, false && (b == 1):\n}"},
		{"never in the innermost", never("b"), "if f(func() bool { if b { return true }; return false }) {\n}", "if f(func() bool { if false && (b) { return true }; return false }) {\n}"},
		{"never in a case of an if's", never("b"), "if a {\n\tswitch {\n\tcase b:\n\t}\n}", "if a {\n\tswitch {\n\tcase false && (b):\n\t}\n}"},
		{"atStart", atStart("return"), "a()\nb()", "return\n\na()\nb()"},
		{"nth", drop("a()").nth(2), "a()\nb()\na()", "a()\nb()"},
		{"within an if", drop("a()").within("if b"), "a()\nif b {\n\ta()\n}\nif c {\n\ta()\n}", "a()\nif b {\n\n}\nif c {\n\ta()\n}"},
		{"within a case", drop("a()").within("case c:"), "switch {\ncase b:\n\ta()\ncase c:\n\ta()\n}", "switch {\ncase b:\n\ta()\ncase c:\n\n}"},
		{"within what begins with a call", drop("a()").within("b()"), "if x := b(); x {\n\ta()\n}\na()", "if x := b(); x {\n\n}\na()"},
		{"nth within", replace("a", "b").within("case c:").nth(2), "a()\nswitch {\ncase c:\n\ta()\n\ta()\n}", "a()\nswitch {\ncase c:\n\ta()\n\tb()\n}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := folder{"a.go": "package p\n\n// f.\nfunc f() {\n" + c.old + "\n}\n\nfunc a() { b(a()) }\n"}
			require.NoError(t, f.plant("f", c.change))
			require.Equal(t, gofmt(t, "package p\n\n// f.\nfunc f() {\n"+c.new+"\n}\n\nfunc a() { b(a()) }\n"), gofmt(t, f["a.go"]))
		})
	}
}

func TestChangesAreMadeOneAfterAnother(t *testing.T) {
	f := folder{"a.go": "package p\n\nfunc f() { a() }\n", "b.go": "package p\n\nvar g = func() { a() }\n"}
	d := defect{name: "some", edits: []edit{
		in("f", twice("a()"), replace("a()", "b()").nth(2), replace("b()", "c()")),
		in("g", drop("a()")),
	}}
	require.NoError(t, d.plant(f))
	require.Equal(t, gofmt(t, "package p\n\nfunc f() {\n\ta()\n\tc()\n}\n"), gofmt(t, f["a.go"]))
	require.Equal(t, gofmt(t, "package p\n\nvar g = func() {}\n"), gofmt(t, f["b.go"]))
}

// gofmt is the text as gofmt would have it, without empty lines.
func gofmt(t *testing.T, text string) string {
	formatted, err := format.Source([]byte(text))
	require.NoError(t, err)
	return regexp.MustCompile(`\n\n+`).ReplaceAllString(string(formatted), "\n")
}
