// Package layers holds the proof that packages message and request survive faults. The tests of this folder are the
// table of their faults, over real sockets and the proxy; the program in soak drives both layers through random ones.
// What the two share is here: servers that remember what they have done, and books that compare it with what has come
// of it.
//
//   - Talker sends messages whose bytes say which connection and which place in it they belong to; Heard takes what a
//     receiver delivers, and finds the message that is lost, comes twice, is out of order or glued to another.
//   - Executor answers requests in every way, good and bad, and remembers what it has executed; Asked takes what the
//     callers of Do were told, and finds the reply that is another's, the request executed twice, and the one that was
//     said not to have been sent. Turns is the same in order, without identifiers.
//   - Taker takes messages; Shipped takes what a message.Sender says of them, and a Tap sees what it has really written.
package layers
