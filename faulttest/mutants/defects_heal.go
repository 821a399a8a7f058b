package main

// Defects of the healer, the auto-scaler and lifetimes: healer.go,
// autoscaler.go, lifetime.go.

var healDefects = []defect{
	{
		name: "failures-reset-on-accept", file: "healer.go",
		what:  "a service that accepts and closes at once is connected to without a pause",
		edits: []edit{{"\tm.goodAt, m.retryAt = now, now // on with the ramp\n", "\tm.goodAt, m.retryAt, m.failures = now, now, 0\n"}},
		tests: []suite{root()},
	},
	{
		name: "no-backoff", file: "healer.go",
		what:  "a dead service is connected to without a pause",
		edits: []edit{{"\t\tcase m.failures > 0 && now.Before(retryAt):", "\t\tcase m.failures < 0 && now.Before(retryAt):"}},
		tests: []suite{root()},
	},
	{
		name: "healer-gives-up", file: "healer.go",
		what:  "a connect that failed is not tried again",
		edits: []edit{{"\t\t\tsooner(next, retryAt)\n", ""}},
		tests: []suite{root()},
	},
	{
		name: "storm", file: "healer.go",
		what:  "a service that comes back is met by all connects at once",
		edits: []edit{{"\tslots := d.window - d.active\n", "\tslots := d.capacity\n"}},
		tests: []suite{root()},
	},
	{
		name: "capacity-exceeded", file: "healer.go",
		what:  "connects for waiters do not count the connections on their way",
		edits: []edit{{"\troom := d.capacity - d.open - d.connecting\n", "\troom := d.capacity - d.open\n"}},
		tests: []suite{root()},
	},
	{
		name: "scaled-beyond-need", file: "healer.go",
		what:  "one impatient waiter has the pool grow to its capacity",
		edits: []edit{{"\twant := d.overdue - coming\n", "\twant := d.overdue\n"}},
		tests: []suite{root()},
	},
	{
		name: "scaled-below-minimum", file: "autoscaler.go",
		what: "surplus connections are closed below the minimum",
		edits: []edit{
			{"\t\t\tif n := min(slices.Min(m.lows), m.open-m.leaving-m.cfg.minimum.value); n > 0 {", "\t\t\tif n := slices.Min(m.lows); n > 0 {"},
			{"\tsurplus := from > m.cfg.minimum.value && !m.refusing && !c.lost", "\tsurplus := !m.refusing && !c.lost"},
		},
		tests: []suite{root()},
	},
	{
		name: "surplus-kept", file: "autoscaler.go",
		what:  "connections that nobody needs are never closed",
		edits: []edit{{"\t\tif len(m.lows) == idleSlots {", "\t\tif len(m.lows) > idleSlots {"}},
		tests: []suite{root()},
	},
	{
		name: "served-by-nothing", file: "autoscaler.go",
		what:  "a waiter whose new connection died, or was had by another, never has another connected",
		edits: []edit{{"\t\tp.q.served = 0\n", "\t\tp.q.served = max(p.q.served, 0)\n"}},
		tests: []suite{root()},
	},
	{
		name: "hold-not-let-go", file: "autoscaler.go",
		what:  "an idle read half whose write half is leased is never leased again once it was looked at",
		edits: []edit{{"\tif !c.w.hold() {\n\t\tc.r.letGo(false)\n\t\treturn false\n\t}", "\tif !c.w.hold() {\n\t\treturn false\n\t}"}},
		tests: []suite{root()},
	},
	{
		name: "expired-under-a-lease", file: "lifetime.go",
		what:  "a connection that is too old is closed though a consumer has it",
		edits: []edit{{"\tif m.mayExpire(c) && c.holdBoth() {\n\t\tm.expireHeld(c)\n\t}\n", "\tif m.mayExpire(c) && c.holdBoth() {\n\t\tm.expireHeld(c)\n\t} else {\n\t\tc.fail(errPeerClosed)\n\t}\n"}},
		tests: []suite{root()},
	},
	{
		name: "all-expire-at-once", file: "lifetime.go",
		what:  "connections of the same age are taken out together",
		edits: []edit{{"!c.lost && c.counted && m.open-m.leaving >= m.target", "!c.lost && c.counted"}},
		tests: []suite{root()},
	},
}
