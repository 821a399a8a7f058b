// Package caller inspects what callers pass to the packages of this module: contexts, and values of
// their own types.
package caller

import (
	"context"
	"errors"
	"fmt"
	"reflect"
)

// ContextError returns the error of a ctx that has ended: its Err, and its cause too if that says
// more.
func ContextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// IsNil reports whether v is nil, or holds a nil pointer, map, function, channel or slice, on which
// a method call would most likely panic.
func IsNil(v any) bool {
	if v == nil {
		return true
	}
	switch rv := reflect.ValueOf(v); rv.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Chan, reflect.Slice:
		return rv.IsNil()
	default:
		return false
	}
}
