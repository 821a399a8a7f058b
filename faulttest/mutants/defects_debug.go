package main

// Defects in package plexdebug.

// debugDefects returns them.
func debugDefects() []defect {
	tests := func(names ...string) []suite { return []suite{own("plexdebug", names...)} }
	return []defect{
		{
			name:  "debug-actions-are-allowed",
			what:  "the page does what its buttons would do though there are none",
			pkg:   "plexdebug",
			edits: []edit{in("handler.act", never(`h.token == ""`))},
			tests: tests("TestActionsAreOffUnlessAllowed"),
		},
		{
			name:  "debug-any-token",
			what:  "a POST needs no token",
			pkg:   "plexdebug",
			edits: []edit{in("handler.act", never("subtle.ConstantTimeCompare"))},
			tests: tests("TestNobodyElsePressesAButton"),
		},
		{
			name:  "debug-any-site",
			what:  "another site may make a browser press a button",
			pkg:   "plexdebug",
			edits: []edit{in("handler.act", replace("h.origin.Check(r)", "error(nil)"))},
			tests: tests("TestNobodyElsePressesAButton"),
		},
		{
			name:  "debug-line-ends",
			what:  "an address or an error may begin a message of its own to the browser",
			pkg:   "plexdebug",
			edits: []edit{in("lineEnds", replace(`, "\r", "\n"`, ""))},
			tests: tests("TestHostileTextIsText"),
		},
		{
			name:  "debug-foreign-text",
			what:  "an address whose String panics costs the page",
			pkg:   "plexdebug",
			edits: []edit{in("guarded", replace("err := caller.Guard(what, func() error { s = f(); return nil })", "err := error(nil)"), atStart("s = f()"))},
			tests: tests("TestHostileTextIsText"),
		},
		{
			name:  "debug-samples-for-ever",
			what:  "samples are taken though nobody has looked for long",
			pkg:   "plexdebug",
			edits: []edit{in("sampler.tick", never("time.Since(s.looked) >= afterglow"))},
			tests: tests("TestSamplesAreTakenWhileSomebodyLooksAndForAWhileAfterwards"),
		},
		{
			name:  "debug-watchers-stay",
			what:  "who has left still counts as watching",
			pkg:   "plexdebug",
			edits: []edit{in("sampler.watch", drop("s.watchers--"))},
			tests: tests("TestThereIsABoundOnLivePages"),
		},
		{
			name:  "debug-events-pile-up",
			what:  "all events are kept, not only the latest",
			pkg:   "plexdebug",
			edits: []edit{in("eventLog.add", never("len(l.last) == keptEvents"))},
			tests: tests("TestOnlyTheLatestEventsAreKept"),
		},
	}
}
