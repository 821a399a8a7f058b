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
		edits: []edit{in("conn.noticed", onlyIf("c.fail(sock.ErrReset)", "false"))},
		tests: []suite{root("TestLeasesThatDoNothingDoNotHoldUpTheReplacementOfWhatWasReset")},
	},
	{
		name:  "epoll-left-open",
		what:  "the watcher's epoll descriptor and goroutine outlive the multiplexer",
		pkg:   "internal/poll",
		edits: []edit{in("Poller.Stop", drop("p.ends.stop()"))},
		tests: []suite{own("internal/poll", "TestStop"), root("TestWatcherCostsOneDescriptorForThePool", "TestTheProcessIsAsItWasAfterManyMultiplexersOfRealConnections")},
	},
	{
		name:  "detached-in-its-slot",
		what:  "a connection that was detached keeps its slot",
		edits: []edit{in("conn.detach", drop("c.closed()"))},
		tests: []suite{fault("./model", "TestPoolIsWhatTheModelSays", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
	{
		name:  "detached-without-its-bytes",
		what:  "what was read of a connection before it was detached is lost",
		edits: []edit{in("Duplex.Detach", replace("d.r.back", "d.r.back[:0]").within("back := d.r.back"))},
		tests: []suite{root("TestDetachTakesAConnectionOutAlive"), fault("./model", "TestPoolIsWhatTheModelSays", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
	{
		name:  "retired-though-pinned",
		what:  "a connection that is due goes though something is expected of it",
		edits: []edit{in("conn.leavePinned", always("c.pins.Load() == 0")), in("conn.retireLooked", replace("c.pins.Load() == 0", "true"))},
		tests: []suite{root("TestATooOldPinnedConnectionDrainsAndGoesWhenItIsUnpinned"), fault("./model", "TestPoolIsWhatTheModelSays", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
	{
		name:  "pinned-for-ever",
		what:  "pins keep a connection that is due for as long as they like",
		edits: []edit{in("conn.drainedLocked", replace("!c.graceEnds.IsZero()", "false"))},
		tests: []suite{root("TestAPinnedConnectionOfAFullPoolIsInServiceUntilItsGraceEnds")},
	},
	{
		name:  "renewed-before-it-is-replaced",
		what:  "a connection is renewed before another has taken its place, though there is room",
		edits: []edit{in("Multiplexer.canSpareLocked", replace("usable > enough", "usable >= enough"))},
		tests: []suite{fault("./model", "TestPoolIsWhatTheModelSays", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
	{
		name:  "renew-does-not-wait",
		what:  "Renew returns when connections have left service, though they are still open",
		edits: []edit{in("Multiplexer.Renew", replace("old[0].life.phase == phaseClosed", "old[0].life.phase >= phaseLeaving"))},
		tests: []suite{fault("./model", "TestPoolIsWhatTheModelSays", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
	{
		name:  "retire-does-nothing",
		what:  "Retire waits for something else to happen to the pool",
		edits: []edit{in("Conn.Retire", drop("c.c.turnOut(whyRenewed)"))},
		tests: []suite{root("TestRetireWithoutAConnector")},
	},
}
