//go:build !linux

package sock

// WasReset is known on Linux only. Elsewhere an io.EOF is taken at its word.
func (s Socket) WasReset() bool { return false }

// Unsent is known on Linux only. Elsewhere the close of a connection that has failed may queue
// behind what the peer has not taken.
func (s Socket) Unsent() int { return 0 }
