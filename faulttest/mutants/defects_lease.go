package main

// Defects in the life of a lease: half.go.

var leaseDefects = []defect{
	{
		name: "double-requeue", file: "half.go",
		what:  "a lease's end puts its half back twice, so that two consumers get it",
		edits: []edit{{old: "\tif h.state.CompareAndSwap(id|leased, id) {\n\t\th.queue.put(h)\n", new: "\tif h.state.CompareAndSwap(id|leased, id) {\n\t\th.queue.put(h)\n\t\th.queue.put(h)\n"}},
		tests: []suite{root("TestAHalfHasAtMostOneLiveLease", "TestWaitersAreServedInTheOrderOfTheirArrival")},
	},
	{
		name: "second-close-requeues", file: "half.go",
		what:  "Close of a lease that has ended puts the half back once more",
		edits: []edit{{old: "\tif !h.beginEndLocked(id) {\n\t\th.mu.Unlock()\n\t\treturn ErrLeaseClosed\n\t}\n\tif s := h.stream; s != nil {\n\t\ts.haltLocked(ErrLeaseClosed)", new: "\tif !h.beginEndLocked(id) {\n\t\th.mu.Unlock()\n\t\tif h.state.Load()&(leased|gone) == 0 {\n\t\t\th.queue.put(h)\n\t\t}\n\t\treturn ErrLeaseClosed\n\t}\n\tif s := h.stream; s != nil {\n\t\ts.haltLocked(ErrLeaseClosed)"}},
		tests: []suite{fault("./model", "TestPoolIsWhatTheModelSays", "TestHistoriesOfLeasesCouldHaveBeenSequential"), root("TestAHalfHasAtMostOneLiveLease")},
	},
	{
		name: "deadline-not-cleared", file: "half.go",
		what:  "a deadline that a consumer set is left on the transport for the next one",
		edits: []edit{{old: "if w&deadline != 0 && w&gone == 0 {", new: "if w&deadline != 0 && w&gone == 0 && h.interrupted {"}},
		tests: []suite{root("TestReadDeadlineEndsWithTheLease", "TestWriteDeadlineEndsWithTheLease")},
	},
	{
		name: "interrupt-not-cleared", file: "half.go",
		what:  "the past deadline that interrupts a blocked operation is left for the next lease",
		edits: []edit{{old: "if w&deadline != 0 && w&gone == 0 {", new: "if w&deadline != 0 && w&gone == 0 && !h.interrupted {"}},
		tests: []suite{root("TestReaderCloseInterruptsABlockedReadAndTheNextLeaseReadsOn", "TestWriterCloseInterruptsABlockedWriteAndTheNextLeaseWritesOn")},
	},
	{
		name: "stream-interrupt-left", file: "half.go",
		what:  "the end of a stream leaves its interrupt in the way of the lease's own deadline",
		edits: []edit{{old: "\th.interrupted = false\n\treturn h.setDeadline(h.until)", new: "\th.interrupted = false\n\treturn nil"}},
		tests: []suite{root("TestStreamEndsWithItsContextAndTheLeaseReadsOn", "TestConsumersDeadlineSurvivesTheEndOfAStream")},
	},
	{
		name: "no-generation-check", file: "half.go",
		what:  "a handle kept after its Close reads and writes on the next consumer's lease",
		edits: []edit{{old: "\t\tcase !usable(w, id):\n\t\t\treturn ErrLeaseClosed\n", new: "\t\tcase w&leased == 0 || w&closing != 0:\n\t\t\treturn ErrLeaseClosed\n"}},
		tests: []suite{root("TestStaleReaderNeverReachesTheConnection", "TestStaleWriterNeverReachesTheConnection")},
	},
	{
		name: "stale-kill", file: "half.go",
		what:  "Kill of a lease that has ended kills the connection under its next consumer",
		edits: []edit{{old: "if !began && (w&^flags != id || w&leased == 0 || h.killed) {", new: "if !began && (w&leased == 0 || h.killed) {"}},
		tests: []suite{root("TestStaleReaderNeverReachesTheConnection", "TestStaleWriterNeverReachesTheConnection")},
	},
	{
		name: "stale-deadline", file: "half.go",
		what:  "SetReadDeadline of a lease that has ended sets the next consumer's deadline",
		edits: []edit{{old: "\tif !h.mark(id, deadline) {\n\t\treturn ErrLeaseClosed\n\t}\n", new: "\th.state.Or(deadline)\n"}},
		tests: []suite{root("TestStaleReaderNeverReachesTheConnection", "TestStaleWriterNeverReachesTheConnection")},
	},
	{
		name: "close-does-not-wait", file: "half.go",
		what:  "Close puts the half back while its interrupted Read is still inside",
		edits: []edit{{old: "\t\tif out == nil {\n\t\t\treturn\n\t\t}\n\t\t<-out\n", new: "\t\treturn\n"}},
		tests: []suite{root("TestReaderCloseWaitsUntilTheInterruptedReadIsOut", "TestWriterCloseWaitsUntilTheInterruptedWriteIsOut")},
	},
	{
		name: "close-does-not-interrupt", file: "half.go",
		what:  "Close waits for a blocked Read instead of interrupting it",
		edits: []edit{{old: "\t\tif out != nil {\n\t\t\th.interruptLocked()\n\t\t}\n", new: ""}},
		tests: []suite{root("TestReaderCloseInterruptsABlockedReadAndTheNextLeaseReadsOn")},
	},
	{
		name: "torn-write-reused", file: "half.go",
		what:  "a connection whose last write was cut short goes back to the pool",
		edits: []edit{{old: "\t\t\th.state.Or(torn)\n", new: "\t\t\th.state.Or(0)\n"}},
		tests: []suite{root("TestTornWriteIsTheConnectionsEndWhenTheLeaseCloses")},
	},
	{
		name: "torn-forever", file: "half.go",
		what:  "a consumer that completes its cut message loses the connection all the same",
		edits: []edit{{old: "\t\th.state.And(^uint64(torn)) // the consumer has mended its message\n", new: ""}},
		tests: []suite{root("TestTornWriteThatTheSameLeaseCompletesIsFine")},
	},
	{
		name: "done-not-closed", file: "half.go",
		what:  "Done is not closed when the connection fails, and who selects on it hangs",
		edits: []edit{{old: "\tif h.done != nil {\n\t\tclose(h.done)\n\t\th.done = nil\n\t}\n}\n\n// err is", new: "}\n\n// err is"}},
		tests: []suite{root("TestDoneIsClosedWhenTheLeaseCanSendNoMore", "TestDoneFreesASenderThatSelectsOnIt")},
	},
	{
		name: "eof-half-pooled", file: "half.go",
		what: "a read half that has come to its end is leased again and again",
		edits: []edit{
			{old: "\t\th.state.Or(gone) // all is delivered; still leased, so this settles nothing\n", new: "\t\th.state.Or(0)\n"},
			{file: "watch.go", old: "\t\th.endHold(h.over() || c.keepRemains())\n\t\treturn\n", new: "\t\th.endHold(c.keepRemains())\n\t\treturn\n"},
		},
		tests: []suite{root("TestAReadHalfThatHasComeToItsEndIsNotLeasedAgain")},
	},
	{
		name: "deadline-is-a-fault", file: "fault.go",
		what:  "a deadline that the consumer set itself costs the connection",
		edits: []edit{{old: "\t\tif !op.deadline || op.tls && op.write {", new: "\t\tif op.deadline || op.tls && op.write {"}},
		tests: []suite{root("TestReadDeadlineIsNoFaultOfTheConnection", "TestWriteDeadlineBeforeTheFirstByteIsNoFaultOfTheConnection")},
	},
	{
		name: "tls-write-timeout-passes", file: "fault.go",
		what:  "a TLS connection is kept after a write deadline has broken its write side",
		edits: []edit{{old: "\t\tif !op.deadline || op.tls && op.write {", new: "\t\tif !op.deadline {"}},
		tests: []suite{root("TestTLSWriteTimeoutLosesTheConnection")},
	},
	{
		name: "udp-refusal-is-fatal", file: "fault.go",
		what:  "one refused datagram costs a UDP connection",
		edits: []edit{{old: "\tcase op.udp && passingDatagram(err):\n\t\treturn passing\n", new: ""}},
		tests: []suite{root("TestUDPRefusedIsPassing", "TestRefusedDatagramIsPassing")},
	},
}
