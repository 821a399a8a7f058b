package cases

// The client of examples/redis beside the clients that everybody uses.

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/redis/rueidis"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/examples/redis/store"
)

// Redis is asked by plex and by rueidis over as many connections. 4 is what rueidis takes by itself
// on machines with 4 processors or more.
const redisConnections = 4

// redisPool is how many connections go-redis has, beyond which it was no faster.
const redisPool = 64

// What the server is asked for.
const (
	redisKeys  = 1_000
	redisValue = 64 // bytes
)

// The other clients.
const (
	rueidisName  = "rueidis"
	rueidisOne   = "rueidis, 1 connection"
	goRedisName  = "go-redis"
	goRedisBatch = "go-redis, AutoPipeline"
)

// redisCallers are how many callers there are.
var redisCallers = []int{1, 16, 64, 128, 1_000, 8_000}

var redisServer = program{name: "redis-server", args: func(host, port string) []string {
	return []string{"--bind", host, "--port", port, "--save", "", "--protected-mode", "no"}
}}

func redisCases() []*harness.Case {
	var cases []*harness.Case
	for _, callers := range redisCallers {
		cases = append(cases, redisCase(callers))
	}
	return cases
}

func redisCase(callers int) *harness.Case {
	server := &shared{program: redisServer, ready: fillRedis}
	c := &harness.Case{
		Group: GroupRedis,
		Name:  fmt.Sprintf("redis/%d", callers),
		Title: "GET, " + plural(callers, "caller"),
		Compares: fmt.Sprintf("%s that each GET a value of %d bytes from one redis-server and wait for it: over %d connections by examples/redis (request.NewOrdered) and by rueidis with its automatic pipelining, and by that over one connection; by go-redis with a pool of %d connections, and by its experimental AutoPipeline, which has one batch in flight at a time",
			plural(callers, "goroutine"), redisValue, redisConnections, redisPool),
		Metrics: []harness.Metric{requests, replyP50, replyP99, harness.Allocs},
		Turn:    100 * time.Millisecond,
		Rounds:  7,
	}
	if callers >= 1_000 {
		c.Turn = 200 * time.Millisecond // so that each of them asks a few times
	}
	for _, client := range redisClients() {
		c.Subjects = append(c.Subjects, asking(client.name, callers, client.opener(server)))
	}
	if callers == 64 || callers == 1_000 {
		c.Targets = []harness.Target{
			harness.AtLeast(1.2, rueidisName, requests.Key), harness.AtLeast(5, goRedisName, requests.Key),
		}
	}
	return redisServer.needs(c)
}

// redisClient is a client of Redis. dial returns what gets a value, and how to close the client.
type redisClient struct {
	name string
	dial func(ctx context.Context, address string) (get func(key string) (string, error), shut func() error, err error)
}

func redisClients() []redisClient {
	return []redisClient{
		{"plex", dialStore},
		{rueidisName, dialRueidis(2)},
		{rueidisOne, dialRueidis(-1)},
		{goRedisName, dialGoRedis},
		{goRedisBatch, dialAutoPipeline},
	}
}

// opener returns what asking wants.
func (r redisClient) opener(server *shared) func() (func(caller int) error, func() error, error) {
	return func() (func(int) error, func() error, error) {
		address, err := server.open()
		if err != nil {
			return nil, nil, err
		}
		get, shut, err := r.dial(context.Background(), address)
		if err != nil {
			return nil, nil, errors.Join(err, server.close())
		}
		return getting(get), func() error { return errors.Join(shut(), server.close()) }, nil
	}
}

// getting returns what a caller does: it gets a value, and checks it.
func getting(get func(key string) (string, error)) func(caller int) error {
	keys, values := redisData()
	return func(caller int) error {
		i := caller % redisKeys
		value, err := get(keys[i])
		if err == nil && value != values[i] {
			err = fmt.Errorf("%s is %q, want %q", keys[i], value, values[i])
		}
		return err
	}
}

// redisData is what the server has.
func redisData() (keys, values []string) {
	for i := range redisKeys {
		keys = append(keys, fmt.Sprintf("bench:%d", i))
		values = append(values, fmt.Sprintf("%-*d", redisValue, i))
	}
	return keys, values
}

// fillRedis gives a server its values.
func fillRedis(address string) error {
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	client, err := store.Dial(ctx, "tcp", address, 1)
	if err != nil {
		return err
	}
	keys, values := redisData()
	for i, key := range keys {
		err = errors.Join(err, client.Set(ctx, key, values[i], 0))
	}
	return errors.Join(err, client.Close())
}

func dialStore(ctx context.Context, address string) (func(string) (string, error), func() error, error) {
	client, err := store.Dial(ctx, "tcp", address, redisConnections)
	if err != nil {
		return nil, nil, err
	}
	return func(key string) (string, error) { return client.Get(context.Background(), key) }, client.Close, nil
}

// dialRueidis returns a dial of a client as its documentation has it. Only the number of connections
// is set: 2 to the power of multiplex, and 1 for -1. By itself it would have fewer on a small machine.
func dialRueidis(multiplex int) func(context.Context, string) (func(string) (string, error), func() error, error) {
	return func(_ context.Context, address string) (func(string) (string, error), func() error, error) {
		client, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{address}, PipelineMultiplex: multiplex,
		})
		if err != nil {
			return nil, nil, err
		}
		get := func(key string) (string, error) {
			return client.Do(context.Background(), client.B().Get().Key(key).Build()).ToString()
		}
		return get, func() error { client.Close(); return nil }, nil
	}
}

func goRedisClient(address string) *goredis.Client {
	return goredis.NewClient(&goredis.Options{
		Addr: address, PoolSize: redisPool,
		// A measurement on a busy machine has no use for the 5 s that it has by itself.
		ReadTimeout: time.Minute, PoolTimeout: time.Minute,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

func dialGoRedis(ctx context.Context, address string) (func(string) (string, error), func() error, error) {
	client := goRedisClient(address)
	get := func(key string) (string, error) { return client.Get(context.Background(), key).Result() }
	return get, client.Close, client.Ping(ctx).Err()
}

func dialAutoPipeline(ctx context.Context, address string) (func(string) (string, error), func() error, error) {
	client := goRedisClient(address)
	batching, err := client.AutoPipeline()
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	get := func(key string) (string, error) { return batching.Get(context.Background(), key).Result() }
	return get, func() error { return errors.Join(batching.Close(), client.Close()) }, client.Ping(ctx).Err()
}
