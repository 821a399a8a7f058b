package main

// Defects of ready readers, and of the names of connections.

var readyDefects = []defect{
	{
		name:  "parked-at-the-end",
		what:  "the multiplexer's end does not wake who reads from an idle connection for plex",
		edits: []edit{in("Multiplexer.beginEnd", drop("h.leaveParking()"))},
		tests: []suite{root("TestShutdownEndsAParkedConnectionAtOnce")},
	},
	{
		name:  "parked-for-ever",
		what:  "whoever needs a read half that plex reads from waits until something arrives",
		edits: []edit{in("half.take", drop("h.interruptParked()"))},
		tests: []suite{root("TestAParkedConnectionIsRetired")},
	},
	{
		name:  "parked-bytes-dropped",
		what:  "what plex has read from an idle connection is dropped when somebody needs the half",
		edits: []edit{in("conn.retireHeld", atStart("c.r.back = nil"))},
		tests: []suite{root("TestWhatArrivesWhileAParkedConnectionIsRetiredIsDelivered")},
	},
	{
		name:  "parked-deadline-left",
		what:  "the deadline that has interrupted plex's Read is left behind",
		edits: []edit{in("half.endParking", instead("err := h.deadlines.clear(h, interrupted)", "err := h.deadlines.clear(h, false)"))},
		tests: []suite{root("TestAParkedConnectionThatIsNotRetiredGoesOn")},
	},
	{
		name:  "late-arm",
		what:  "an event armed by an earlier lease uses up the one-shot of the latest, and nothing arms the connection again",
		edits: []edit{in("conn.arrived", drop("h.attend(w, true)"))},
		tests: []suite{root("TestTheEndOfALeaseThatIsOvertakenByALaterOneLeavesNothingUnnoticed")},
	},
	{
		name:  "look-before-the-waiter",
		what:  "plex holds an idle half that is on its way to a waiter, who loses its place in the line",
		edits: []edit{in("half.promised", atStart("return false"))},
		tests: []suite{root("TestWhatIsOnItsWayToAWaiterIsNotLookedAt")},
	},
	{
		name:  "news-of-another-lease",
		what:  "an event armed before the latest lease makes the connection ready, though that lease may have read everything",
		edits: []edit{in("half.becomeReady", replace("w.tag() != tag", "false"))},
		tests: []suite{root("TestAnEventListsOnlyAnIdleHalfOfItsOwnLease")},
	},
	{
		name:  "twice-in-the-ready-queue",
		what:  "an event lists a half that is listed, so that it is in the queue twice",
		edits: []edit{in("word.listed", replace("|| w.is(poolListed)", ""))},
		tests: []suite{root("TestAnEventListsOnlyAnIdleHalfOfItsOwnLease")},
	},
	{
		name:  "tls-record-by-half",
		what:  "a TLS connection counts as ready as soon as its socket is readable, before a whole record has come",
		edits: []edit{in("attentionOf", replace("return inside", "return armed"))},
		tests: []suite{root("TestReadyReaderWaitsUntilATLSRecordIsWhole")},
	},
	{
		name:  "inside-overlooked",
		what:  "after a hold that has not read, nobody looks for bytes that are inside the TLS connection",
		edits: []edit{in("half.arrive", replace("h.attend(next, looked)", "h.attend(next, looked || how != fromLease)"))},
		tests: []suite{root("TestWhatIsInsideIsNoticedWhenAHoldEndsThatHasNotLooked")},
	},
	{
		name:  "end-not-told",
		what:  "an end or error that plex itself has read is given to no ready reader",
		edits: []edit{in("conn.finished", replace("c.m.reading.Load() != readsReady", "true"))},
		tests: []suite{root("TestWhatCameBeforeTheEndIsReadyAndThenTheEnd")},
	},
	{
		name:  "refused-by-the-kernel",
		what:  "a connection that epoll refuses is not polled instead",
		edits: []edit{in("half.attend", drop("c.parkSoon()").within("c.member.Arm"))},
		tests: []suite{root("TestWhatTheKernelDoesNotWatchIsLookedAt")},
	},
	{
		name:  "deaf-transport",
		what:  "Close of a lease waits for plex's own Read of a transport that ignores deadlines",
		edits: []edit{in("vigil.look", drop("errUninterruptible"))},
		tests: []suite{root("TestALeaseEndsAlsoIfTheTransportTakesNoNotice")},
	},
	{
		name:  "age-overlooked",
		what:  "a connection that may be retired from now on, while plex looks at it, is not retired after the look",
		edits: []edit{in("conn.lookIdle", drop("c.againIfUnleased(&c.w)"))},
		tests: []suite{root("TestAConnectionThatIsLookedAtWhenItsLastPinGoesIsRetired")},
	},
	{
		name:  "later-connections-unattended",
		what:  "connections admitted after the first ReadyReader never become ready before a lease",
		edits: []edit{in("half.arrive", onlyIf("h.attend(next, looked)", "next.leases() > 0"))},
		tests: []suite{root("TestConnectionsThatComeLaterAreAttendedToo")},
	},
	{
		name:  "ready-waiters-left-at-close",
		what:  "Close does not wake callers of ReadyReader",
		edits: []edit{in("Multiplexer.wakeLocked", onlyIf("q.put(nil)", "!q.ready.Load()"))},
		tests: []suite{root("TestReadyReadersAreToldOfTheEnd")},
	},
	{
		name:  "end-told-too-early",
		what:  "AfterEnd calls its function when either half is settled, while a read lease may go on",
		edits: []edit{in("half.settle", always("h == &c.r"))},
		tests: []suite{root("TestAfterEndWaitsForTheLastReadLease")},
	},
	{
		name:  "pins-do-not-count",
		what:  "one unpin undoes all pins of a connection",
		edits: []edit{in("Conn.Pin", replace("c.c.pins.Add(1)", "c.c.pins.Store(1)"))},
		tests: []suite{root("TestAPinKeepsAConnectionThatNobodyNeeds")},
	},
}
