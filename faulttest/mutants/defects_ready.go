package main

// Defects of ready readers and of the names of connections: ready.go, name.go and what they need elsewhere.

var readyDefects = []defect{
	{
		name: "late-arm", file: "ready.go",
		what:  "what arrives is told for a lease that is over, when the end of that one was overtaken by a later lease's",
		edits: []edit{{old: "\t\th.attend(w&^flags, true)\n\t}\n}\n\n// becomeReady", new: "\t\t_ = h\n\t}\n}\n\n// becomeReady"}},
		tests: []suite{root("TestTheEndOfALeaseThatIsOvertakenByALaterOneLeavesNothingUnnoticed")},
	},
	{
		name: "ready-waits-under-the-lock", file: "ready.go",
		what:  "a ready reader that does not wait hangs, and the pool with it, when a plain reader waits for the lock",
		edits: []edit{{old: "\tif locked {\n", new: "\tif false {\n"}},
		tests: []suite{root("TestAReadyReaderThatDoesNotWaitDoesNotWaitForAPlainOneEither")},
	},
	{
		name: "look-before-the-waiter", file: "sweep.go",
		what:  "plex looks at a connection that has just been handed to a waiter, who then finds itself behind all others",
		edits: []edit{{old: "\th.deferToWaiter()\n", new: ""}},
		tests: []suite{root("TestPlainReadersKeepTheirOrderThoughPlexLooksAtTheConnection"), fault("./model", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
	{
		name: "old-news", file: "ready.go",
		what:  "a connection whose bytes a plain reader has taken meanwhile counts as ready, and the first Read blocks",
		edits: []edit{{old: "if w&(leased|held|gone) != 0 || w&fresh == 0 {\n", new: "if w&(leased|held|gone) != 0 {\n"}},
		tests: []suite{root("TestReadyReadersAmongPlainOnesNeverBlockAndMissNothing")},
	},
	{
		name: "news-of-another-lease", file: "ready.go",
		what:  "what was told of before the last lease counts as news",
		edits: []edit{{old: " || uint32(w/leaseOne) != number", new: ""}},
		tests: []suite{root("TestTheAccountsHoldInEveryOrderOfWhatCanHappenToAReadHalf")},
	},
	{
		name: "twice-in-the-ready-queue", file: "ready.go",
		what:  "each piece that arrives puts the connection into the ready queue once more",
		edits: []edit{{old: "\t\t\tif w&queued == 0 {\n", new: "\t\t\tif true {\n"}},
		tests: []suite{root("TestTheAccountsHoldInEveryOrderOfWhatCanHappenToAReadHalf")},
	},
	{
		name: "lent-not-accounted", file: "ready.go",
		what:  "the account of idle readers does not know of those that ready readers have",
		edits: []edit{{old: "\t\t\th.queue.stale.Add(1) // its entry in the readers' queue\n", new: ""}},
		tests: []suite{root("TestTheAccountsHoldInEveryOrderOfWhatCanHappenToAReadHalf")},
	},
	{
		name: "tls-record-by-half", file: "ready.go",
		what:  "the first bytes of a TLS record count as something to deliver",
		edits: []edit{{old: "\t\t\treturn blind\n\t\t}\n\t\treturn inside\n", new: "\t\t\treturn blind\n\t\t}\n\t\treturn armed\n"}},
		tests: []suite{root("TestReadyReaderWaitsUntilATLSRecordIsWhole")},
	},
	{
		name: "inside-overlooked", file: "half.go",
		what:  "bytes inside TLS are noticed by nobody if plex held the half for another reason",
		edits: []edit{{old: "\t\t\t\th.attend(next&^flags, looked)\n", new: "\t\t\t\th.attend(next&^flags, looked || true)\n"}},
		tests: []suite{root("TestWhatIsInsideIsNoticedWhenAHoldEndsThatHasNotLooked")},
	},
	{
		name: "end-not-told", file: "ready.go",
		what:  "the end of a connection that the watcher has found is told to no ready reader",
		edits: []edit{{old: "\th.untold = h.ended && tell\n", new: "\t_ = tell\n"}},
		tests: []suite{root("TestWhatCameBeforeTheEndIsReadyAndThenTheEnd")},
	},
	{
		name: "refused-by-the-kernel", file: "ready.go",
		what:  "what arrives over a connection that epoll refuses is noticed by nobody",
		edits: []edit{{old: "\t\tif err := c.arm(lease); err != nil {\n", new: "\t\tif err := c.arm(lease); err != nil && err == nil {\n"}},
		tests: []suite{root("TestWhatTheKernelDoesNotWatchIsLookedAt")},
	},
	{
		name: "deaf-transport", file: "ready.go",
		what:  "a lease on a transport that ignores deadlines does not end until something arrives",
		edits: []edit{{old: "\t\tv.h.conn.fail(errUninterruptible)\n", new: ""}},
		tests: []suite{root("TestALeaseEndsAlsoIfTheTransportTakesNoNotice")},
	},
	{
		name: "age-overlooked", file: "sweep.go",
		what:  "a connection that happened to be looked at when it became too old stays for ever",
		edits: []edit{{old: "\t\tc.m.expire(c)\n", new: ""}},
		tests: []suite{root("TestAConnectionThatIsLookedAtIsReplacedForItsAge")},
	},
	{
		name: "later-connections-unattended", file: "conn.go",
		what:  "connections that come after the first ReadyReader are read by nobody",
		edits: []edit{{old: "\tif attend {\n\t\tc.startAttention()\n", new: "\tif attend {\n"}},
		tests: []suite{root("TestConnectionsThatComeLaterAreAttendedToo")},
	},
	{
		name: "ready-waiters-left-at-close", file: "queue.go",
		what:  "nobody wakes ready readers when the multiplexer closes",
		edits: []edit{{old: "[]*queue{&m.readers, &m.writers, &m.ready}", new: "[]*queue{&m.readers, &m.writers}"}},
		tests: []suite{root("TestReadyReadersAreToldOfTheEnd")},
	},
	{
		name: "end-told-too-early", file: "conn.go",
		what:  "AfterEnd tells of the end while a read lease goes on",
		edits: []edit{{old: "\tif h == &c.r {\n\t\tc.endedLocked()\n", new: "\tif h != nil {\n\t\tc.endedLocked()\n"}},
		tests: []suite{root("TestAfterEndWaitsForTheLastReadLease")},
	},
	{
		name: "pins-do-not-count", file: "name.go",
		what:  "the first unpin lets a connection go on which another pin is",
		edits: []edit{{old: "\tc.c.pins++\n", new: "\tc.c.pins = 1\n"}},
		tests: []suite{root("TestAPinKeepsAConnectionThatNobodyNeeds")},
	},
}
