package main

// Defects in the transitions of the lease word, in the life of a connection, in deadlines, in the ways of asking for
// read halves, in the guard around foreign code, and in the pace of connects.

// everyWord walks all words that can be reached, and all steps between them.
const everyWord = "TestWordInvariantsHoldInEveryReachableWord"

var wordDefects = []defect{
	{
		name:  "word-held-half-leased",
		what:  "an entry that comes out of the queue leases a half that plex holds",
		edits: []edit{in("word.taken", replace("!w.idle()", "w.is(leaseLive | poolRetired)"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-lease-without-a-number",
		what:  "a lease begins with the number of the one before it",
		edits: []edit{in("word.taken", replace("w&^poolListed + leaseOne", "w&^poolListed"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-sweep-drops-the-idle",
		what:  "a sweep drops the entry of an idle half",
		edits: []edit{in("word.swept", never("w.idle()"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-listed-unsaid",
		what:  "a half gets its entry in the queue, and the word does not say so",
		edits: []edit{in("word.listed", replace("w | poolListed", "w"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-always-lists-nothing",
		what:  "an idle read half that becomes one that is always listed gets no entry",
		edits: []edit{in("word.always", instead("return", "return w &^ poolOnDemand, false"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-leased-half-held",
		what:  "plex holds a half that a consumer has",
		edits: []edit{in("word.held", replace("!w.idle()", "w.is(poolHeld | poolRetired)"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-retired-forgets",
		what:  "retiring a half that is leased ends its lease",
		edits: []edit{in("word.retired", replace("w | poolRetired", "w&^leaseLive | poolRetired"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-over-twice",
		what:  "retiring a half that is over reports once more that it is over by that",
		edits: []edit{in("word.retired", replace("!w.is(poolRetired) && next.over()", "next.over()"))},
		tests: []suite{root("TestWordTransitionsSayWhatTheyHaveDone")},
	},
	{
		name:  "word-two-are-busy",
		what:  "a second operation of a lease does not wait for the first",
		edits: []edit{in("word.entered", replace("|| w.is(leaseBusy)", ""))},
		tests: []suite{root("TestReadsOnOneLeaseTakeTurns", "TestWritesOnOneLeaseTakeTurns")},
	},
	{
		name:  "word-nobody-awaited",
		what:  "somebody waits for an operation to leave, and there is none",
		edits: []edit{in("word.awaited", never("!w.is(leaseBusy)"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-stream-left",
		what:  "the flag of a stream outlives it, so that the next operation of the lease counts as one",
		edits: []edit{in("word.left", replace("leaseBusy | leaseStream | leaseAwaited", "leaseBusy | leaseAwaited"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-stale-mark",
		what:  "a flag of a lease is set when the lease has ended",
		edits: []edit{in("word.marked", never("!w.goesOn(id)"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-flag-outlives-its-lease",
		what:  "a lease begins with the flag that an earlier one set a deadline",
		edits: []edit{in("word.arrived", replace("w&lasting", "w&(lasting|leaseDeadline)"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-arrived-unlisted",
		what:  "a half that comes back into service is in no queue",
		edits: []edit{in("word.arrived", replace("next | poolListed", "next"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-end-not-looked-at",
		what:  "a half whose connection has ended goes back from its lease without a look at what is left",
		edits: []edit{in("word.arrived", replace("connEnded|connDue", "connDue"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-due-not-looked-at",
		what:  "a half whose connection is due goes back from its lease without being retired",
		edits: []edit{in("word.arrived", replace("connEnded|connDue", "connEnded"))},
		tests: []suite{root(everyWord)},
	},
	{
		name:  "word-retired-comes-back",
		what:  "a half that was retired under its lease goes back into service",
		edits: []edit{in("word.arrived", replace("w&lasting", "w&(lasting&^poolRetired)"))},
		tests: []suite{root(everyWord)},
	},
}

const (
	lifeTable = "TestLifeTurnsOnlyAsTheTableSays"
	endTable  = "TestPeersEndTurnsOnlyAsTheTableSays"
)

var lifeDefects = []defect{
	{
		name:  "life-closed-at-once",
		what:  "a connection that leaves is closed without its closing having begun",
		edits: []edit{in("life.mayTurn", replace("next.phase == phaseClosing", "next.phase >= phaseClosing").within("case phaseLeaving:"))},
		tests: []suite{root(lifeTable)},
	},
	{
		name:  "life-left-before-admission",
		what:  "a connection that was never admitted leaves service",
		edits: []edit{in("life.mayTurn", replace("next.phase == phaseClosing", "next.phase >= phaseLeaving").within("case phaseClaimed:"))},
		tests: []suite{root(lifeTable)},
	},
	{
		name:  "life-leaves-for-no-reason",
		what:  "a connection leaves service for no reason",
		edits: []edit{in("life.mayTurn", replace("next.phase == phaseLeaving && next.why != whyNone", "next.phase == phaseLeaving"))},
		tests: []suite{root(lifeTable)},
	},
	{
		name:  "life-reason-changes",
		what:  "a connection that has left service is accounted for by another reason later",
		edits: []edit{in("life.turn", never("l.phase >= phaseLeaving"))},
		tests: []suite{root(lifeTable)},
	},
	{
		name:  "life-end-noticed-after-it-was-read",
		what:  "what is known of the peer's end goes back from read to noticed",
		edits: []edit{in("stage.mayTurn", replace("s == peerOpen", "s != peerNoticed"))},
		tests: []suite{root(endTable)},
	},
	{
		name:  "life-end-told-before-it-was-read",
		what:  "a lease is told of an end that nobody has read up to",
		edits: []edit{in("stage.mayTurn", replace("s == peerRead", "s != peerTold"))},
		tests: []suite{root(endTable)},
	},
	{
		name:  "life-kill-keeps-its-remains",
		what:  "a parked connection that is killed counts as one that has left something to be read",
		edits: []edit{in("conn.afterLook", replace("c.finished(), c.r.word().is(poolRetired)", "c.finished()"))},
		tests: []suite{root("TestAKilledConnectionTakesNoPlaceOfWhatOthersHaveLeft")},
	},
	{
		name:  "life-kill-is-the-services-doing",
		what:  "a kill counts as a loss by the service",
		edits: []edit{in("whyOf", replace("return whyKilled", "return whyLost"))},
		tests: []suite{root("TestWhyOfAFailure")},
	},
}

var deadlineDefects = []defect{
	{
		name:  "deadline-undoes-an-interrupt",
		what:  "a deadline that a consumer sets during an interrupt takes the interrupt back",
		edits: []edit{in("deadlines.set", always("!d.interrupted"))},
		tests: []suite{root("TestDeadlineSetWhileAStreamIsInterruptedHoldsAfterIt")},
	},
	{
		name:  "deadline-not-noted",
		what:  "a deadline that a consumer sets is not noted, so it is gone after a stream was interrupted",
		edits: []edit{in("deadlines.set", drop("d.until = t"))},
		tests: []suite{root("TestConsumersDeadlineSurvivesTheEndOfAStream", "TestDeadlineSetWhileAStreamIsInterruptedHoldsAfterIt")},
	},
	{
		name:  "deadline-of-an-earlier-lease",
		what:  "a deadline of an earlier lease comes back after an interrupted stream",
		edits: []edit{in("deadlines.clear", replace("d.interrupted, d.until = false, time.Time{}", "d.interrupted = false"))},
		tests: []suite{root("TestDeadlineOfAnEarlierLeaseDoesNotComeBackAfterAStream")},
	},
	{
		name:  "interrupt-not-called-off",
		what:  "the connection is closed a second after an interrupt that has helped",
		edits: []edit{in("deadlines.calm", drop("p.Stop()")), in("deadlines.interrupt", always("d.force.Load() == p"))},
		tests: []suite{root("TestInterruptedConnectionIsLeftAloneAfterwards")},
	},
	{
		name:  "deaf-operation-waited-for",
		what:  "Close of a lease waits for an operation of a transport that ignores deadlines",
		edits: []edit{in("half.stuck", drop("h.conn.fail(errUninterruptible)"))},
		tests: []suite{root("TestConnectionThatCannotBeInterruptedIsClosedToInterruptARead", "TestConnectionThatCannotBeInterruptedIsClosedToInterruptAWrite")},
	},
}

var wayDefects = []defect{
	{
		name:  "both-ways-of-reading",
		what:  "Reader and ReadyReader both work on one multiplexer",
		edits: []edit{in("Multiplexer.decideReading", instead("return errReaderMode(mode)", "return nil"))},
		tests: []suite{root("TestTheFirstCallDecidesHowReadHalvesAreAskedFor")},
	},
	{
		name:  "admitted-while-decided",
		what:  "the read half of a connection that is admitted when it has just been decided that all are listed is in no queue",
		edits: []edit{in("Multiplexer.admit", never("m.reading.Load() == readsAny"))},
		tests: []suite{root("TestAddServesThoseWhoWait")},
	},
	{
		name:  "here-when-decided",
		what:  "the first ReadyReader attends to no connection that was there before it",
		edits: []edit{in("Multiplexer.decideReading", never("h.word().idle()"))},
		tests: []suite{root("TestReadyReaderGetsWhatWasThereBeforeAnyoneAsked", "TestNoConnectionIsOverlookedWhenAttentionBegins")},
	},
	{
		name:  "end-told-to-an-add",
		what:  "Add tells of the end before all halves are retired, so a later caller can still get a lease",
		edits: []edit{in("Multiplexer.add", drop("m.beginEnd()"))},
		tests: []suite{root("TestAddTellsOfTheEndOnlyWhenAllHalvesAreRetired")},
	},
}

var guardDefects = []defect{
	{
		name:  "panic-of-a-connector",
		what:  "a Connect that panics kills the process",
		pkg:   "internal/caller",
		edits: []edit{in("Guard", replace("recover()", "any(nil)"))},
		tests: []suite{root("TestConnectMisbehaviours")},
	},
	{
		name:  "panic-of-a-transport",
		what:  "a transport whose Read panics kills the process",
		edits: []edit{in("Reader.Read", replace("recover()", "any(nil)"))},
		tests: []suite{root("TestTransportThatBreaksTheRulesLosesItsConnection")},
	},
	{
		name:  "panic-under-a-stream",
		what:  "a transport whose Read panics in a goroutine of plex's own kills the process",
		edits: []edit{in("conn.readOnce", replace("recover()", "any(nil)"))},
		tests: []suite{root("TestStreamOfATransportThatBreaksTheRulesEnds")},
	},
	{
		name:  "goexit-in-a-transport",
		what:  "a transport whose Write ends its goroutine leaves its connection in the pool",
		edits: []edit{in("conn.crashed", drop("c.fail(err)"))},
		tests: []suite{root("TestTransportThatEndsItsGoroutineLosesItsConnection")},
	},
	{
		name:  "goexit-under-a-stream",
		what:  "a stream of chunks whose transport ends its goroutine never ends for its consumer",
		edits: []edit{in("stream.recvChunks", instead("h.reclaim =", "if err == nil && !s.isHalted() { return }"))},
		tests: []suite{root("TestStreamOfATransportThatBreaksTheRulesEnds")},
	},
	{
		name:  "goexit-under-a-send",
		what:  "what a stream has not written since its transport ended its goroutine is not counted",
		edits: []edit{in("sendFrom", never("!returned"))},
		tests: []suite{root("TestStreamOfATransportThatBreaksTheRulesEnds")},
	},
	{
		name:  "goexit-under-a-look",
		what:  "a transport that ends plex's own goroutine while plex looks at it keeps its half for ever",
		edits: []edit{in("conn.whileHeld", drop("c.r.arrive(how)"), after("how = look()", "c.r.arrive(how)"))},
		tests: []suite{root("TestTransportThatEndsPlexsOwnGoroutineLosesItsConnection")},
	},
	{
		name:  "nonsense-believed",
		what:  "a number of bytes that a transport cannot have read or written is believed",
		edits: []edit{in("conn.saneRead", always("0 <= n && n <= size")), in("conn.saneWrite", always("0 <= n && n <= size"))},
		tests: []suite{root("TestTransportThatBreaksTheRulesLosesItsConnection")},
	},
	{
		name:  "nonsense-passes",
		what:  "a connection whose transport talks nonsense goes back to the pool",
		edits: []edit{in("judge", instead("return fatal", "return passing").within("case errors.As(err, &broken):"))},
		tests: []suite{root("TestTransportThatBreaksTheRulesLosesItsConnection")},
	},
}

var paceDefects = []defect{
	{
		name:  "young-death-proves",
		what:  "a connection that dies young counts as proof that the service is well",
		pkg:   "internal/pace",
		edits: []edit{in("State.Lost", always("age >= s.proof()"))},
		tests: []suite{own("internal/pace", "TestState", "TestAServiceThatAcceptsAndHangsUpSeesTheProbesOfTheBackoff")},
	},
	{
		name:  "word-before-death-proves",
		what:  "what a connection has delivered proves something, though the connection is gone a moment later",
		pkg:   "internal/pace",
		edits: []edit{in("State.Delivered", before("s.failures > 0", "s.well()"))},
		tests: []suite{own("internal/pace", "TestState", "TestAFullServiceIsLeftAlone")},
	},
	{
		name:  "trial-skipped",
		what:  "after a service has hung up, nobody waits whether it does so again with the next connection",
		pkg:   "internal/pace",
		edits: []edit{in("State.Next", replace("s.goodAt.Add(s.trial)", "s.goodAt"))},
		tests: []suite{own("internal/pace", "TestState", "TestAServiceThatAcceptsAndHangsUpSeesTheProbesOfTheBackoff")},
	},
	{
		name:  "gone-is-a-failure",
		what:  "a connection that a consumer kills while it is young counts as a failure of the service",
		pkg:   "internal/pace",
		edits: []edit{in("State.Gone", atStart("s.Lost(connected, admitted, now)"))},
		tests: []suite{own("internal/pace", "TestState", "TestKilledConnectionsAreReplacedAtOnce")},
	},
	{
		name:  "kill-told-as-a-loss",
		what:  "the pace is told of a kill as of a loss by the service",
		edits: []edit{in("conn.leftLocked", replace("y == whyLost && !c.wasUseful() && !consumersDoing(c.failure())", "y == whyLost || y == whyKilled"))},
		tests: []suite{root("TestAKillIsNoFailureOfTheService")},
	},
	{
		name:  "one-burst-many-failures",
		what:  "connects that fail together count as many failures in a row",
		pkg:   "internal/pace",
		edits: []edit{in("State.Failed", never("s.failures > 0"))},
		tests: []suite{own("internal/pace", "TestState"), root("TestManyConnectsThatFailTogetherAreOneFailure")},
	},
}
