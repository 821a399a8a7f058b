package pools

import (
	"context"
	"net"
	"net/http"
	"time"
)

// NewHTTP returns the transport of net/http, set up as the pools are. It is no
// Pool: the only way to take one of its connections is to make a request, so
// it can be compared where requests are made, where connections idle, and where
// they die, but not where one is only taken and given back.
func NewHTTP(c Config) *http.Transport {
	return &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) },
		MaxConnsPerHost:     c.Max,
		MaxIdleConns:        c.Max,
		MaxIdleConnsPerHost: c.Max,
		IdleConnTimeout:     time.Hour,
		DisableCompression:  true,
	}
}
