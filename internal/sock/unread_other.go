//go:build !unix || aix

package sock

// Unread returns how many bytes have arrived and were not read, and whether that is known. Here it
// is not.
func (s Socket) Unread() (n int, known bool) { return 0, false }
