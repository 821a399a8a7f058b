package plexdebug

// bell tells those who wait that there is something new. Whoever has it guards it with a lock.
type bell chan struct{} // closed by the next ring; nil if nobody waits for it

// next is closed by the next ring.
func (b *bell) next() <-chan struct{} {
	if *b == nil {
		*b = make(chan struct{})
	}
	return *b
}

func (b *bell) ring() {
	if *b != nil {
		close(*b)
		*b = nil
	}
}
