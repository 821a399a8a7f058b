// Command ldap asks an LDAP server from many goroutines over a few connections: for single entries, for all of them, and
// for some, after which it leaves the loop and the server abandons the search. The server restarts in the middle. It starts
// the slapd that is installed. Package directory, beside it, is the client.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/ldap/directory"
	"go.atomizer.io/plex/request"
)

const (
	entries     = 2000
	connections = 4
	callers     = 32
	lookups     = 50 // so many for each caller
	readers     = 3  // who read all entries, as often
	leavers     = 20 // who read some entries, and leave the loop
	some        = 10 // that is so many
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("ldap: ", err)
	}
}

func run() error {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	server, err := startServer(entries)
	if err != nil {
		return err
	}
	defer server.remove()
	config := directory.Config{
		Connect: plex.Dial("tcp", server.address), Connections: connections, DN: admin, Password: password,
	}
	client, err := directory.Dial(ctx, config)
	if err != nil {
		return err
	}
	fmt.Printf("%d callers look up %d entries each over %d connections to slapd at %s.\n\n", callers, lookups, connections, server.address)
	for _, part := range []func() error{
		func() error { return use(ctx, client, server) },
		func() error { return leave(ctx, client) },
		func() error { return stranger(ctx, config) },
	} {
		if err := part(); err != nil {
			return errors.Join(err, client.Close())
		}
	}
	return client.Close()
}

// use looks up entries and reads all of them, at the same time, while the server restarts.
func use(ctx context.Context, client *directory.Client, server *server) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var right, again, all atomic.Int64
	// patient asks again if the connection breaks. A search changes nothing, so it may be made twice.
	patient := func(ask func() error) (ok bool) {
		for {
			err := ask()
			switch failed := new(request.Error); {
			case err == nil:
				return true
			case ctx.Err() == nil && errors.As(err, &failed):
				again.Add(1)
			default:
				fail(err) // a wrong answer, or the time is over
				return false
			}
		}
	}
	var working sync.WaitGroup
	for caller := range callers {
		working.Go(func() {
			for n := caller * lookups; n < (caller+1)*lookups; n++ {
				if !patient(func() error { return lookup(ctx, client, n%entries) }) {
					return
				}
				right.Add(1)
			}
		})
	}
	for range readers {
		working.Go(func() {
			for range readers {
				if !patient(func() error { return readAll(ctx, client) }) {
					return
				}
				all.Add(1)
			}
		})
	}
	for right.Load() < callers*lookups/4 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := server.restart(); err != nil {
		fail(err)
	}
	working.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	pool, requests := client.Stats()
	fmt.Printf("%8d entries were looked up, and were right\n", right.Load())
	fmt.Printf("%8d searches brought all %d entries\n", all.Load(), entries)
	fmt.Printf("%8d requests were made again, because their connection had broken\n", again.Load())
	fmt.Printf("%8d connections were lost, and %d healed\n", pool.Lost, pool.Healed)
	if requests.Malformed+requests.Unknown > 0 {
		return fmt.Errorf("want no message that makes no sense: %+v", requests)
	}
	return nil
}

// leave has goroutines leave searches early, and finds out from the server whether it was told.
func leave(ctx context.Context, client *directory.Client) error {
	_, before := client.Stats()
	var leaving sync.WaitGroup
	failures := make(chan error, leavers)
	for range leavers {
		leaving.Go(func() { failures <- readSome(ctx, client) })
	}
	leaving.Wait()
	for range leavers {
		if err := <-failures; err != nil {
			return err
		}
	}
	for {
		n, err := abandons(ctx, client)
		_, now := client.Stats()
		// If the last entry had come by then, there was nothing to abandon.
		if sent := now.Cancels - before.Cancels; err == nil && n > 0 && uint64(n) == sent {
			fmt.Printf("%8d searches were left after %d entries, and the server was told to abandon %d\n", leavers, some, n)
			return nil
		} else if err != nil {
			return fmt.Errorf("%d abandons were sent, and the server has got %d: %w", sent, n, err)
		}
		time.Sleep(time.Millisecond) // the server may not have read them yet
	}
}

// lookup finds one entry, and checks it in two ways.
func lookup(ctx context.Context, client *directory.Client, n int) error {
	found := 0
	for entry, err := range client.Search(ctx, directory.Search{
		Base: people, Scope: directory.OneLevel, Filter: directory.Equal("uid", fmt.Sprint("u", n)), Attributes: []string{"description"},
	}) {
		if got := entry.Get("description"); err != nil || entry.DN != dn(n) || got != description(n) {
			return cmp.Or(err, fmt.Errorf("asked for %s, got %s with %q", dn(n), entry.DN, got))
		}
		found++
	}
	if found != 1 {
		return fmt.Errorf("found %s %d times", dn(n), found)
	}
	if is, err := client.Compare(ctx, dn(n), "sn", fmt.Sprint(n)); err != nil || !is {
		return cmp.Or(err, fmt.Errorf("sn of %s is not %d", dn(n), n))
	}
	return nil
}

// everybody is a search for all entries.
var everybody = directory.Search{
	Base: suffix, Scope: directory.Subtree,
	Filter: directory.And(directory.Equal("objectClass", "inetOrgPerson"), directory.Not(directory.Equal("uid", "nobody"))),
}

// readAll reads all entries and checks that each comes once.
func readAll(ctx context.Context, client *directory.Client) error {
	seen := make(map[string]bool, entries)
	for entry, err := range client.Search(ctx, everybody) {
		if err != nil {
			return err
		}
		if seen[entry.DN] {
			return fmt.Errorf("%s came twice", entry.DN)
		}
		seen[entry.DN] = true
	}
	if len(seen) != entries {
		return fmt.Errorf("%d entries came, want %d", len(seen), entries)
	}
	return nil
}

// readSome reads a few entries and leaves the loop.
func readSome(ctx context.Context, client *directory.Client) error {
	n := 0
	for _, err := range client.Search(ctx, everybody) {
		if err != nil {
			return err
		}
		if n++; n == some {
			return nil
		}
	}
	return fmt.Errorf("%d entries came, want more", n)
}

// abandons asks the server how many abandons it has got.
func abandons(ctx context.Context, client *directory.Client) (n int, err error) {
	for entry, err := range client.Search(ctx, directory.Search{
		Base: "cn=Abandon,cn=Operations,cn=Monitor", Attributes: []string{"monitorOpInitiated"},
	}) {
		if err != nil {
			return 0, err
		}
		if n, err = strconv.Atoi(entry.Get("monitorOpInitiated")); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// stranger connects with a wrong password, which has to fail.
func stranger(ctx context.Context, config directory.Config) error {
	config.Password = "wrong"
	client, err := directory.Dial(ctx, config)
	if err == nil {
		return errors.Join(errors.New("it was let in with a wrong password"), client.Close())
	}
	said := new(directory.ResultError)
	if !errors.As(err, &said) || said.Code != 49 {
		return fmt.Errorf("want invalid credentials: %w", err)
	}
	fmt.Printf("\nWith a wrong password: %v\n", err)
	return nil
}
