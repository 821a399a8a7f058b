package main

import (
	"context"
	"errors"
	"flag"
	"io"

	"go.atomizer.io/plex/faulttest/scaffold"
)

const program = "./soak"

// options are the flags.
type options struct {
	scaffold.Options
	lanes int
	stops bool
}

func main() {
	lanes := flag.Int("lanes", len(lives), "how many pools are driven at a time, each with a proxy and a server of its own")
	stops := flag.Bool("stops", canStop, "have the process stopped by SIGSTOP now and then; an interactive shell that "+
		"has started it takes that for an end, \"go run\" does not")
	check := func() error {
		switch {
		case *lanes < 1:
			return errors.New("-lanes must be at least 1")
		case *stops && !canStop:
			return errors.New("-stops: this system has no SIGSTOP")
		}
		return nil
	}
	scaffold.Main(scaffold.Options{Program: program}, check,
		func(ctx context.Context, o scaffold.Options, out io.Writer) (*scaffold.Figures, error) {
			return run(ctx, options{o, *lanes, *stops}, out)
		})
}
