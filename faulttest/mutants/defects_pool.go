package main

// Defects in the pool: its queues, the lives of its connections, and its end.

var poolDefects = []defect{
	{
		name:  "waiter-not-woken-at-close",
		what:  "Close and Shutdown do not wake waiters",
		edits: []edit{in("Multiplexer.beginEnd", drop("m.wakeLocked()"))},
		tests: []suite{root("TestCloseWakesEveryWaiter", "TestShutdownWakesEveryWaiter")},
	},
	{
		name:  "one-waiter-woken",
		what:  "a waiter that takes the wake-up token does not pass it on to the next",
		edits: []edit{in("Multiplexer.tokenTaken", drop("q.put(nil)"))},
		tests: []suite{root("TestCloseWakesEveryWaiter")},
	},
	{
		name:  "lost-wake-up",
		what:  "waiters are not told when the last connection is lost and there is no connector",
		edits: []edit{in("conn.uncountLocked", drop("m.wakeIfHopelessLocked()"))},
		tests: []suite{root("TestLosingTheLastConnectionWakesEveryWaiterWhenNobodyCanReplaceIt")},
	},
	{
		name:  "failed-add-wakes-nobody",
		what:  "waiters are not told when the only connection on its way fails and there is no connector",
		edits: []edit{in("Multiplexer.unreserveLocked", drop("m.wakeIfHopelessLocked()"))},
		tests: []suite{fault("./model", "TestWaitersAreToldThatTheConnectionBeingAddedHasFailed")},
	},
	{
		name:  "cancel-races-grant",
		what:  "if a waiter's ctx ends while it is handed a half, the half stays leased and nobody has it",
		edits: []edit{in("Multiplexer.wait", instead("leased, lease = h, id", "if err = ctx.Err(); err == nil { leased, lease = h, id }"))},
		tests: []suite{root("TestAGrantThatRacesItsCancellationIsNeverLost")},
	},
	{
		name:  "ended-context-takes",
		what:  "a caller whose ctx has ended gets a lease",
		edits: []edit{in("Multiplexer.acquire", always("ctx.Err() == nil"))},
		tests: []suite{root("TestAnEndedContextTakesNothingThoughAHalfIsIdle", "TestContextsOfANanosecondLoseNoHalf")},
	},
	{
		name:  "first-cause-overwritten",
		what:  "a later error of a connection replaces the first as its cause",
		edits: []edit{in("conn.fail", replace("!c.cause.CompareAndSwap(nil, &first)", "c.cause.Swap(&first) != nil"))},
		tests: []suite{root("TestKillAfterAResetKeepsTheFirstCause", "TestResetReadFirstIsTheCauseForTheWriterToo", "TestKillEndsItsOwnStream")},
	},
	{
		name:  "reset-told-as-end",
		what:  "when the other half was told of a reset, the EOF that this half gets passes for a clean end",
		edits: []edit{in("conn.resetBehindEOF", instead("return c.failure()", "return nil"))},
		tests: []suite{root("TestEOFOfAConnectionThatWasResetIsTheReset")},
	},
	{
		name:  "eof-before-the-writes-reset",
		what:  "an EOF is believed though a Write is about to tell of a reset, where there is no socket to ask",
		edits: []edit{in("conn.letTell", drop("time.Sleep(tellStep)"))},
		tests: []suite{root("TestEOFBeforeTheErrorOfAWriteThatIsUnderWayIsAReset")},
	},
	{
		name:  "look-eats-a-refusal",
		what:  "a refused datagram of which plex reads first is told to nobody",
		edits: []edit{in("half.lookFailed", drop("h.refusal = err"))},
		tests: []suite{root("TestARefusalThatPlexHasReadGoesToTheNextReader")},
	},
	{
		name:  "lease-waits-for-ever",
		what:  "the end of a lease waits for a transport that never returns, though its connection is closed",
		edits: []edit{in("half.endInTime", instead("late := time.NewTimer(closeGrace)", "late := time.NewTimer(1000 * time.Hour)"))},
		tests: []suite{root("TestALeaseEndsThoughTheTransportNeverReturns")},
	},
	{
		name:  "closed-twice",
		what:  "a transport can be closed twice",
		edits: []edit{in("conn.closeLocked", instead("return ok", "return ok || c.life.phase == phaseClosing"))},
		tests: []suite{root("TestReaderKillEndsBothHalves", "TestCloseClosesEveryConnectionLeasedOrNotExactlyOnce")},
	},
	{
		name:  "not-closed-at-its-end",
		what:  "a transport is not closed when its peer has closed and both halves are settled",
		edits: []edit{in("conn.uselessLocked", atStart("return false"))},
		tests: []suite{root("TestFINWithoutAWriteLeaseClosesTheConnection")},
	},
	{
		name:  "eof-write-half-pooled",
		what:  "the write half is leased again after the read half has seen EOF",
		edits: []edit{in("conn.peerEnded", drop("c.w.retire()"))},
		tests: []suite{root("TestFINWithoutAWriteLeaseClosesTheConnection", "TestWriteLeaseThatEndsAfterTheFINDoesNotGoBackThoughTheReaderStays")},
	},
	{
		name:  "close-spares-the-leased",
		what:  "Close of the multiplexer does not close connections that are leased",
		edits: []edit{in("Multiplexer.Close", onlyIf("c.fail(ErrClosed)", "!(c.r.word() | c.w.word()).is(leaseLive)"))},
		tests: []suite{root("TestCloseClosesEveryConnectionLeasedOrNotExactlyOnce", "TestMultiplexerCloseEndsABlockedRead")},
	},
	{
		name:  "shutdown-does-not-wait",
		what:  "Shutdown does not wait for the leases to end",
		edits: []edit{in("Multiplexer.Shutdown", replace("m.alive > 0", "m.alive > 0 && ctx.Err() != nil"))},
		tests: []suite{root("TestShutdownWaitsForTheLeasesAndRefusesNewOnes", "TestShutdownWaitsUntilAStreamIsFlushed")},
	},
	{
		name:  "connecting-not-counted",
		what:  "Add does not count connections on their way against the capacity",
		edits: []edit{in("Multiplexer.reserve", replace("m.open+m.connecting", "m.open"))},
		tests: []suite{root("TestAddsThatRaceForTheLastPlacesTakeNoMoreThanThereAre", "TestAConnectionThatIsBeingAddedHasItsPlace")},
	},
	{
		name:  "known-twice",
		what:  "a connection that is in the pool can be added once more",
		edits: []edit{in("Multiplexer.claim", drop("return nil, ErrKnownConnection"))},
		tests: []suite{root("TestAddRefusesNilAndKnownConnectionsAndTakesTheGoodOnesBesideThem", "TestConnectAttachesWhatIsInThePool")},
	},
	{
		name:  "remains-unbounded",
		what:  "connections that are kept only for what is left to read are not bounded in number",
		edits: []edit{in("conn.keepRemains", replace("mostRemains(m.capacity, m.reading.Load())", "100*m.capacity"))},
		tests: []suite{root("TestWhatLostConnectionsHaveLeftToReadIsKeptForAsManyAsTheCapacity")},
	},
	{
		name:  "killed-not-lost",
		what:  "a connection that a consumer kills is not replaced",
		edits: []edit{in("conn.leftLocked", atStart("if c.life.why == whyKilled { c.m.healer.target--; return }"))},
		tests: []suite{root("TestEveryKindOfLossLeadsToOneReplacementAndToldTheLostAddress")},
	},
}
