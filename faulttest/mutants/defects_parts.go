package main

// Defects in what package request bounds and watches on each connection, and in requests with
// several messages.

// partDefects returns them.
func partDefects() []defect {
	tests := func(names ...string) []suite { return []suite{own("request", names...)} }
	return []defect{
		{
			name:  "request-error-names-no-connection",
			what:  "the error of a request whose connection is lost does not name the connection",
			pkg:   "request",
			edits: []edit{in("table.detachAndFailLocked", drop("c.conn = l.conn"))},
			tests: tests("TestAnErrorNamesItsConnection"),
		},
		{
			name:  "request-error-names-another-connection",
			what:  "the error of a request that no connection was to be had for names that of an earlier one",
			pkg:   "request",
			edits: []edit{in("Client.result", replace("call.err, call.conn = nil, plex.Conn{}", "call.err = nil"))},
			tests: tests("TestAnErrorNamesNoConnectionThatItWasNotGivenTo"),
		},
		{
			name:  "request-given-up-makes-room",
			what:  "a request that is given up makes room on its connection though the server may be at work on it",
			pkg:   "request",
			edits: []edit{in("table.giveUp", replace("t.perConn > 0 && !l.datagram", "false"))},
			tests: tests("TestARequestThatIsGivenUpCountsForTheBoundUntilItsReply"),
		},
		{
			name:  "request-room-on-the-wrong-connection",
			what:  "a reply makes room on the connection that brings it, not on the one that its request was sent over",
			pkg:   "request",
			edits: []edit{in("table.replies", instead("t.unparkLocked(on, freed)", "_ = on; freed = t.unparkLocked(t.links[from], freed)"))},
			tests: tests("TestTheBoundForEachConnectionIsKeptAndAConnectionWithRoomIsChosen"),
		},
		{
			name:  "request-datagram-holds-its-place",
			what:  "a request over a datagram connection that is given up counts for the bound for ever",
			pkg:   "request",
			edits: []edit{in("link.unanswered", never("l.datagram"))},
			tests: tests("TestOverDatagramsARequestThatIsGivenUpDoesNotCountForTheBound"),
		},
	}
}
