package main

// Defects of the watcher, and of what it does at the end of an idle connection.

var watchDefects = []defect{
	{
		name:  "closed-elsewhere",
		what:  "nobody looks whether somebody else has closed a transport",
		edits: []edit{in("watcher.check", drop("c.fail(errClosedElsewhere)"))},
		tests: []suite{root("TestATransportThatSomebodyElseClosesIsReplaced")},
	},
	{
		name:  "renewed-with-a-loss",
		what:  "a connection that was renewed counts as lost and healed",
		edits: []edit{in("Multiplexer.succeededLocked", replace("!a.loss.why.retires() && !a.loss.first", "!a.loss.first"))},
		tests: []suite{root("TestConnectionsAreReplacedAtTheirMaximalLifetimeLessAJitter")},
	},
	{
		name:  "detached-and-closed",
		what:  "a connection that was detached is closed",
		edits: []edit{in("conn.detach", replace("c.closed()", "c.closeTransport()"))},
		tests: []suite{root("TestDetachTakesAConnectionOutAlive")},
	},
	{
		name:  "retired-told-as-eof",
		what:  "who reads on from a retired connection is told of an EOF that never came",
		edits: []edit{in("conn.readEnough", drop("c.cause.CompareAndSwap(nil, &errRetired)"))},
		tests: []suite{fault("faulttest", "TestFaultARetiredConnectionTellsOfNoEnd")},
	},
	{
		name:  "watcher-event-ignored",
		what:  "the watcher does nothing about the end of an idle connection",
		edits: []edit{in("watcher.ended", onlyIf("c.noticed(reset)", "false"))},
		tests: []suite{root("TestHalfClosedConnectionCostsNoProcessorTime")},
	},
	{
		name:  "watched-half-not-let-go",
		what:  "after plex has read what is left of a connection at its end, the half stays held and is never leased",
		edits: []edit{in("conn.whileHeld", onlyIf("c.r.arrive(how)", "how != fromRead"))},
		tests: []suite{root("TestTransportEndOfStreamEndsStreamsCleanly")},
	},
	{
		name:  "remains-dropped",
		what:  "what plex itself reads of a connection is dropped",
		edits: []edit{in("half.fetch", drop("h.back = append(h.back"))},
		tests: []suite{root("TestNoMoreThanAFewRemainsAreKeptInMemory")},
	},
	{
		name:  "reset-under-a-lease-unnoticed",
		what:  "a connection that was reset is not failed while a consumer that does not read holds its lease",
		edits: []edit{in("conn.noticed", onlyIf("c.fail(c.resetCause())", "false"))},
		tests: []suite{root("TestLeasesThatDoNothingDoNotHoldUpTheReplacementOfWhatWasReset")},
	},
	{
		name:  "parked-end-untold",
		what:  "where the poller parks, nobody is told of an end",
		pkg:   "internal/poll",
		edits: []edit{in("Member.tell", onlyIf("p.calls.Ended(m.value, n.state == failed)", "false"))},
		tests: []suite{parked(own("internal/poll", "TestAnEndIsTold")), parked(root("TestIdleConnectionThatItsPeerEndsIsReplacedUnasked"))},
	},
	{
		name:  "parked-behind-unread",
		what:  "where the poller parks, an end behind what has arrived is not seen",
		edits: []edit{in("conn.unread", replace("c.fetchIdle()", "false"))},
		tests: []suite{parked(root("TestWhatTheClosedConnectionHasLeftIsReadAndThenItsEnd"))},
	},
	{
		name:  "parked-arm-of-another",
		what:  "where the poller parks, whoever arms after an arrival is told of that arrival",
		pkg:   "internal/poll",
		edits: []edit{in("Member.found", replace("m.armed, m.ended = false, m.ended || n.ended", "m.ended = m.ended || n.ended"))},
		tests: []suite{parked(own("internal/poll", "TestAPoolThatNobodyUsesHasNoPatrol"))},
	},
	{
		name:  "parked-error-forgotten",
		what:  "where the poller parks, the error of a reset, which the system tells once, is forgotten",
		pkg:   "internal/poll",
		edits: []edit{in("Member.found", drop("m.failure.CompareAndSwap(nil, &err)"))},
		tests: []suite{parked(own("internal/poll", "TestTheErrorIsKept")), parked(root("TestAfterEndOnSockets"))},
	},
	{
		name:  "parked-once",
		what:  "where the poller parks, a connection that has been used is not watched any more",
		pkg:   "internal/poll",
		edits: []edit{in("Poller.look", onlyIf("_ = m.WatchEnd()", "false"))},
		tests: []suite{parked(own("internal/poll", "TestTheEndIsSeenAfterADeadline"))},
	},
	{
		name:  "parked-in-use",
		what:  "where the poller parks, it does so also on connections that are being read",
		pkg:   "internal/poll",
		edits: []edit{in("Poller.look", replace("now == Busy || mark != m.mark", "mark != m.mark"))},
		tests: []suite{parked(own("internal/poll", "TestAConnectionInUseIsLeftAlone"))},
	},
	{
		name:  "parked-and-detached",
		what:  "where the poller parks, it stays on a connection that was taken out of the pool",
		edits: []edit{in("conn.leaveAlone", replace("guardDeadline(c.nc.SetReadDeadline, longAgo) == nil", "guardDeadline(c.nc.SetReadDeadline, longAgo) != nil"))},
		tests: []suite{parked(root("TestDetachTakesAConnectionOutAlive"))},
	},
	{
		name:  "reset-told-as-eof",
		what:  "a ready reader is not told of a reset of which the kernel told somebody else",
		edits: []edit{in("half.lookFailed", replace("says == sawEOF && c.wasReset()", "false"))},
		tests: []suite{parked(root("TestAfterEndOnSockets"))},
	},
	{
		name:  "epoll-left-open",
		what:  "the watcher's epoll descriptor and goroutine outlive the multiplexer",
		pkg:   "internal/poll",
		edits: []edit{in("Poller.Stop", drop("p.ends.stop()"))},
		tests: []suite{own("internal/poll", "TestStop"), root("TestWatcherCostsOneDescriptorForThePool", "TestTheProcessIsAsItWasAfterManyMultiplexersOfRealConnections")},
	},
}
