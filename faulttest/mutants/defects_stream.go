package main

// Defects in streams: stream.go, recv.go, send.go.

var streamDefects = []defect{
	{
		name: "pushed-back-bytes-dropped", file: "recv.go",
		what:  "what a stream has read and nobody took is lost if there was a backlog already",
		edits: []edit{{old: "\th.back = append(h.reclaim(), h.back...)\n", new: "\th.back = h.reclaim()\n"}},
		tests: []suite{root("TestWhatWasPushedBackTwiceKeepsItsOrder", "FuzzReadsAndStreamsDeliverWhatWasSent")},
	},
	{
		name: "pushed-back-bytes-disordered", file: "recv.go",
		what:  "what a stream left goes behind what came after it",
		edits: []edit{{old: "\th.back = append(h.reclaim(), h.back...)\n", new: "\th.back = append(h.back, h.reclaim()...)\n"}},
		tests: []suite{root("TestWhatWasPushedBackTwiceKeepsItsOrder", "FuzzReadsAndStreamsDeliverWhatWasSent")},
	},
	{
		name: "channel-not-drained", file: "recv.go",
		what:  "what a chunk stream left in its channel is lost with the lease",
		edits: []edit{{old: "\th.reclaim = func() [][]byte { return drainChunks(ch) }\n", new: "\th.reclaim = func() [][]byte { return nil }\n"}},
		tests: []suite{root("TestWhatAStreamReadAheadGoesToTheNextLease")},
	},
	{
		name: "chunk-in-hand-dropped", file: "recv.go",
		what:  "the chunk that a stream could not deliver when it was halted is lost",
		edits: []edit{{old: "\t\tif !s.deliverChunk(ch, chunk) {\n\t\t\th.pushBack(chunk)\n\t\t\tbreak", new: "\t\tif !s.deliverChunk(ch, chunk) {\n\t\t\tbreak"}},
		tests: []suite{root("TestWhatAStreamReadAheadGoesToTheNextLease", "TestNothingThatIsCancelledCostsAByte")},
	},
	{
		name: "byte-doubled", file: "recv.go",
		what:  "the byte at which a stream was halted is delivered twice",
		edits: []edit{{old: "\t\tselect {\n\t\tcase ch <- b:\n\t\tcase <-s.halted:\n\t\t\treturn i\n", new: "\t\tselect {\n\t\tcase ch <- b:\n\t\tcase <-s.halted:\n\t\t\treturn max(i-1, 0)\n"}},
		tests: []suite{root("TestNothingThatIsCancelledCostsAByte", "TestWhatAStreamReadAheadGoesToTheNextLease")},
	},
	{
		name: "backlog-overlooked", file: "recv.go",
		what:  "a lease's quick end overlooks what its stream has left",
		edits: []edit{{old: "\ts.h.state.Or(backlog) // so that the end of the lease cannot overlook reclaim\n", new: ""}},
		tests: []suite{root("TestCloseTakesBackWhatAStreamThatAnErrorEndedHasLeft")},
	},
	{
		name: "chunk-reused", file: "recv.go",
		what:  "the memory of a chunk that its receiver keeps is read into again",
		edits: []edit{{old: "\t\t\tbuf = nil\n\t\t}\n\t\tif !s.deliverChunk", new: "\t\t}\n\t\tif !s.deliverChunk"}},
		tests: []suite{root("TestChunkBelongsToItsReceiver")},
	},
	{
		name: "empty-datagram-is-an-end", file: "recv.go",
		what:  "an empty datagram is swallowed by a chunk stream",
		edits: []edit{{old: "\t\tif n == 0 && (err != nil || !h.conn.datagram) {", new: "\t\tif n == 0 {"}},
		tests: []suite{root("TestChunkIsOneDatagramAndAnEmptyOneIsNoEnd")},
	},
	{
		name: "datagrams-merged", file: "recv.go",
		what:  "datagrams that were pushed back are delivered as one",
		edits: []edit{{old: "\tif h.conn.datagram {\n\t\tn = copy(p, h.back[0])", new: "\tif h.conn.udp && !h.conn.datagram {\n\t\tn = copy(p, h.back[0])"}},
		tests: []suite{root("TestDatagramsThatWerePushedBackStayWhole")},
	},
	{
		name: "unsent-not-counted", file: "send.go",
		what:  "a writer's Close does not tell that a stream could not write all",
		edits: []edit{{old: "\tg.unsent += int64(len(p) - n)\n", new: "\t_ = n\n"}},
		tests: []suite{root("TestWhatCouldNotBeWrittenIsCountedToTheByte", "TestEverySentByteArrivesOrIsCounted")},
	},
	{
		name: "close-does-not-flush", file: "send.go",
		what:  "a writer's Close drops what its stream had accepted",
		edits: []edit{{old: "\t\t\topen = takeNow(ch, p.add)\n\t\t\tg.flush()\n\t\t\treturn open\n", new: "\t\t\treturn true\n"}},
		tests: []suite{root("TestWriterCloseFlushesWhatWasAccepted", "TestShutdownWaitsUntilAStreamIsFlushed", "ExampleWriter_Send")},
	},
	{
		name: "sender-hangs", file: "send.go",
		what:  "a sender hangs for ever when its connection dies",
		edits: []edit{{old: "\tfor open {\n\t\tselect {\n\t\tcase v, ok := <-ch:", new: "\tfor open = open && g.err == nil; open; {\n\t\tselect {\n\t\tcase v, ok := <-ch:"}},
		tests: []suite{root("TestSenderThatOnlySendsAndClosesEndsThoughTheConnectionDied")},
	},
	{
		name: "last-bytes-not-flushed", file: "send.go",
		what:  "closing the channel of a stream does not write the rest",
		edits: []edit{{old: "\t\t\t\topen = p.take(ch)\n\t\t\t}\n\t\t\tg.flush()\n", new: "\t\t\t\topen = p.take(ch)\n\t\t\t}\n\t\t\tif open {\n\t\t\t\tg.flush()\n\t\t\t}\n"}},
		tests: []suite{root("TestSentBytesArriveInOrderAndTheClosedChannelEndsTheStream", "TestManySmallSendsBecomeFewWrites")},
	},
	{
		name: "stream-waits-for-a-buffer", file: "send.go",
		what:  "what was sent is not written before a buffer is full",
		edits: []edit{{old: "\t\t\t\topen = p.take(ch)\n\t\t\t}\n\t\t\tg.flush()\n", new: "\t\t\t\topen = p.take(ch)\n\t\t\t}\n\t\t\tif !open || len(g.buf) > cap(g.buf)/2 {\n\t\t\t\tg.flush()\n\t\t\t}\n"}},
		tests: []suite{root("TestSentByteIsOnTheWireWithoutFurtherAdo")},
	},
}
