// Package option has what the options of all packages of this module need: a value that an option
// may have given, and the list of all that is wrong with what the options say.
package option

import (
	"errors"
	"fmt"
	"time"
)

// Value is a value that an option may have given. The zero value is one that has not been given, so
// that a bad value can be told from none.
type Value[T any] struct {
	value T
	given bool
}

// Give sets the value. Of several the last counts.
func (v *Value[T]) Give(value T) { v.value, v.given = value, true }

// Given reports whether the value has been given.
func (v Value[T]) Given() bool { return v.given }

// Get returns the value, which is the zero value of its type if none has been given.
func (v Value[T]) Get() T { return v.value }

// Or returns the value, or other if none has been given.
func (v Value[T]) Or(other T) T {
	if v.given {
		return v.value
	}
	return other
}

// Problems is all that is wrong with the options of one call, so that one run is enough to mend it.
type Problems struct {
	pkg  string
	errs []error
}

// Apply applies options to config, in their order. An option that is nil is a problem of the call
// and is left out. The name of the package begins the text of every problem.
func Apply[C any, O ~func(*C)](pkg, call string, config *C, options []O) *Problems {
	p := &Problems{pkg: pkg}
	for i, option := range options {
		if option == nil {
			p.Add(call, "option %d of %d is nil; leave it out or give an option", i+1, len(options))
			continue
		}
		option(config)
	}
	return p
}

// Add adds what is wrong with the option of that name. Format and args are those of [fmt.Errorf],
// also with %w. The text says what is wrong and then how to mend it.
func (p *Problems) Add(name, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s: %s: %w", p.pkg, name, fmt.Errorf(format, args...)))
}

// Positive adds a problem if a duration has been given that is not above zero.
func (p *Problems) Positive(name string, d Value[time.Duration]) {
	if d.given && d.value <= 0 {
		p.Add(name, "the duration is %v; it must be above zero", d.value)
	}
}

// AtLeast adds a problem if a number has been given that is below least. What says what the number
// is.
func (p *Problems) AtLeast(name, what string, n Value[int], least int) {
	if n.given && n.value < least {
		p.Add(name, "the %s is %d; it must be at least %d", what, n.value, least)
	}
}

// Err joins all problems, in the order in which they were added. It is nil if there is none.
func (p *Problems) Err() error { return errors.Join(p.errs...) }
