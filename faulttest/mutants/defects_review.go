package main

// Defects that reviewers found in the library, planted again.

var reviewedDefects = []defect{
	{
		name: "places-of-the-leased", file: "half.go",
		what:  "halves that consumers hold take up the queues, until nothing can be put into them",
		edits: []edit{{old: "\t\tcase w&leased == 0:\n\t\t\treturn false\n\t\tcase q.lends:", new: "\t\tcase true:\n\t\t\treturn false\n\t\tcase q.lends:"}},
		tests: []suite{root("TestLeasesOnConnectionsThatAreOverLeaveRoomInTheQueues")},
	},
	{
		name: "kept-until-a-failure", file: "conn.go",
		what:  "what has been read of an ended connection is thrown away when a write fails",
		edits: []edit{{old: "\tif !c.kept.Load() || cause == ErrKilled", new: "\tif c.kept.Load() || !c.kept.Load() || cause == ErrKilled"}},
		tests: []suite{root("TestWhatIsKeptOfAnEndedConnectionSurvivesItsFailures")},
	},
	{
		name: "kept-from-a-kill", file: "conn.go",
		what:  "what a connection had brought is delivered though a consumer has killed it",
		edits: []edit{{old: "\tif !c.kept.Load() || cause == ErrKilled || cause == ErrClosed {", new: "\tif !c.kept.Load() || cause == ErrClosed {"}},
		tests: []suite{root("TestWhatIsKeptOfAnEndedConnectionIsGivenUpWithAKill")},
	},
	{
		name: "leaks-wait-for-transports", file: "leak.go",
		what:  "leak detection waits for a transport with the multiplexer's lock held",
		edits: []edit{{old: "\tif !h.mu.TryLock() {", new: "\tif h.mu.Lock(); false {"}},
		tests: []suite{root("TestLeakDetectionDoesNotWaitForATransport")},
	},
	{
		name: "backlog-too-old", file: "ready.go",
		what:  "what a stream has left is thrown away with a connection that is too old",
		edits: []edit{{old: "\treturn w&backlog != 0 || w&(attended|fresh) == attended|fresh\n", new: "\treturn w&attended != 0 && w&(fresh|backlog) != 0\n"}},
		tests: []suite{root("TestWhatAStreamHasLeftIsReadBeforeItsConnectionIsReplacedForItsAge")},
	},
	{
		name: "drained-under-a-lease", file: "name.go",
		what:  "a connection that drains is retired though the lease that has it pins it again",
		edits: []edit{{old: "\t\t\tc.c.r.retireUnleased()\n", new: "\t\t\tc.c.r.retire()\n"}},
		tests: []suite{root("TestAConnectionThatDrainsIsKeptByAPinOfTheLeaseThatHasIt")},
	},
	{
		name: "leased-after-the-end", file: "plex.go",
		what: "a lease is given after others have been told that the multiplexer is closed",
		edits: []edit{{
			old: "\t\tif r, w := c.r.markGone(), c.w.markGone(); r || w {\n\t\t\tsettle = append(settle, func() {\n\t\t\t\tif r {\n\t\t\t\t\tm.settle(&c.r)\n\t\t\t\t}\n\t\t\t\tif w {\n\t\t\t\t\tm.settle(&c.w)\n\t\t\t\t}\n\t\t\t})\n\t\t}\n",
			new: "\t\tsettle = append(settle, func() {\n\t\t\tc.r.retire()\n\t\t\tc.w.retire()\n\t\t})\n",
		}},
		tests: []suite{root("TestNobodyIsGivenALeaseAfterTheEndWasTold", "TestNobodyIsGivenAReadyReaderOnceTheEndHasBegun")},
	},
	{
		name: "hung-connects-counted-on", file: "healer.go",
		what:  "a connect that never returns keeps a lost connection from being replaced though there is room",
		edits: []edit{{old: "heal := max(0, min(d.target-usable-coming, room, slots))", new: "heal := max(0, min(d.target-usable-d.connecting, room, slots))"}},
		tests: []suite{root("TestDecide", "TestDecideKeepsItsBounds")},
	},
	{
		name: "hung-connects-stop-age", file: "lifetime.go",
		what:  "a connect that never returns keeps all connections from being replaced for their age",
		edits: []edit{{old: "m.target-m.hungLocked()", new: "m.target"}},
		tests: []suite{root("TestAConnectThatHangsDoesNotKeepOthersBeyondTheirAge")},
	},
	{
		name: "empty-read-takes", file: "recv.go",
		what:  "a Read of nothing takes a datagram",
		edits: []edit{{old: "\tif len(p) == 0 {\n\t\treturn 0 // as", new: "\tif false {\n\t\treturn 0 // as"}},
		tests: []suite{root("TestAnEmptyReadTakesNoDatagram")},
	},
	{
		name: "failure-forgotten", file: "half.go",
		what:  "Err does not tell after a lease why its connection has failed",
		edits: []edit{{old: "\th.keepCause(id)\n", new: ""}},
		tests: []suite{root("TestErrTellsOfTheFailureAlsoAfterTheLease")},
	},
}
