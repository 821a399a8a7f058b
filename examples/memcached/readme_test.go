//lint:file-ignore SA4006 the page leaves out what becomes of errors

package main

import (
	"context"
	"time"

	"go.atomizer.io/plex/examples/memcached/cache"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(ctx context.Context, value []byte) error {
	client, err := cache.Dial(ctx, "192.0.2.11:11211", 4)
	// ...
	err = client.Set(ctx, "key", value, time.Hour)
	value, err = client.Get(ctx, "key") // cache.ErrNotFound, if there is no such key
	_ = value
	return err
}

var _ = readme // that it compiles is enough
