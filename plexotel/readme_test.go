//lint:file-ignore SA4006 the page leaves out what becomes of errors

package plexotel_test

import (
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexotel"
	"go.atomizer.io/plex/request"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(mux *plex.Multiplexer, requests *request.Client[string, string]) error {
	unregister, err := plexotel.Register(mux, "orders") // metrics of the pool
	client, err := plexotel.Traced(requests, "orders")  // a span for each Do and Stream
	_, _ = unregister, client
	return err
}

var _ = readme // that it compiles is enough
