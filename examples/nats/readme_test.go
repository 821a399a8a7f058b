//lint:file-ignore SA4006 the page leaves out what becomes of errors

package main

import (
	"context"

	"go.atomizer.io/plex/examples/nats/bus"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(ctx context.Context, data []byte) error {
	client, err := bus.Dial(ctx, bus.Config{
		Address: "192.0.2.4:4222", Connections: 4,
		Subject: "orders.*", Handle: func(subject string, data []byte) { /* ... */ },
	})
	// ...
	err = client.Publish(ctx, "orders.new", data)
	return err
}

var _ = readme // that it compiles is enough
