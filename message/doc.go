// Package message finds whole messages in what arrives on the connections of a [plex.Multiplexer], and writes whole
// ones.
//
// A [Receiver] knows by a split function, a [bufio.SplitFunc], where a message ends: [Prefix.Split] for length
// prefixes, [Lines], [Delimiter], or any other. Whoever ranges over [Receiver.All] gets the messages of all
// connections, as they arrive:
//
//	receiver, err := message.New(mux, message.Prefix{Bytes: 4}.Split)
//	if err != nil {
//		return err
//	}
//	for m, err := range receiver.All(ctx) {
//		if err != nil {
//			log.Print(err) // of one connection; the last one is the end of all
//			continue
//		}
//		handle(m.Data)
//	}
//
// [Send] writes whole messages.
//
// # What is promised
//
// Each message that arrived whole on a connection that did not fail is delivered, to one loop, once, and those of one
// connection in order. No message has bytes of two connections, or of two datagrams. One whose connection ended before
// it was whole is reported, with what had come of it, and not delivered as if it were whole. One that is too long costs
// its own connection, and so does a split function that errs, and the others go on.
//
// # What it costs
//
// A Receiver has no goroutine. A loop has a buffer of 256 KiB while it has something to deliver; a connection has
// memory only while part of a message has arrived, of the size of that part. A message takes one allocation, of its
// own length.
package message
