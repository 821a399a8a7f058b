//go:build !unix && !windows

package sock

// ShutDown does nothing: only Close ends a connection here.
func (s Socket) ShutDown() {}

// ResetOnClose does nothing: every Close is an ordinary one.
func (s Socket) ResetOnClose() {}
