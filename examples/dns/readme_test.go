//lint:file-ignore SA4006 the page leaves out what becomes of errors

package main

import (
	"context"
	"crypto/tls"

	"github.com/miekg/dns"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/dns/resolver"
)

// readme is the code of README.md, word for word; a test of the root module (TestReadmeSnippets) holds them together.
func readme(ctx context.Context, config *tls.Config) error {
	client, err := resolver.Dial(ctx, plex.DialContext(&tls.Dialer{Config: config}, "tcp", "192.0.2.53:853"), 4)
	// ...
	reply, err := client.Exchange(ctx, new(dns.Msg).SetQuestion("example.org.", dns.TypeMX))
	_ = reply
	return err
}

var _ = readme // that it compiles is enough
