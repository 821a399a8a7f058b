package main

// Defects in packages message and request.

// layerDefects returns them.
func layerDefects() []defect {
	layers := func(names ...string) []suite { return []suite{fault("./layers", names...)} }
	return []defect{
		{
			name:  "message-rest-dropped",
			what:  "the beginning of a message is forgotten when the lease that read it ends",
			pkg:   "message",
			edits: []edit{in("Receiver.putBack", replace("h.left.store(h)", "h.left.store(&hand{backlog: backlog{conn: h.conn}})"))},
			tests: layers("TestFaultMessagesByteByByte"),
		},
		{
			name:  "message-cut-not-reported",
			what:  "if a connection fails between two reads of a message, no CutError tells of the message",
			pkg:   "message",
			edits: []edit{in("Receiver.endLocked", instead("r.enqueueLocked(left)", "r.dropLocked(left)"))},
			tests: layers("TestFaultKilledWithinAMessage"),
		},
		{
			name:  "message-cut-not-reported-at-eof",
			what:  "if EOF cuts a message off, no CutError tells of it",
			pkg:   "message",
			edits: []edit{in("cut", before("len(b.data) == 0", "if b.cause == io.EOF { b.data = nil }"))},
			tests: layers("TestFaultCutWithinAMessage"),
		},
		{
			name:  "message-not-pinned",
			what:  "a connection is retired in the middle of a message",
			pkg:   "message",
			edits: []edit{in("Receiver.settleLocked", drop("left.pinLocked()"))},
			tests: layers("TestFaultRetiringUnderMessages"),
		},
		{
			name:  "message-waits-for-more",
			what:  "a message is delivered only when a byte of the next has come",
			pkg:   "message",
			edits: []edit{in("Prefix.Split", replace("length > uint64(len(data)-n)", "length >= uint64(len(data)-n)"))},
			tests: layers("TestFaultMessagesByteByByte"),
		},
		{
			name:  "message-out-of-step-heard",
			what:  "a connection is not killed after data that cannot be split, and is read on",
			pkg:   "message",
			edits: []edit{in("iteration.fail", instead("h.conn.Kill()", "h.kill = false"))},
			tests: layers("TestFaultMessageThatIsTooLong", "TestFaultGarbageForTheSplitFunction"),
		},
		{
			name:  "message-refused-lost",
			what:  "a message that a loop was left with, and did not take from its channel, is not delivered to the next loop",
			pkg:   "message",
			edits: []edit{in("iteration.handOver", never("*it.refused"))},
			tests: layers("TestFaultLoopsThatAreLeft"),
		},
		{
			name:  "message-left-unseen",
			what:  "whole messages that a loop has left wait until more arrives on their connection",
			pkg:   "message",
			edits: []edit{in("situation.decide", replace("s.whole || s.ended", "s.ended"))},
			tests: layers("TestFaultLoopLeftWithMessagesInHand"),
		},
		{
			name:  "message-split-panics",
			what:  "a panic of the split function is not recovered",
			pkg:   "message",
			edits: []edit{in("Receiver.ask", replace("recover()", "any(nil)"))},
			tests: layers("TestFaultGarbageForTheSplitFunction"),
		},
		{
			name:  "request-identifier-reused",
			what:  "an identifier is used again while a late reply to its last request can still come",
			pkg:   "request",
			edits: []edit{in("table.giveUp", replace("t.ids.few()", "!t.ids.few()"))},
			tests: layers("TestFaultFewIdentifiers", "TestFaultLateReplies"),
		},
		{
			name:  "request-identifier-leaked",
			what:  "when a connection ends, the identifiers of requests that were given up on it stay taken",
			pkg:   "request",
			edits: []edit{in("table.takeAllLocked", before("t.detachAndFailLocked(c, victims)", "if c.state == abandoned { l.calls.remove(c); continue }"))},
			tests: layers("TestFaultFewIdentifiers"),
		},
		{
			name:  "request-loss-not-told",
			what:  "requests on a connection that is lost wait for ever",
			pkg:   "request",
			edits: []edit{in("Client.lost", onlyIf("victims.fail(why)", "false"))},
			tests: layers("TestFaultRestartWithThousandsInFlight"),
		},
		{
			name:  "request-maybe-sent-denied",
			what:  "the error of a request of which a part was written says that nothing was sent",
			pkg:   "request",
			edits: []edit{in("Client.Do", replace("n > 0", "n > 0 && err == nil"))},
			tests: layers("TestFaultLostWhileWriting"),
		},
		{
			name:  "request-loss-denies-sending",
			what:  "the error of a request whose connection is lost says that nothing was sent",
			pkg:   "request",
			edits: []edit{in("Client.await", replace("maybeSent", "false").within("if done == nil"))},
			tests: layers("TestFaultConnectionsEndUnderRequests", "TestFaultEndAtEveryByteOfARequest"),
		},
		{
			name:  "request-not-pinned",
			what:  "a connection is retired while requests are in flight on it",
			pkg:   "request",
			edits: []edit{in("table.register", drop("t.pinLocked(l)"))},
			tests: layers("TestFaultRetiringUnderRequests"),
		},
		{
			name:  "request-turn-lost",
			what:  "a reply makes room, but no caller that waits gets its turn",
			pkg:   "request",
			edits: []edit{in("table.reply", drop("t.turnsLocked()").within("case sent, quitting:"))},
			tests: layers("TestFaultBackPressure"),
		},
		{
			name:  "request-close-leaves-waiters",
			what:  "Close of the client leaves callers waiting for their turn",
			pkg:   "request",
			edits: []edit{in("table.close", drop("t.failLocked(c, &victims)").within("for c := t.queue.head"))},
			tests: layers("TestFaultCloseUnderRequests"),
		},
		{
			name:  "request-garbage-ignored",
			what:  "a connection is not killed after a message that the protocol cannot parse",
			pkg:   "request",
			edits: []edit{in("Client.malformed", drop("c.outOfStep(conn, err)"), drop("c.messages.Kill(conn)"))},
			tests: layers("TestFaultGarbageReplies"),
		},
		{
			name:  "request-write-not-interrupted",
			what:  "the end of a caller's ctx does not interrupt the write of its request",
			pkg:   "request",
			edits: []edit{in("sending.watch", replace("s.user", "s.client"))},
			tests: layers("TestFaultLostWhileWriting"),
		},
		{
			name:  "request-call-pooled-twice",
			what:  "a call that the table keeps for a late reply goes to the pool as well, and to the next request",
			pkg:   "request",
			edits: []edit{in("Client.giveUp", always("!kept"))},
			tests: layers("TestFaultFewIdentifiers", "TestFaultLateReplies"),
		},
	}
}
