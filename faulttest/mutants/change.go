package main

// Changes: what a defect does at its place. All of them but atStart begin with a marker.

import (
	"errors"
	"fmt"
)

// change is one change to a declaration.
type change struct {
	marker string
	inside string // the marker is looked for in the statement that has this one; empty: in the whole declaration
	n      int    // which of several occurrences; 0: there is only one

	// rewrite returns the part of the file that is replaced, and by what.
	rewrite func(p place) (part span, with string, err error)
}

// within has the marker be looked for only in the statement, or the case of a switch or select, that has another marker.
func (c change) within(marker string) change {
	c.inside = marker
	return c
}

// nth takes one of several occurrences of the marker, counted from 1.
func (c change) nth(n int) change {
	c.n = n
	return c
}

// replace puts something else in the place of the marker itself.
func replace(marker, with string) change {
	return change{marker: marker, rewrite: func(p place) (span, string, error) { return p.marker, with, nil }}
}

// onStatement rewrites the innermost statement that has the marker. In a marker such as "case x:" that is the whole case.
func onStatement(marker string, rewritten func(old string) string) change {
	return change{marker: marker, rewrite: func(p place) (span, string, error) {
		s, err := p.statement()
		if err != nil {
			return span{}, "", err
		}
		return s, rewritten(p.text[s.from:s.to]), nil
	}}
}

// drop leaves the statement out.
func drop(marker string) change { return onStatement(marker, func(string) string { return "" }) }

// instead puts something else in the place of the whole statement.
func instead(marker, with string) change {
	return onStatement(marker, func(string) string { return with })
}

// twice does the statement two times.
func twice(marker string) change {
	return onStatement(marker, func(old string) string { return old + "\n" + old })
}

// before puts something in front of the statement, after something behind it.
func before(marker, with string) change {
	return onStatement(marker, func(old string) string { return with + "\n" + old })
}

func after(marker, with string) change {
	return onStatement(marker, func(old string) string { return old + "\n" + with })
}

// onlyIf does the statement only under a condition.
func onlyIf(marker, condition string) change {
	return onStatement(marker, func(old string) string { return "if " + condition + " {\n" + old + "\n}" })
}

// onCondition rewrites the innermost condition that has the marker.
func onCondition(marker, form string) change {
	return change{marker: marker, rewrite: func(p place) (span, string, error) {
		s, err := p.condition()
		if err != nil {
			return span{}, "", err
		}
		return s, fmt.Sprintf(form, p.text[s.from:s.to]), nil
	}}
}

// always has the condition that has the marker hold, and never has it not hold. What it says is not evaluated, but what
// it uses counts as used.
func always(marker string) change { return onCondition(marker, "true || (%s)") }
func never(marker string) change  { return onCondition(marker, "false && (%s)") }

// atStart puts something in front of everything in a function.
func atStart(with string) change {
	return change{rewrite: func(p place) (span, string, error) {
		body, ok := p.body()
		if !ok {
			return span{}, "", errors.New("it is no function")
		}
		return span{body.from + 1, body.from + 1}, "\n" + with + "\n", nil
	}}
}

// plant makes one change to the declaration of that name.
func (f folder) plant(name string, c change) error {
	p, err := f.placeOf(name, c)
	if err != nil {
		return err
	}
	part, with, err := c.rewrite(p)
	if err != nil {
		return err
	}
	f[p.file] = p.text[:part.from] + with + p.text[part.to:]
	return nil
}

func (f folder) placeOf(name string, c change) (place, error) {
	if c.marker != "" {
		return f.locate(name, c.inside, c.marker, c.n)
	}
	found, err := f.declared(name)
	if err != nil {
		return place{}, err
	}
	if len(found) > 1 {
		return place{}, fmt.Errorf("it is declared %s", times(wholes(found)))
	}
	return place{declaration: found[0]}, nil
}
