package main

// Defects that reviewers found in the library, planted again.

var reviewedDefects = []defect{
	{
		name:  "places-of-the-leased",
		what:  "the sweep of a full queue keeps stale entries, until nothing fits in",
		edits: []edit{in("word.swept", always("w.idle()"))},
		tests: []suite{root("TestWordTransitionsSayWhatTheyHaveDone", "TestLeasesOnConnectionsThatAreOverLeaveRoomInTheQueues")},
	},
	{
		name:  "kept-until-a-failure",
		what:  "what was read of a connection up to EOF is dropped when the connection fails later",
		edits: []edit{in("conn.retireFor", always("!c.peer.reached(peerRead)"))},
		tests: []suite{root("TestWhatIsKeptOfAnEndedConnectionSurvivesItsFailures")},
	},
	{
		name:  "kept-from-a-kill",
		what:  "what was read of a connection up to EOF is still delivered after a Kill",
		edits: []edit{in("conn.retireFor", replace("whyOf(cause) != whyLost", "false"))},
		tests: []suite{root("TestWhatIsKeptOfAnEndedConnectionIsGivenUpWithAKill")},
	},
	{
		name:  "leaks-wait-for-transports",
		what:  "leak detection, and with it the supervisor, waits for a half's lock, and so for its transport",
		edits: []edit{in("half.suspect", replace("!h.mu.TryLock()", "h.mu.Lock(); false"))},
		tests: []suite{root("TestLeakDetectionDoesNotWaitForALock")},
	},
	{
		name:  "leaks-at-each-wake-up",
		what:  "leak detection looks at all connections each time that the supervisor wakes up",
		edits: []edit{in("detector.look", replace("now.Before(d.at)", "false"))},
		tests: []suite{root("TestLeaksAreLookedForTwiceInEachThreshold")},
	},
	{
		name:  "backlog-too-old",
		what:  "a connection that is replaced for its age takes with it what a stream has left to deliver",
		edits: []edit{in("conn.readOut", replace("c.afterLook(fromRead)", "intoRetire"))},
		tests: []suite{root("TestWhatAStreamHasLeftIsReadBeforeItsConnectionIsReplacedForItsAge")},
	},
	{
		name:  "drained-under-a-lease",
		what:  "the last unpin retires a draining connection even if a read lease, which may pin it again, is live",
		edits: []edit{in("conn.endRetirement", instead("c.drained()", "if c.drained() { c.r.retire() }"))},
		tests: []suite{root("TestAConnectionThatDrainsIsKeptByAPinOfTheLeaseThatHasIt")},
	},
	{
		name:  "leased-after-the-end",
		what:  "halves are retired only after waiters have been told of Close, so a later caller can still get a lease",
		edits: []edit{in("Multiplexer.beginEnd", instead("h.markRetired()", "over = append(over, h)"), instead("h.settle()", "h.retire()"))},
		tests: []suite{root("TestNobodyIsGivenALeaseAfterTheEndWasTold")},
	},
	{
		name:  "hung-connects-counted-on",
		what:  "a connect that hangs beyond its timeout counts as the replacement of a lost connection",
		pkg:   "internal/pace",
		edits: []edit{in("Service.Decide", replace("usable-coming", "usable-d.Connecting"))},
		tests: []suite{own("internal/pace", "TestDecide", "TestDecideKeepsItsBounds")},
	},
	{
		name:  "hung-connects-stop-age",
		what:  "a connect that hangs beyond its timeout keeps all connections from being replaced for their age",
		edits: []edit{in("Multiplexer.canSpareLocked", replace("m.healer.target-m.healer.pace.Hung()", "m.healer.target"))},
		tests: []suite{root("TestAConnectThatHangsDoesNotKeepOthersBeyondTheirAge")},
	},
	{
		name:  "empty-read-takes",
		what:  "a Read with an empty buffer takes a datagram",
		edits: []edit{in("half.readBack", never("len(p) == 0"))},
		tests: []suite{root("TestAnEmptyReadTakesNoDatagram")},
	},
	{
		name:  "failure-forgotten",
		what:  "after a lease has ended, Err does not tell why its connection failed",
		edits: []edit{in("half.end", drop("h.keepCause(id)"))},
		tests: []suite{root("TestErrTellsOfTheFailureAlsoAfterTheLease")},
	},
	{
		name:  "stop-counts-as-time",
		what:  "an operation that was interrupted just before the process stood still is given up, and its connection lost",
		pkg:   "internal/clock",
		edits: []edit{in("steps", replace("10", "1"))},
		tests: []suite{fault("faulttest", "TestFaultTheProcessStandsStill")},
	},
	{
		name:  "ends-without-goodbye",
		what:  "a healthy connection is closed with unread input, which the kernel makes a reset of",
		edits: []edit{in("endingOf", replace("return endsGracefully", "return endsHard"))},
		tests: []suite{fault("faulttest", "TestFaultLinesOverTLSAllArrive")},
	},
	{
		name:  "linger-by-the-millisecond",
		what:  "each of thousands of connections that end is looked at every millisecond",
		edits: []edit{in("lingerPause", replace("200 * time.Millisecond", "time.Millisecond"))},
		tests: []suite{fault("faulttest", "TestFaultThousandsEndWithSomethingUnsent")},
	},
	{
		name:  "own-timeout-is-fatal",
		what:  "a timeout of a transport's own costs the connection, whoever's deadline it was",
		edits: []edit{in("operation.missed", replace("!op.kernel", "false"))},
		tests: []suite{fault("faulttest", "TestFaultDeadlinesOfATransportWithoutAKernel")},
	},
}
