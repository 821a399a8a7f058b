//lint:file-ignore SA4006 the page leaves out what becomes of errors

package main

import (
	"context"
	"crypto/tls"
	"fmt"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/ldap/directory"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(ctx context.Context, config *tls.Config, dn, password string) error {
	client, err := directory.Dial(ctx, directory.Config{
		Connect: plex.DialContext(&tls.Dialer{Config: config}, "tcp", "192.0.2.3:636"), Connections: 4,
		DN: "cn=reader,dc=example,dc=org", Password: password,
	})
	// ...
	for entry, err := range client.Search(ctx, directory.Search{
		Base: "dc=example,dc=org", Scope: directory.Subtree, Filter: directory.Equal("uid", "ada"),
	}) {
		fmt.Println(entry, err) // the loop may be left at any time
	}
	is, err := client.Compare(ctx, dn, "sn", "Lovelace")
	_ = is
	return err
}

var _ = readme // that it compiles is enough
