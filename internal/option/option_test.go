package option_test

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/option"
)

func TestValue(t *testing.T) {
	var v option.Value[int]
	require.False(t, v.Given())
	require.Zero(t, v.Get())
	require.Equal(t, 7, v.Or(7))
	v.Give(3)
	v.Give(0) // the last counts, and zero is a value
	require.True(t, v.Given())
	require.Zero(t, v.Get())
	require.Zero(t, v.Or(7))

	var f option.Value[func()]
	f.Give(nil)
	require.True(t, f.Given(), "nil is told from none")
}

type config struct{ order []int }

type Option func(*config)

func with(n int) Option { return func(c *config) { c.order = append(c.order, n) } }

func TestApply(t *testing.T) {
	var c config
	require.NoError(t, option.Apply("plex", "New", &c, []Option{with(1), with(2)}).Err())
	require.Equal(t, []int{1, 2}, c.order)
	require.NoError(t, option.Apply("plex", "New", &c, []Option(nil)).Err())

	err := option.Apply("plex", "New", &c, []Option{nil, with(3), nil}).Err()
	require.EqualError(t, err, "plex: New: option 1 of 3 is nil; leave it out or give an option\n"+
		"plex: New: option 3 of 3 is nil; leave it out or give an option")
	require.Equal(t, []int{1, 2, 3}, c.order)
}

func TestProblems(t *testing.T) {
	p := option.Apply("request", "New", &config{}, []Option{})
	p.Add("WithA", "it is %d: %w", 1, io.EOF)
	p.Add("WithB", "it is 100%%")
	for _, d := range []time.Duration{1, 0, -time.Second} {
		var v option.Value[time.Duration]
		p.Positive("WithC", v)
		v.Give(d)
		p.Positive("WithC", v)
	}
	require.ErrorIs(t, p.Err(), io.EOF)
	require.EqualError(t, p.Err(), "request: WithA: it is 1: EOF\n"+
		"request: WithB: it is 100%\n"+
		"request: WithC: the duration is 0s; it must be above zero\n"+
		"request: WithC: the duration is -1s; it must be above zero")
}
