package message

// Leftovers is how many connections something is kept of.
func (r *Receiver) Leftovers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.leftovers)
}

// Framing is what may be taken beside the longest message.
const Framing = framing

// Memory is how much memory for data is kept.
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
