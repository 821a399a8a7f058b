// Command syslog sends log lines from many goroutines to an rsyslogd over TLS. The server is stopped and started again in
// the middle, and at the end the lines in its file are counted: none twice, all in order, and missing only what was on its
// way when the server ended, because syslog has no acknowledgments. It starts the rsyslogd that is installed.
// Package shipper, beside it, is the client.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/selfsigned"
	"go.atomizer.io/plex/examples/syslog/shipper"
)

const (
	app     = "plex"
	loggers = 32
	half    = 1000 // lines of each goroutine: one half while the server goes away and comes back, and one after that
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("syslog: ", err)
	}
}

func run() error {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	serverTLS, clientTLS, err := selfsigned.Configs()
	if err != nil {
		return err
	}
	server, err := startServer(serverTLS)
	if err != nil {
		return err
	}
	defer server.remove()
	var b book
	client, err := shipper.Dial(ctx, shipper.Config{
		Connect:     plex.DialContext(&tls.Dialer{Config: clientTLS}, "tcp", server.address),
		Connections: 1, // for the order
		App:         app,
		Queue:       64 << 10,
		HandedBack:  b.handedBack,
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d goroutines log %d lines each to rsyslogd at %s, over TLS.\n\n", loggers, 2*half, server.address)
	err = ship(ctx, client, server, &b)
	err = errors.Join(err, client.Close(ctx))
	if err != nil {
		return err
	}
	// rsyslogd has all that was written, or will read it. Once it has read it, its stop loses nothing.
	for !b.settled(server) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if err := server.stop(); err != nil {
		return err
	}
	pool, sender := client.Stats()
	fmt.Printf("%8d lines went out in %d writes, and %d connections were lost\n", sender.Messages, sender.Writes, pool.Lost)
	return b.check(server, int(pool.Lost))
}

// ship has everybody log, stops the server in the middle of the first half, and starts it again.
func ship(ctx context.Context, client *shipper.Client, server *server, b *book) error {
	var first, all sync.WaitGroup
	failures := make(chan error, 2*loggers)
	whole := make(chan struct{}) // closed when the connection has been replaced
	for caller := range loggers {
		first.Add(1)
		all.Go(func() {
			failures <- b.log(ctx, client, caller, 0, time.Millisecond)
			first.Done()
			<-whole
			failures <- b.log(ctx, client, caller, half, 0)
		})
	}
	for b.logged.Load() < loggers*half/3 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	err := server.stop()
	if err == nil {
		err = server.start()
	}
	for pool, _ := client.Stats(); err == nil && (pool.Healed == 0 || pool.Open == 0); pool, _ = client.Stats() {
		time.Sleep(time.Millisecond)
		err = ctx.Err()
	}
	first.Wait()
	close(whole)
	all.Wait()
	close(failures)
	for failed := range failures {
		err = cmp.Or(err, failed)
	}
	return err
}
