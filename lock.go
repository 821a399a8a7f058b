//go:build !plexlocktime || !linux

package plex

import "sync"

// mutex is the type of Multiplexer.mu. A build with the tag plexlocktime has another one, which
// measures how long it is held, see lock_timed_linux.go.
type mutex = sync.Mutex
