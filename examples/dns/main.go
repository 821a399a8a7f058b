// Command dns asks a DNS server thousands of questions over a few connections, which the server closes all the time, over
// TCP first and then over TLS, and checks every answer. The server is in the same process.
//
//	go run .
//
// Package resolver, beside it, is the client.
package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/dns/resolver"
	"go.atomizer.io/plex/examples/internal/selfsigned"
	"go.atomizer.io/plex/request"
)

const connections, callers, names = 4, 64, 200 // so many names for each caller

func main() {
	log.SetFlags(0)
	log.SetPrefix("dns: ")
	serverTLS, clientTLS, err := selfsigned.Configs()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d callers ask for %d addresses each over %d connections.\n", callers, names, connections)
	if err := run("TCP", nil, new(net.Dialer)); err != nil {
		log.Fatal("over TCP: ", err)
	}
	if err := run("TLS", serverTLS, &tls.Dialer{Config: clientTLS}); err != nil {
		log.Fatal("over TLS: ", err)
	}
}

func run(name string, serverTLS *tls.Config, dialer plex.ContextDialer) error {
	server, err := startServer(serverTLS)
	if err != nil {
		return err
	}
	limited, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	ctx, fail := context.WithCancelCause(limited)
	defer fail(nil)
	client, err := resolver.Dial(ctx, plex.DialContext(dialer, "tcp", server.Listener.Addr().String()), connections)
	if err != nil {
		return err
	}

	var right, again atomic.Int64
	var calling sync.WaitGroup
	for caller := range uint32(callers) {
		calling.Go(func() {
			for n := caller * names; n < (caller+1)*names; n++ {
				err := lookup(ctx, client, n)
				for failed := new(request.Error); errors.As(err, &failed) && ctx.Err() == nil; {
					again.Add(1) // the connection broke
					err = lookup(ctx, client, n)
				}
				if err != nil {
					fail(err) // a wrong answer, or the time is over
					return
				}
				right.Add(1)
			}
		})
	}
	calling.Wait()
	stats, _ := client.Stats()
	if err := errors.Join(context.Cause(ctx), client.Close(), server.Shutdown()); err != nil {
		return err
	}
	fmt.Printf("\nOver %s:\n%8d answers, each of them right\n", name, right.Load())
	fmt.Printf("%8d queries made again, because their connection had broken\n", again.Load())
	fmt.Printf("%8d connections lost, and %d healed\n", stats.Lost, stats.Healed)
	return nil
}

// lookup asks for the address of one name and checks the answer.
func lookup(ctx context.Context, client *resolver.Client, n uint32) error {
	reply, err := client.Exchange(ctx, new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.plex.test.", n), dns.TypeA))
	if err != nil {
		return err
	}
	want := net.IP(binary.BigEndian.AppendUint32(nil, n))
	if len(reply.Answer) == 1 {
		if a, ok := reply.Answer[0].(*dns.A); ok && a.A.Equal(want) {
			return nil
		}
	}
	return fmt.Errorf("asked for %v, got %v", want, reply.Answer)
}
