package main

// Defects in the pool: queue.go, plex.go, conn.go.

var poolDefects = []defect{
	{
		name: "waiter-not-woken-at-close", file: "plex.go",
		what:  "Close and Shutdown leave waiters waiting",
		edits: []edit{{old: "\tm.cancel()\n\tm.wakeLocked()\n", new: "\tm.cancel()\n"}},
		tests: []suite{root("TestCloseWakesEveryWaiter", "TestShutdownWakesEveryWaiter")},
	},
	{
		name: "one-waiter-woken", file: "queue.go",
		what:  "the wake-up for all waiters is taken by the first and not passed on",
		edits: []edit{{old: "\tq.put(nil)\n\tif err != ErrClosed && len(q.idle) > 1 {", new: "\tif err != ErrClosed && len(q.idle) > 1 {"}},
		tests: []suite{root("TestCloseWakesEveryWaiter")},
	},
	{
		name: "lost-wake-up", file: "conn.go",
		what:  "waiters are not told when the last connection is lost for good",
		edits: []edit{{old: "\tif m.hopelessLocked() == ErrNoConnections {\n\t\tm.wakeLocked()\n\t}\n\tm.kick()\n}\n\n// forgetLocked", new: "\tm.kick()\n}\n\n// forgetLocked"}},
		tests: []suite{root("TestLosingTheLastConnectionWakesEveryWaiterWhenNobodyCanReplaceIt")},
	},
	{
		name: "failed-add-wakes-nobody", file: "plex.go",
		what:  "waiters who only waited for a connection being added are not told that it failed",
		edits: []edit{{old: "\tm.connecting--\n\tif m.hopelessLocked() == ErrNoConnections {\n\t\tm.wakeLocked()\n\t}\n", new: "\tm.connecting--\n"}},
		tests: []suite{fault("./model", "TestWaitersAreToldThatTheConnectionBeingAddedHasFailed")},
	},
	{
		name: "cancel-races-grant", file: "queue.go",
		what:  "a half that is handed over while its waiter's context ends belongs to nobody",
		edits: []edit{{old: "\t\t} else if id, ok := q.lease(h, false); ok {\n\t\t\tleased, lease = h, id\n\t\t}\n", new: "\t\t} else if id, ok := q.lease(h, false); ok {\n\t\t\tif err = ctx.Err(); err == nil {\n\t\t\t\tleased, lease = h, id\n\t\t\t}\n\t\t}\n"}},
		tests: []suite{root("TestAGrantThatRacesItsCancellationIsNeverLost")},
	},
	{
		name: "ended-context-takes", file: "queue.go",
		what: "a caller whose context has ended gets a lease that it does not expect",
		edits: []edit{
			{old: "\tif ctx.Err() == nil {\n\t\tselect {", new: "\tif true {\n\t\tselect {"},
		},
		tests: []suite{root("TestAnEndedContextTakesNothingThoughAHalfIsIdle", "TestContextsOfANanosecondLoseNoHalf")},
	},
	{
		name: "first-cause-overwritten", file: "conn.go",
		what:  "the error that a connection died of is replaced by its consequences",
		edits: []edit{{old: "\tif !c.cause.CompareAndSwap(nil, &cause) {\n", new: "\tif c.cause.Swap(&cause) != nil {\n"}},
		tests: []suite{root("TestKillAfterAResetKeepsTheFirstCause", "TestResetReadFirstIsTheCauseForTheWriterToo", "TestKillEndsItsOwnStream")},
	},
	{
		name: "reset-told-as-end", file: "half.go",
		what:  "the half that is not told of a reset takes it for a clean end of the stream",
		edits: []edit{{old: "\t\tif cause := c.failure(); cause != nil {\n\t\t\treturn cause\n\t\t}\n\t\th.ended = true", new: "\t\th.ended = true"}},
		tests: []suite{root("TestEOFOfAConnectionThatWasResetIsTheReset")},
	},
	{
		name: "closed-twice", file: "conn.go",
		what:  "a transport is closed again by whoever else finds it useless",
		edits: []edit{{old: "\tif c.shutting || !c.owned {\n\t\treturn false", new: "\tif !c.owned {\n\t\treturn false"}},
		tests: []suite{root("TestReaderKillEndsBothHalves", "TestCloseClosesEveryConnectionLeasedOrNotExactlyOnce")},
	},
	{
		name: "not-closed-at-its-end", file: "conn.go",
		what:  "a connection whose peer has closed is never closed on our side",
		edits: []edit{{old: "\treturn c.w.settled && (c.r.settled || c.atEnd)\n", new: "\treturn false\n"}},
		tests: []suite{root("TestFINWithoutAWriteLeaseClosesTheConnectionAndItsWriteHalfIsNeverLeasedAgain")},
	},
	{
		name: "eof-write-half-pooled", file: "conn.go",
		what:  "the write half of a connection that the peer has closed is leased again",
		edits: []edit{{old: "\tc.m.mu.Unlock()\n\tc.w.retire()\n\tif shut {", new: "\tc.m.mu.Unlock()\n\tif shut {"}},
		tests: []suite{root("TestFINWithoutAWriteLeaseClosesTheConnectionAndItsWriteHalfIsNeverLeasedAgain", "TestWriteLeaseThatEndsAfterTheFINDoesNotGoBackThoughTheReaderStays")},
	},
	{
		name: "close-spares-the-leased", file: "plex.go",
		what:  "Close leaves open the connections that consumers hold",
		edits: []edit{{old: "\t\tif c.owned {\n\t\t\tvictims = append(victims, c)\n\t\t}\n\t}\n\tm.mu.Unlock()\n\tif unwatch", new: "\t\tif c.owned && (c.r.state.Load()|c.w.state.Load())&leased == 0 {\n\t\t\tvictims = append(victims, c)\n\t\t}\n\t}\n\tm.mu.Unlock()\n\tif unwatch"}},
		tests: []suite{root("TestCloseClosesEveryConnectionLeasedOrNotExactlyOnce", "TestMultiplexerCloseEndsABlockedRead")},
	},
	{
		name: "shutdown-does-not-wait", file: "plex.go",
		what:  "Shutdown closes the connections under the leases that it should wait for",
		edits: []edit{{old: "\tfor m.alive > 0 && !m.closed && err == nil {", new: "\tfor m.alive > 0 && !m.closed && err == nil && ctx.Err() != nil {"}},
		tests: []suite{root("TestShutdownWaitsForTheLeasesAndRefusesNewOnes", "TestShutdownWaitsUntilAStreamIsFlushed")},
	},
	{
		name: "connecting-not-counted", file: "plex.go",
		what:  "Add does not count connections on their way against the capacity",
		edits: []edit{{old: "\tcase m.open+m.connecting >= m.capacity:", new: "\tcase m.open >= m.capacity:"}},
		tests: []suite{root("TestAddsThatRaceForTheLastPlacesTakeNoMoreThanThereAre", "TestAConnectionThatIsBeingAddedHasItsPlace")},
	},
	{
		name: "known-twice", file: "conn.go",
		what:  "the same connection is admitted a second time and leased to two",
		edits: []edit{{old: "\t\tif _, known := m.known[key]; known {\n\t\t\treturn nil, ErrKnownConnection\n\t\t}\n", new: ""}},
		tests: []suite{root("TestAddRefusesNilAndKnownConnectionsAndTakesTheGoodOnesBesideThem", "TestConnectAttachesWhatIsInThePool")},
	},
	{
		name: "remains-unbounded", file: "conn.go",
		what:  "what closed connections left to be read piles up without bound",
		edits: []edit{{old: "\tif len(m.remains) > m.mostRemains() {", new: "\tif len(m.remains) > 100*m.capacity {"}},
		tests: []suite{root("TestWhatLostConnectionsHaveLeftToReadIsKeptForAsManyAsTheCapacity")},
	},
	{
		name: "killed-not-lost", file: "conn.go",
		what:  "a connection that a consumer kills is not replaced",
		edits: []edit{{old: "\tc.m.lostLocked(c)\n\treturn true", new: "\tif cause != ErrKilled {\n\t\tc.m.lostLocked(c)\n\t}\n\treturn true"}},
		tests: []suite{root("TestEveryKindOfLossLeadsToOneReplacementAndToldTheLostAddress")},
	},
}
