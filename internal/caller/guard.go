package caller

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Guard calls foreign code and turns a panic into an error that has the stack. What says whose code
// it is, such as "the transport's Read". If f ends its goroutine, Guard cannot return: it has to be
// called where that does no harm, or by Apart.
func Guard(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Crash(what, p)
		}
	}()
	return f()
}

// Apart is Guard in a goroutine of its own, so that even runtime.Goexit is an error. It waits for
// f.
func Apart(what string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := Crash(what, nil)
		defer func() { result <- err }()
		err = Guard(what, f)
	}()
	return <-result
}

// Crash is the error for foreign code that has panicked, or, if panicked is nil, that has ended its
// goroutine by runtime.Goexit. It has to be called while the panic is being recovered from, since
// it adds the stack.
func Crash(what string, panicked any) error {
	switch p := panicked.(type) {
	case nil:
		return &crash{errors.New("plex: " + what + " has ended its goroutine by runtime.Goexit")}
	case error:
		return &crash{fmt.Errorf("plex: %s panicked: %w\n%s", what, p, debug.Stack())}
	default:
		return &crash{fmt.Errorf("plex: %s panicked: %v\n%s", what, p, debug.Stack())}
	}
}

// crash marks the errors that Crash makes.
type crash struct{ error }

func (c *crash) Unwrap() error { return c.error }

// IsCrash reports whether err says that foreign code has panicked or ended its goroutine. How far it
// had come by then is unknown.
func IsCrash(err error) bool {
	var c *crash
	return errors.As(err, &c)
}
