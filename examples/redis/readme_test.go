//lint:file-ignore SA4006 the page leaves out what becomes of errors

package main

import (
	"context"
	"time"

	"go.atomizer.io/plex/examples/redis/store"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(ctx context.Context) error {
	client, err := store.Dial(ctx, "tcp", "192.0.2.6:6379", 4)
	// ...
	err = client.Set(ctx, "key", "value", time.Hour)
	value, err := client.Get(ctx, "key") // store.ErrNotFound, if there is no such key
	reply, err := client.Do(ctx, "HGETALL", "hash")
	_, _ = value, reply
	return err
}

var _ = readme // that it compiles is enough
