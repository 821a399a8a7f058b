package main

// Defects of the healer, the auto-scaler and lifetimes.

var healDefects = []defect{
	{
		name:  "default-backoff-as-the-users",
		what:  "the default pause in place of a backoff function that fails is not cut short for callers who wait",
		edits: []edit{in("Multiplexer.decidePause", replace("!chosen", "!chosen && m.cfg.backoff == nil"))},
		tests: []suite{root("TestTheDefaultInPlaceOfABackoffThatPanicsIsCutShortForCallersWhoWait")},
	},
	{
		name:  "failures-reset-on-accept",
		what:  "a connect that succeeds resets the count of failures, so a service that accepts and closes is dialled without a pause",
		pkg:   "internal/pace",
		edits: []edit{in("State.Connected", atStart("s.failures = 0"))},
		tests: []suite{own("internal/pace", "TestState"), root("TestAFailureOnTheRampBeginsAgainWithOneAfterAPause")},
	},
	{
		name:  "no-backoff",
		what:  "no connect waits for the end of the pause after a failure",
		pkg:   "internal/pace",
		edits: []edit{in("State.Next", replace("at = s.retryAt", "at = now"))},
		tests: []suite{own("internal/pace", "TestState"), root("TestAFailureOnTheRampBeginsAgainWithOneAfterAPause")},
	},
	{
		name:  "healer-gives-up",
		what:  "after a failed connect the supervisor does not wake up when the pause is over",
		edits: []edit{in("Multiplexer.connectsLocked", drop("sooner(next, wake)"))},
		tests: []suite{root("TestAFailedFirstConnectIsRetriedForThoseWhoWaitAndForNobodyElse", "TestTheCapacityHoldsThroughBurstsLossesAndRefusals")},
	},
	{
		name:  "addresses-at-random",
		what:  "connects go to any address that answers, not to the one with the fewest connections",
		pkg:   "internal/pace",
		edits: []edit{in("Service.choose", replace("load < least", "false"))},
		tests: []suite{root("TestConnectionsAreSpreadOverTheAddresses")},
	},
	{
		name:  "dead-address-again",
		what:  "an address in its backoff is connected to as any other is",
		pkg:   "internal/pace",
		edits: []edit{in("Service.choose", replace("!l.at.IsZero()", "false"))},
		tests: []suite{root("TestADeadAddressSlowsDownNothingButItself")},
	},
	{
		name:  "dead-addresses-at-once",
		what:  "when no address answers, each is probed under a backoff of its own",
		pkg:   "internal/pace",
		edits: []edit{in("Service.state", replace("len(s.listed) > 1 && s.down(now)", "false"))},
		tests: []suite{root("TestWhenNoAddressAnswersTheyAreProbedInTurn")},
	},
	{
		name:  "given-up-for-the-dead",
		what:  "a connection is given up for one to an address that has failed, though there is room to try that first",
		edits: []edit{in("resolver.balanceLocked", replace("shift.Try", "false"))},
		tests: []suite{root("TestNewGetsByWithOneDeadAddress")},
	},
	{
		name:  "nothing-moves",
		what:  "an address that comes back gets nothing of what the others have taken over",
		edits: []edit{in("Multiplexer.supervise", drop("m.healer.resolver.moveOne(overfull)"))},
		tests: []suite{root("TestAfterARollingRestartAllIsEvenAgain")},
	},
	{
		name:  "gone-address-kept",
		what:  "the connections of an address that is gone stay",
		edits: []edit{in("resolver.list", drop("c.turnOut(whyDrained)"))},
		tests: []suite{root("TestAnAddressThatIsGoneIsDrainedAndANewOneGetsItsShare")},
	},
	{
		name:  "first-connects-uncounted",
		what:  "one dead address of several makes New fail",
		edits: []edit{in("Multiplexer.connectFirst", replace("m.healer.resolver != nil && m.healer.pace.Answers(time.Now())", "false"))},
		tests: []suite{root("TestNewGetsByWithOneDeadAddress")},
	},
	{
		name:  "due-and-overlooked",
		what:  "a connection that is due, and was just being let go when it was its turn, is not tried again",
		edits: []edit{in("conn.takeBoth", drop("c.againIfUnleased(&c.w)"))},
		tests: []suite{root("TestOfManyThatAreDueNoneIsOverlooked")},
	},
	{
		name:  "due-after-its-lease",
		what:  "the supervisor does not hear that a connection that is due is to be replaced now",
		edits: []edit{in("conn.tryLaterLocked", drop("c.m.kick()"))},
		tests: []suite{root("TestAConnectionThatWasInUseIsReplacedWhenItsLeaseEnds")},
	},
	{
		name:  "storm",
		what:  "the window does not bound connects, so a service that comes back gets all of them at once",
		pkg:   "internal/pace",
		edits: []edit{in("State.free", replace("s.window()-underHealing", "most"))},
		tests: []suite{own("internal/pace", "TestDecide")},
	},
	{
		name:  "capacity-exceeded",
		what:  "connects in progress are not counted against the capacity when the supervisor starts more",
		pkg:   "internal/pace",
		edits: []edit{in("Service.Decide", replace("d.Open - d.Connecting", "d.Open"))},
		tests: []suite{own("internal/pace", "TestDecideKeepsItsBounds")},
	},
	{
		name:  "scaled-beyond-need",
		what:  "each look at one overdue waiter starts another connect, though one is in progress for it",
		pkg:   "internal/pace",
		edits: []edit{in("Service.Decide", replace("d.Overdue - coming", "d.Overdue"))},
		tests: []suite{own("internal/pace", "TestDecide")},
	},
	{
		name: "scaled-below-minimum",
		what: "the auto-scaler closes unneeded connections below the minimum",
		edits: []edit{
			in("Multiplexer.surplusLocked", replace("min(slices.Min(s.lows), spare)", "slices.Min(s.lows)")),
			in("conn.isSurplusLocked", replace("m.open-m.leaving > m.cfg.minimum.Get()", "true")),
		},
		tests: []suite{root("TestSurplusIsClosedAfterTheIdleTimeoutOldestFirstDownToTheMinimum")},
	},
	{
		name:  "surplus-kept",
		what:  "the auto-scaler never closes a connection that nobody needs",
		edits: []edit{in("Multiplexer.surplusLocked", never("len(s.lows) == idleSlots"))},
		tests: []suite{root("TestSurplusIsClosedAfterTheIdleTimeoutOldestFirstDownToTheMinimum")},
	},
	{
		name:  "overdue-for-ever",
		what:  "a caller that waited too long counts as overdue even after its wait",
		edits: []edit{in("line.remove", drop("l.overdue--"))},
		tests: []suite{root("TestAWaitThatIsLongerThanTheTimeoutAddsAConnection")},
	},
	{
		name:  "hold-not-let-go",
		what:  "when plex holds an idle write half but cannot hold the read half, it never lets go of the first",
		edits: []edit{in("conn.takeBoth", drop("c.w.arrive(fromHold)"))},
		tests: []suite{root("TestALeasedConnectionIsReplacedWhenItsLeasesHaveEnded")},
	},
	{
		name:  "expired-under-a-lease",
		what:  "a connection that is too old is closed while a consumer has a lease on it",
		edits: []edit{in("conn.retireDue", atStart("if (c.r.word() | c.w.word()).is(leaseLive) { c.fail(errPeerClosed) }"))},
		tests: []suite{root("TestALeasedConnectionIsReplacedWhenItsLeasesHaveEnded")},
	},
	{
		name:  "all-expire-at-once",
		what:  "connections of the same age are replaced at the same time, not one after another",
		edits: []edit{in("Multiplexer.canSpareLocked", atStart("return !m.refusing"))},
		tests: []suite{root("TestOneConnectionAtATimeIsMissingForItsAge")},
	},
}
