//lint:file-ignore SA4006 the page leaves out what becomes of errors

package main

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/quic-go/quic-go"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/quic/streams"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(ctx context.Context, tlsConfig *tls.Config) error {
	dialer := streams.NewDialer("192.0.2.9:4433", tlsConfig, &quic.Config{KeepAlivePeriod: 5 * time.Second})
	pool, err := plex.New(ctx,
		plex.WithConnector(plex.DialFunc(dialer.DialStream)),
		plex.WithMinConnections(8),
		plex.WithMaxCapacity(8),
	)
	_ = pool
	return err
}

var _ = readme // that it compiles is enough
