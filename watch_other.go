//go:build !linux

package plex

// watcher is a sweeper where there is no epoll.
type watcher = sweeper

func newWatcher(m *Multiplexer) (*watcher, error) { return newSweeper(m), nil }

func watches(c *conn) bool { return sweeps(c) }
