package message

// Leftovers returns the number of connections that something is kept for.
func (r *Receiver) Leftovers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.leftovers)
}

// Framing is how many bytes may be taken beside the longest message.
const Framing = framing

// Memory returns how much memory is kept for data.
func (r *Receiver) Memory() (bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, left := range r.leftovers {
		if !left.held {
			bytes += cap(left.data)
		}
	}
	return bytes
}

// Splits returns the number of connections that a split function is kept for.
func (r *Receiver) Splits() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.splits)
}
