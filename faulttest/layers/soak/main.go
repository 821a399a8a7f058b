// Command soak drives packages message and request through random faults at the highest rate that the machine gives,
// and says what it found.
//
//	go run ./layers/soak -for 10m -seed 1
//
// In every other round a server talks, and another is asked; in those between, one is asked whose replies come in
// order, with sessions beside, and another is sent messages by a message.Sender. Each is behind a fault proxy of its
// own: connections are reset, closed, half closed, stalled and cut to pieces after so many bytes, refused, accepted and
// dropped, and the servers restart. They also take half a batch and reset, or stall in the middle of one. Meanwhile
// connections are killed, retired for their age, added and closed again; loops over messages are left and begun anew;
// callers give up; replies are late, unknown, doubled, out of order and malformed. Each round is set up differently, and
// ends with everything closed in the middle of that, or with a calm in which everything has to come that is still to
// come.
//
// Every message and every reply says which it is and has a checksum; each request is remembered by the server that has
// executed it. What happens to a connection depends on the seed, the round and the connection's number.
//
// The exit code is 1 if anything was violated; then the seed is printed, and the history that led to it.
package main

import (
	"context"
	"errors"
	"flag"
	"io"

	"go.atomizer.io/plex/faulttest/scaffold"
)

const program = "./layers/soak"

// options are the flags.
type options struct {
	scaffold.Options
	callers int
}

func main() {
	callers := flag.Int("callers", 400, "how many goroutines make requests")
	check := func() error {
		if *callers < 1 {
			return errors.New("-callers must be at least 1")
		}
		return nil
	}
	scaffold.Main(scaffold.Options{Program: program}, check,
		func(ctx context.Context, o scaffold.Options, out io.Writer) (*scaffold.Figures, error) {
			return run(ctx, options{o, *callers}, out)
		})
}
