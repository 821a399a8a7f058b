package plex

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// What acquire, Read, Write and Close touch of a half comes first in it, so that it lies in one cache line whatever the
// size of a word; and the word, which is changed atomically, is aligned where a word of the machine has 32 bits.
func TestWhatIsTouchedOfAHalfIsCloseTogether(t *testing.T) {
	const line = 64
	var h half
	require.Zero(t, unsafe.Offsetof(h.state))
	require.LessOrEqual(t, unsafe.Offsetof(h.refusal)+unsafe.Sizeof(h.refusal), uintptr(line))
	require.Zero(t, unsafe.Alignof(h.state)%8)
	c := new(conn)
	for _, h := range []*half{&c.r, &c.w} {
		require.Zero(t, uintptr(unsafe.Pointer(&h.state))%8)
	}
}

// A handle is passed by value, and so is an event of the poller.
func TestHandlesAreSmall(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(Reader{}), uintptr(16))
	require.LessOrEqual(t, unsafe.Sizeof(Writer{}), uintptr(16))
	require.LessOrEqual(t, unsafe.Sizeof(Duplex{}), uintptr(32))
	require.LessOrEqual(t, unsafe.Sizeof(conn{}), uintptr(1024), "with both halves")
}
