//lint:file-ignore SA4006 the page leaves out what becomes of errors

package main

import (
	"context"
	"crypto/tls"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/syslog/shipper"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(ctx context.Context, config *tls.Config) error {
	client, err := shipper.Dial(ctx, shipper.Config{
		Connect:     plex.DialContext(&tls.Dialer{Config: config}, "tcp", "192.0.2.14:6514"),
		Connections: 1,
		App:         "orders",
	})
	// ...
	err = client.Log(shipper.Info, "started") // returns at once; shipper.ErrFull, if too much waits
	err = client.Close(ctx)                   // writes what waits
	return err
}

var _ = readme // that it compiles is enough
