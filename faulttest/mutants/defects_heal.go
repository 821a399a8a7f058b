package main

// Defects of the healer, the auto-scaler and lifetimes: healer.go,
// autoscaler.go, lifetime.go.

var healDefects = []defect{
	{
		name: "failures-reset-on-accept", file: "healer.go",
		what:  "a service that accepts and closes at once is connected to without a pause",
		edits: []edit{{old: "\tm.goodAt, m.retryAt = now, now // on with the ramp\n", new: "\tm.goodAt, m.retryAt, m.failures = now, now, 0\n"}},
		tests: []suite{root("TestAFailureOnTheRampBeginsAgainWithOneAfterAPause")},
	},
	{
		name: "no-backoff", file: "healer.go",
		what:  "a dead service is connected to without a pause",
		edits: []edit{{old: "\t\tcase m.failures > 0 && now.Before(retryAt):", new: "\t\tcase m.failures < 0 && now.Before(retryAt):"}},
		tests: []suite{root("TestAFailureOnTheRampBeginsAgainWithOneAfterAPause")},
	},
	{
		name: "healer-gives-up", file: "healer.go",
		what:  "a connect that failed is not tried again",
		edits: []edit{{old: "\t\t\tsooner(next, retryAt)\n", new: ""}},
		tests: []suite{root("TestAFailedFirstConnectIsRetriedForThoseWhoWaitAndForNobodyElse", "TestTheCapacityHoldsThroughBurstsLossesAndRefusals")},
	},
	{
		name: "storm", file: "healer.go",
		what:  "a service that comes back is met by all connects at once",
		edits: []edit{{old: "\tslots := d.window - d.active\n", new: "\tslots := d.capacity\n"}},
		tests: []suite{root("TestDecide")},
	},
	{
		name: "capacity-exceeded", file: "healer.go",
		what:  "connects for waiters do not count the connections on their way",
		edits: []edit{{old: "\troom := d.capacity - d.open - d.connecting\n", new: "\troom := d.capacity - d.open\n"}},
		tests: []suite{root("TestDecideKeepsItsBounds")},
	},
	{
		name: "scaled-beyond-need", file: "healer.go",
		what:  "one impatient waiter has the pool grow to its capacity",
		edits: []edit{{old: "\twant := d.overdue - coming\n", new: "\twant := d.overdue\n"}},
		tests: []suite{root("TestDecide")},
	},
	{
		name: "scaled-below-minimum", file: "autoscaler.go",
		what: "surplus connections are closed below the minimum",
		edits: []edit{
			{old: "\t\t\tif n := min(slices.Min(m.lows), m.open-m.leaving-m.cfg.minimum.value); n > 0 {", new: "\t\t\tif n := slices.Min(m.lows); n > 0 {"},
			{old: "\tsurplus := from > m.cfg.minimum.value && !m.refusing && !c.lost", new: "\tsurplus := !m.refusing && !c.lost"},
		},
		tests: []suite{root("TestSurplusIsClosedAfterTheIdleTimeoutOldestFirstDownToTheMinimum")},
	},
	{
		name: "surplus-kept", file: "autoscaler.go",
		what:  "connections that nobody needs are never closed",
		edits: []edit{{old: "\t\tif len(m.lows) == idleSlots {", new: "\t\tif len(m.lows) > idleSlots {"}},
		tests: []suite{root("TestSurplusIsClosedAfterTheIdleTimeoutOldestFirstDownToTheMinimum")},
	},
	{
		name: "overdue-for-ever", file: "autoscaler.go",
		what:  "a caller that once waited too long goes on being a reason to connect",
		edits: []edit{{old: "\t\tp.overdue = false\n\t\tp.q.overdue--\n", new: "\t\tp.overdue = false\n"}},
		tests: []suite{root("TestAWaitThatIsLongerThanTheTimeoutAddsAConnection")},
	},
	{
		name: "hold-not-let-go", file: "autoscaler.go",
		what:  "an idle read half whose write half is leased is never leased again once it was looked at",
		edits: []edit{{old: "\tif !c.w.hold() {\n\t\tc.r.letGo(false)\n", new: "\tif !c.w.hold() {\n"}},
		tests: []suite{root("TestALeasedConnectionIsReplacedWhenItsLeasesHaveEnded")},
	},
	{
		name: "expired-under-a-lease", file: "lifetime.go",
		what:  "a connection that is too old is closed though a consumer has it",
		edits: []edit{{old: "\tif !m.drain(c) && m.mayExpire(c) && c.holdBoth() {\n\t\tm.expireHeld(c)\n\t}\n", new: "\tif !m.drain(c) && m.mayExpire(c) && c.holdBoth() {\n\t\tm.expireHeld(c)\n\t} else {\n\t\tc.fail(errPeerClosed)\n\t}\n"}},
		tests: []suite{root("TestOneConnectionAtATimeIsMissingForItsAge")},
	},
	{
		name: "all-expire-at-once", file: "lifetime.go",
		what:  "connections of the same age are taken out together",
		edits: []edit{{old: "!c.lost && c.counted && m.open-m.leaving >= m.target-m.hungLocked()", new: "!c.lost && c.counted"}},
		tests: []suite{root("TestOneConnectionAtATimeIsMissingForItsAge")},
	},
}
