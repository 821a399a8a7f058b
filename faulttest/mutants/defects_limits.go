package main

// Defects in the bounds that users set, and in the figures.

var limitDefects = []defect{
	{
		name:  "limit-waits-one-more",
		what:  "one caller more waits than WithMaxWaiting allows",
		edits: []edit{in("queue.join", replace("n >= int64(most.Get())", "n > int64(most.Get())"))},
		tests: []suite{root("TestOneCallerTooManyFailsAtOnce", "TestWithABoundOfZeroNobodyWaits")},
	},
	{
		name:  "limit-refusal-is-no-demand",
		what:  "a caller that is refused has nothing connected",
		edits: []edit{in("Multiplexer.wait", drop("m.want(q)").within("q.join"))},
		tests: []suite{root("TestWithABoundOfZeroNobodyWaits")},
	},
	{
		name:  "limit-connecting",
		what:  "more connects at once than WithMaxConnecting allows",
		edits: []edit{in("Multiplexer.demandLocked", replace("m.cfg.maxConnecting.Get()", "0"))},
		tests: []suite{root("TestTheBoundOnConnectsHoldsForHealingAndGrowth")},
	},
	{
		name:  "failfast-waiters-sleep-on",
		what:  "those who wait already are not told that connecting fails",
		edits: []edit{in("Multiplexer.supervise", drop("m.wakeIfHopelessLocked()"))},
		tests: []suite{root("TestFailFastTellsTheCauseAtOnceAndRecovers")},
	},
	{
		name:  "failfast-is-no-demand",
		what:  "callers that fail fast have nothing connected",
		edits: []edit{in("Multiplexer.tokenTaken", drop("m.want(q)"))},
		tests: []suite{root("TestThoseWhoFailFastAreDemand")},
	},
	{
		name:  "failfast-forgets-what-is-held-back",
		what:  "what a pause holds back is forgotten when the pause is over",
		edits: []edit{in("Multiplexer.connectsLocked", drop("m.wanted.Store(true)"))},
		tests: []suite{root("TestReadyReadersWaitWhereOthersFailFast")},
	},
	{
		name:  "failfast-for-ready-readers",
		what:  "those who wait for what arrives fail fast, too",
		edits: []edit{in("Multiplexer.tokenTaken", replace("err == ErrUnavailable && q.ready.Load()", "false"))},
		tests: []suite{root("TestReadyReadersWaitWhereOthersFailFast")},
	},
	{
		name:  "failfast-beside-an-open-connection",
		what:  "callers fail fast though a connection is open",
		edits: []edit{in("Multiplexer.hopelessLocked", replace("m.open == m.leaving", "true"))},
		tests: []suite{root("TestFailFastIsOverWhileSomethingIsOpen")},
	},
	{
		name:  "observer-missed-is-not-told",
		what:  "an observer that was too slow does not learn that it missed something",
		edits: []edit{in("outbox.put", drop("o.missed++"))},
		tests: []suite{root("TestAnObserverThatIsTooSlowIsToldHowMuchItMissed")},
	},
	{
		name:  "observer-backoff-does-not-end",
		what:  "the observer is not told that a backoff is over",
		edits: []edit{in("Multiplexer.succeededLocked", drop("m.news.backoffEnded()"))},
		tests: []suite{root("TestTheObserverIsToldOfALife")},
	},
	{
		name:  "observer-stop-is-late",
		what:  "an observer that was stopped is told what was still on its way",
		edits: []edit{in("observers.add", drop("over.Store(true)"))},
		tests: []suite{root("TestASlowObserverHoldsUpNoOther")},
	},
	{
		name:  "observer-stop-is-all",
		what:  "stopping one observer stops all",
		edits: []edit{in("observers.add", replace("b == box", "b != nil"))},
		tests: []suite{root("TestObserversComeAndGo")},
	},
	{
		name:  "stack-of-a-lease-that-is-over",
		what:  "a half that nobody has shows the stack that took its last lease",
		edits: []edit{in("half.taken", replace("!h.live(o.lease)", "false"))},
		tests: []suite{root("TestStacksTellWhoHasALease")},
	},
	{
		name:  "probe-all-at-once",
		what:  "all connections are probed in the same moment",
		edits: []edit{in("prober.look", replace("rand.N(tick)", "0*rand.N(tick)"))},
		tests: []suite{root("TestProbesAreSpreadInTime")},
	},
	{
		name:  "probe-that-hangs-is-waited-for",
		what:  "a probe that does not return keeps its connection in service",
		edits: []edit{in("conn.ask", replace("min(p.timeout, maxWait)+connectGrace", "maxWait"))},
		tests: []suite{root("TestAProbeThatFailsLosesItsConnection")},
	},
	{
		name:  "probe-of-what-is-expected",
		what:  "a connection that something is expected of is probed",
		edits: []edit{in("conn.probe", replace("c.w.leaseNow(true)", "c.w.leaseNow(false)"), replace("probeLease, true", "probeLease, false"))},
		tests: []suite{root("TestWhatHasSomethingToDeliverIsNotProbed")},
	},
	{
		name:  "trace-release-is-not-told",
		what:  "a lease that is closed in the common way is not told of as released",
		edits: []edit{in("half.remember", drop("h.mark(lease, leaseWatched)"))},
		tests: []suite{root("TestATraceIsToldOfEachLease")},
	},
	{
		name:  "trace-release-before-the-half-is-back",
		what:  "the trace is told of a release when nobody can have the half yet",
		edits: []edit{in("half.end", replace("defer tell()", "tell()")), in("half.end", drop("h.arrive(fromLease)")), in("half.end", instead("tell := h.releasing(id)", "tell := h.releasing(id); if tell != nil { tell(); tell = nil }; h.arrive(fromLease)"))},
		tests: []suite{root("TestATraceMayCallThePool")},
	},
	{
		name:  "due-and-gone-is-replaced-again",
		what:  "what has left while it waited to be tried is replaced once more, by one too many",
		edits: []edit{in("conn.leaveLocked", drop("c.tryNoMoreLocked()"))},
		tests: []suite{root("TestWhatHasLeftIsNotReplacedFirst")},
	},
	{
		name:  "stats-lease-counted-twice",
		what:  "the leases of a connection that is forgotten count twice for a while",
		edits: []edit{in("roster.appendWithLeases", replace("r.leases", "2*r.leases"))},
		tests: []suite{root("TestRosterCountsTheLeasesOfEachConnectionOnce")},
	},
	{
		name:  "probe-that-fails-is-forgotten",
		what:  "a connection whose probe has failed stays",
		edits: []edit{in("conn.probe", drop("c.fail(err)"))},
		tests: []suite{root("TestAProbeThatFailsLosesItsConnection")},
	},
	{
		name:  "probe-of-what-was-just-used",
		what:  "a connection is probed soon after it was used",
		edits: []edit{in("prober.look", replace("(probeTicks-2)*tick", "0"))},
		tests: []suite{root("TestIdleConnectionsAreProbedAndBusyOnesAreNot"), fault("./model", "TestPoolIsWhatTheModelSays", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
	{
		name:  "probe-keeps-its-connection",
		what:  "a probe does not give its connection back",
		edits: []edit{in("conn.probe", drop("defer func() { _ = d.Close() }()"))},
		tests: []suite{root("TestIdleConnectionsAreProbedAndBusyOnesAreNot"), fault("./model", "TestPoolIsWhatTheModelSays", "TestPoolWithReadyReadersIsWhatTheModelSays")},
	},
}
