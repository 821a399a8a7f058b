// Package intake is how package request takes messages from message.Receiver.All: many at a time,
// and without a copy of each.
package intake

import "context"

// Intake says how a loop over the messages wants them. It goes to All in the context.
type Intake struct {
	// Lend says that the loop body keeps no message, so the messages need not be copied. Each is
	// valid until the body returns.
	Lend bool

	// Settled is called each time that the messages of one read, or as many of them as the loop has
	// taken, have been delivered, before anybody else can read from their connection or learn of
	// its end. It is called in the loop's goroutine, also if the body panics or ends the goroutine.
	Settled func()
}

type key struct{}

// With returns a context for All.
func With(ctx context.Context, i Intake) context.Context { return context.WithValue(ctx, key{}, i) }

// From returns what With has put into the context.
func From(ctx context.Context) Intake {
	i, ok := ctx.Value(key{}).(Intake)
	if !ok {
		i.Settled = func() {}
	}
	return i
}
