// Package message finds whole messages in what arrives on the connections of a [plex.Multiplexer],
// and writes whole messages.
//
// A [Receiver] uses a split function, a [bufio.SplitFunc], to find where a message ends:
// [Prefix.Split] for length prefixes, [Lines], [Delimiter], or any other. [NewFor] takes split
// functions that keep state. Range over [Receiver.All] to get the messages of all connections as
// they arrive:
//
//	receiver, err := message.New(mux, message.Prefix{Bytes: 4}.Split)
//	if err != nil {
//		return err
//	}
//	for m, err := range receiver.All(ctx) {
//		if err != nil {
//			log.Print(err) // about one connection; the last one ends the loop
//			continue
//		}
//		handle(m.Data)
//	}
//
// [Send] writes whole messages, one Write each. A [Sender] gathers what many goroutines send, has a
// bounded queue for those who do not want to wait, and hands back what could not be written.
//
// # What is promised
//
// Each message that arrived whole on a connection that did not fail is delivered once, to one loop,
// and those of one connection in order. No message contains bytes of two connections or of two
// datagrams. A message whose connection ended before it was whole is reported with what came of it;
// it is never delivered as if it were whole. A message that is too long, or a split function that
// fails, costs its own connection; the others go on.
//
// Each message given to a Sender is written whole, or handed back with whether the peer may have got
// something of it. None is written twice.
//
// # What it costs
//
// A Receiver has no goroutine. A loop has a buffer of 256 KiB while it has something to deliver. A
// connection takes memory only while part of a message has arrived, in proportion to that part. A
// message takes one allocation, of its own length. A Sender has goroutines only while there is
// something to write, and allocates nothing for a message in the long run.
package message
