package main

// Defects in the life of a lease.

var leaseDefects = []defect{
	{
		name:  "duplex-of-a-pinned-connection",
		what:  "a whole connection is leased though somebody expects a reply on it",
		edits: []edit{in("half.leaseNow", drop("return 0, false"))},
		tests: []suite{root("TestDuplexWaitsUntilNothingIsExpectedOfTheConnection")},
	},
	{
		name:  "duplex-still-listed",
		what:  "a connection stays listed as ready though a Duplex has read what made it so",
		edits: []edit{in("half.leaseNow", drop("h.unlist()"))},
		tests: []suite{root("TestDuplexInAPoolWithReadyReaders")},
	},
	{
		name:  "named-waiter-forgotten",
		what:  "who waits for one half is not told that it is retired",
		edits: []edit{in("half.markRetired", drop("h.failNamed()"))},
		tests: []suite{root("TestConnWriterOfAnEndedConnectionGivesTheCause")},
	},
	{
		name:  "named-behind-the-line",
		what:  "a half that somebody waits for by name goes to the queue",
		edits: []edit{in("word.arrived", drop("case next.is(poolNamed):"))},
		tests: []suite{root("TestConnWriterGoesAheadOfTheLine", "TestDuplexWaitsForTheReadHalfOfItsConnection")},
	},
	{
		name:  "unpin-serves-nobody",
		what:  "the end of the last expectation serves nobody who waits for the whole connection",
		edits: []edit{in("Conn.Pin", drop("c.c.r.offerNamed()"))},
		tests: []suite{root("TestDuplexWaitsUntilNothingIsExpectedOfTheConnection")},
	},
	{
		name:  "unread-after-a-duplex",
		what:  "what a whole connection leaves unread is kept for the next, where only requests are answered",
		edits: []edit{in("half.readAhead", drop("c.failUnasked(whole)"))},
		tests: []suite{root("TestBytesThatADuplexLeavesUnreadLoseTheConnection")},
	},
	{
		name:  "unasked-before-a-duplex",
		what:  "nobody looks for unasked bytes before a whole connection is leased",
		edits: []edit{in("conn.wholeNow", drop("c.lookUnasked()"))},
		tests: []suite{root("TestADuplexNeverBeginsWithUnaskedBytes")},
	},
	{
		name:  "unasked-while-idle",
		what:  "unasked bytes on an idle connection are kept for whoever comes",
		edits: []edit{in("conn.afterLook", drop("c.failUnasked(false)"))},
		tests: []suite{root("TestUnaskedBytesLoseAnIdleConnection")},
	},
	{
		name:  "asked-for-by-a-pin",
		what:  "a reply that is expected by a pin counts as unasked for",
		edits: []edit{in("conn.expectsNothing", replace("c.isFree()", "true"))},
		tests: []suite{root("TestWhatAPinIsForIsNotUnasked")},
	},
	{
		name:  "double-requeue",
		what:  "the end of a lease puts the half into the queue twice, until the queue is full of entries that are nobody's",
		edits: []edit{in("half.close", twice("h.queue.put(h)"))},
		tests: []suite{root("TestAHalfHasAtMostOneLiveLease", "TestWaitersAreServedInTheOrderOfTheirArrival")},
	},
	{
		name:  "second-close-requeues",
		what:  "a second Close of a lease puts the half into the queue once more",
		edits: []edit{in("half.closeSlow", before("return ErrLeaseClosed", "if h.word().idle() { h.queue.put(h) }"))},
		tests: []suite{fault("./model", "TestPoolIsWhatTheModelSays", "TestHistoriesOfLeasesCouldHaveBeenSequential"), root("TestAHalfHasAtMostOneLiveLease")},
	},
	{
		name:  "deadline-not-cleared",
		what:  "a deadline that a consumer set stays on the transport for the next lease",
		edits: []edit{in("deadlines.clear", onlyIf("err = on.setDeadline(time.Time{})", "d.interrupted"))},
		tests: []suite{root("TestReadDeadlineEndsWithTheLease", "TestWriteDeadlineEndsWithTheLease")},
	},
	{
		name:  "interrupt-not-cleared",
		what:  "the past deadline that interrupted a blocked operation stays on the transport for the next lease",
		edits: []edit{in("deadlines.clear", onlyIf("err = on.setDeadline(time.Time{})", "!d.interrupted"))},
		tests: []suite{root("TestReaderCloseInterruptsABlockedReadAndTheNextLeaseReadsOn", "TestWriterCloseInterruptsABlockedWriteAndTheNextLeaseWritesOn")},
	},
	{
		name:  "stream-interrupt-left",
		what:  "after a stream was interrupted, the past deadline stays instead of the consumer's own",
		edits: []edit{in("deadlines.resume", replace("on.setDeadline(d.until)", "nil"))},
		tests: []suite{root("TestStreamEndsWithItsContextAndTheLeaseReadsOn", "TestConsumersDeadlineSurvivesTheEndOfAStream")},
	},
	{
		name:  "no-generation-check",
		what:  "Read and Write do not compare the number of the lease, so a closed Reader reaches the next consumer's lease",
		edits: []edit{in("word.entered", replace("!w.goesOn(id)", "!w.is(leaseLive) || w.is(leaseClosing)"))},
		tests: []suite{root("TestStaleReaderNeverReachesTheConnection", "TestStaleWriterNeverReachesTheConnection")},
	},
	{
		name:  "stale-kill",
		what:  "Kill does not compare the number of the lease, so a closed Reader kills the connection of the next consumer",
		edits: []edit{in("half.kill", replace("w.lease() != id", "false"))},
		tests: []suite{root("TestStaleReaderNeverReachesTheConnection", "TestStaleWriterNeverReachesTheConnection")},
	},
	{
		name:  "stale-deadline",
		what:  "SetReadDeadline of a closed Reader sets the deadline of the next consumer's lease",
		edits: []edit{in("half.consumerDeadline", instead("h.mark(id, leaseDeadline)", "h.set(leaseDeadline)"))},
		tests: []suite{root("TestStaleReaderNeverReachesTheConnection", "TestStaleWriterNeverReachesTheConnection")},
	},
	{
		name:  "close-does-not-wait",
		what:  "Close puts the half back while the Read that it interrupted is still inside the transport",
		edits: []edit{in("half.evict", always("out == nil"))},
		tests: []suite{root("TestReaderCloseWaitsUntilTheInterruptedReadIsOut", "TestWriterCloseWaitsUntilTheInterruptedWriteIsOut")},
	},
	{
		name:  "close-does-not-interrupt",
		what:  "Close waits for a blocked Read instead of interrupting it",
		edits: []edit{in("half.evict", drop("h.interruptLocked()"))},
		tests: []suite{root("TestReaderCloseInterruptsABlockedReadAndTheNextLeaseReadsOn")},
	},
	{
		name:  "torn-write-reused",
		what:  "a connection whose last write was cut short goes back to the pool",
		edits: []edit{in("half.afterWrite", drop("h.set(leaseTorn)"))},
		tests: []suite{root("TestTornWriteIsTheConnectionsEndWhenTheLeaseCloses")},
	},
	{
		name:  "torn-forever",
		what:  "a consumer that completes its cut message loses the connection all the same",
		edits: []edit{in("half.afterWrite", drop("h.unset(leaseTorn)"))},
		tests: []suite{root("TestTornWriteThatTheSameLeaseCompletesIsFine")},
	},
	{
		name:  "done-not-closed",
		what:  "Done is not closed when the connection fails",
		edits: []edit{in("half.failed", drop("h.closeDoneLocked()"))},
		tests: []suite{root("TestDoneIsClosedWhenTheLeaseCanSendNoMore", "TestDoneFreesASenderThatSelectsOnIt")},
	},
	{
		name: "eof-half-pooled",
		what: "a read half at EOF, with nothing left to deliver, is leased again and again",
		edits: []edit{
			in("half.arrive", replace("!h.writes() && c.finished()", "false")),
			in("conn.afterLook", never("c.finished()")),
		},
		tests: []suite{root("TestAReadHalfThatHasComeToItsEndIsNotLeasedAgain")},
	},
	{
		name:  "deadline-is-a-fault",
		what:  "a missed deadline that the consumer set costs the connection",
		edits: []edit{in("judge", replace("!op.deadline", "op.deadline"))},
		tests: []suite{root("TestReadDeadlineIsNoFaultOfTheConnection", "TestWriteDeadlineBeforeTheFirstByteIsNoFaultOfTheConnection")},
	},
	{
		name:  "tls-write-timeout-passes",
		what:  "a TLS connection is kept after a write missed its deadline, which breaks TLS",
		edits: []edit{in("judge", replace("op.kind.TLS() && op.write", "false"))},
		tests: []suite{root("TestTLSWriteTimeoutLosesTheConnection")},
	},
	{
		name:  "udp-refusal-is-fatal",
		what:  "one refused datagram costs a UDP connection",
		edits: []edit{in("judge", never("op.kind.Passing(err)"))},
		tests: []suite{root("TestUDPRefusedIsPassing", "TestRefusedDatagramIsPassing")},
	},
}
