package main

// Defects in streams.

var streamDefects = []defect{
	{
		name:  "pushed-back-bytes-dropped",
		what:  "what a stream left in its channel replaces what was left before, instead of going in front of it",
		edits: []edit{in("half.takeBack", replace("append(h.reclaim(), h.back...)", "h.reclaim()"))},
		tests: []suite{root("TestWhatWasPushedBackTwiceKeepsItsOrder", "FuzzReadsAndStreamsDeliverWhatWasSent")},
	},
	{
		name:  "pushed-back-bytes-disordered",
		what:  "what a stream left in its channel goes behind what was read after it",
		edits: []edit{in("half.takeBack", replace("append(h.reclaim(), h.back...)", "append(h.back, h.reclaim()...)"))},
		tests: []suite{root("TestWhatWasPushedBackTwiceKeepsItsOrder", "FuzzReadsAndStreamsDeliverWhatWasSent")},
	},
	{
		name:  "channel-not-drained",
		what:  "what a chunk stream left in its channel is not given to the next read",
		edits: []edit{in("stream.recvChunks", replace("drainChunks(ch)", "[][]byte(nil)"))},
		tests: []suite{root("TestWhatAStreamReadAheadGoesToTheNextLease")},
	},
	{
		name:  "chunk-in-hand-dropped",
		what:  "the chunk that a halted stream could not send on its channel is dropped",
		edits: []edit{in("stream.recvChunks", drop("h.pushBack(chunk)"))},
		tests: []suite{root("TestWhatAStreamReadAheadGoesToTheNextLease", "TestNothingThatIsCancelledCostsAByte")},
	},
	{
		name:  "byte-doubled",
		what:  "the last byte that a halted stream has sent on its channel is delivered once more",
		edits: []edit{in("stream.deliverBytes", replace("return i", "return max(i-1, 0)"))},
		tests: []suite{root("TestNothingThatIsCancelledCostsAByte", "TestWhatAStreamReadAheadGoesToTheNextLease")},
	},
	{
		name:  "backlog-overlooked",
		what:  "the end of a stream does not set the flag for what it left, so a fast Close overlooks it",
		edits: []edit{in("stream.endRecv", drop("s.h.set(dataLeft)"))},
		tests: []suite{root("TestCloseTakesBackWhatAStreamThatAnErrorEndedHasLeft")},
	},
	{
		name:  "chunk-reused",
		what:  "a chunk stream reads into a chunk that its receiver has",
		edits: []edit{in("stream.recvChunks", drop("buf = nil"))},
		tests: []suite{root("TestChunkBelongsToItsReceiver")},
	},
	{
		name:  "empty-datagram-is-an-end",
		what:  "a chunk stream does not deliver an empty datagram",
		edits: []edit{in("stream.recvChunks", replace("err != nil || !h.conn.kind.Datagram()", "true"))},
		tests: []suite{root("TestChunkIsOneDatagramAndAnEmptyOneIsNoEnd")},
	},
	{
		name:  "datagrams-merged",
		what:  "one Read returns several datagrams that were pushed back",
		edits: []edit{in("half.readBack", never("h.conn.kind.Datagram()"))},
		tests: []suite{root("TestDatagramsThatWerePushedBackStayWhole")},
	},
	{
		name:  "unsent-not-counted",
		what:  "Close of a Writer returns no UnsentError for what its stream could not write",
		edits: []edit{in("gatherer.write", onlyIf("g.unsent +=", "false"))},
		tests: []suite{root("TestWhatCouldNotBeWrittenIsCountedToTheByte", "TestEverySentByteArrivesOrIsCounted")},
	},
	{
		name:  "close-does-not-flush",
		what:  "Close of a Writer does not write what its stream had accepted",
		edits: []edit{in("writeFrom", before("takeNow(ch, p.add)", "return true"))},
		tests: []suite{root("TestWriterCloseFlushesWhatWasAccepted", "TestShutdownWaitsUntilAStreamIsFlushed", "ExampleWriter_Send")},
	},
	{
		name:  "sender-hangs",
		what:  "when a write fails, the stream stops emptying its channel, and the sender hangs",
		edits: []edit{in("afterWriting", before("for open", "open = open && g.err == nil"))},
		tests: []suite{root("TestSenderThatOnlySendsAndClosesEndsThoughTheConnectionDied")},
	},
	{
		name:  "last-bytes-not-flushed",
		what:  "a stream whose channel is closed does not write what it has gathered",
		edits: []edit{in("writeFrom", onlyIf("g.flush()", "open").within("case v, ok := <-ch:"))},
		tests: []suite{root("TestSentBytesArriveInOrderAndTheClosedChannelEndsTheStream", "TestManySmallSendsBecomeFewWrites")},
	},
	{
		name:  "stream-waits-for-a-buffer",
		what:  "a stream gathers until its buffer is half full before it writes",
		edits: []edit{in("writeFrom", onlyIf("g.flush()", "!open || len(g.buf) > cap(g.buf)/2").within("case v, ok := <-ch:"))},
		tests: []suite{root("TestSentByteIsOnTheWireWithoutFurtherAdo")},
	},
	{
		name:  "sender-rest-dropped",
		what:  "messages of a Sender behind one that was cut short are dropped without a word",
		pkg:   "message",
		edits: []edit{in("Sender.settleFailedLocked", instead("s.pushFrontLocked(b)", "s.doneLocked(b)"))},
		tests: []suite{own("message", "TestSenderAfterAShortWriteAtEveryByte")},
	},
	{
		name:  "sender-cut-message-repeated",
		what:  "a message of a Sender that was cut short is written again, over another connection",
		pkg:   "message",
		edits: []edit{in("Sender.settleFailedLocked", before("default:", "case pos < n: pos = n; continue").within("switch whole"))},
		tests: []suite{own("message", "TestSenderAfterAShortWriteAtEveryByte")},
	},
	{
		name:  "sender-given-up-and-sent",
		what:  "a message that a Send gave up during its Write is written over another connection when the Write fails",
		pkg:   "message",
		edits: []edit{in("Sender.take", drop("b.compact()")), in("batch.skip", replace("b.parts[b.head].gone", "false"))},
		tests: []suite{own("message", "TestSenderSendThatIsGivenUpDuringItsWrite", "TestSenderSendThatIsGivenUpBeforeItsWrite")},
	},
	{
		name:  "sender-close-forgets",
		what:  "when the ctx of Close ends, a Sender does not hand back what was being written",
		pkg:   "message",
		edits: []edit{in("Sender.settleFailedLocked", replace("s.aborted != nil || refused", "refused"))},
		tests: []suite{own("message", "TestSenderCloseHandsBackWhatIsLeft")},
	},
	{
		name:  "sender-stalls",
		what:  "a peer that has stopped reading holds up all messages of a Sender",
		pkg:   "message",
		edits: []edit{in("Sender.lasting", drop("s.resignLocked(f)"))},
		tests: []suite{own("message", "TestSenderGoesAroundAPeerThatStalls")},
	},
	{
		name:  "sender-overtakes-what-failed",
		what:  "over the connection that replaces a pool's only one, a Sender writes what was queued later before what the lost one did not take",
		pkg:   "message",
		edits: []edit{in("Sender.take", never("earlier != nil"))},
		tests: []suite{own("message", "TestSenderKeepsTheOrderWhenItsOnlyConnectionIsReplaced")},
	},
	{
		name:  "sender-waits-for-a-lost-write",
		what:  "a Sender waits for ever for a Write that does not return though its connection is lost",
		pkg:   "message",
		edits: []edit{in("Sender.leaveToLocked", drop("f.awaited = true"))},
		tests: []suite{own("message", "TestSenderKeepsTheOrderWhenItsOnlyConnectionIsReplaced")},
	},
}
