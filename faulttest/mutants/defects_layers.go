package main

// Defects in packages message and request.

// layerDefects returns them.
func layerDefects() []defect {
	layers := func(names ...string) []suite { return []suite{fault("./layers", names...)} }
	return []defect{
		{
			name: "message-rest-dropped", file: "message/leftover.go",
			what:  "the beginning of a message is forgotten when its lease ends",
			edits: []edit{{old: "\t\tleft.store(h)\n", new: "\t\tleft.store(&hand{conn: h.conn})\n"}},
			tests: layers("TestFaultMessagesByteByByte"),
		},
		{
			name: "message-cut-not-reported", file: "message/leftover.go",
			what:  "a message whose connection was killed while nobody had it in hands is forgotten silently",
			edits: []edit{{old: "\tcase left.poisoned:\n\t\tr.dropLocked(left)\n\tdefault:\n\t\tr.enqueueLocked(left)\n", new: "\tdefault:\n\t\tr.dropLocked(left)\n"}},
			tests: layers("TestFaultKilledWithinAMessage"),
		},
		{
			name: "message-cut-not-reported-at-eof", file: "message/iterate.go",
			what:  "a message that a FIN cuts off is forgotten silently",
			edits: []edit{{old: "\t\tif len(h.data) == 0 {\n\t\t\th.finished = true\n", new: "\t\tif h.cause == io.EOF {\n\t\t\th.data, h.finished = nil, true\n"}},
			tests: layers("TestFaultCutWithinAMessage"),
		},
		{
			name: "message-not-pinned", file: "message/leftover.go",
			what:  "a connection is retired in the middle of a message",
			edits: []edit{{old: "\t\t\tleft.pinLocked()\n", new: ""}},
			tests: layers("TestFaultRetiringUnderMessages"),
		},
		{
			name: "message-waits-for-more", file: "message/prefix.go",
			what:  "a message is delivered only when a byte of the next has come",
			edits: []edit{{old: "\tif length > uint64(len(data)-n) {", new: "\tif length >= uint64(len(data)-n) {"}},
			tests: layers("TestFaultMessagesByteByByte"),
		},
		{
			name: "message-out-of-step-heard", file: "message/iterate.go",
			what:  "a connection is read on after what makes no sense",
			edits: []edit{{old: "\th.giveUp()\n\tif h.kill {\n\t\th.conn.Kill()", new: "\th.giveUp()\n\tif h.kill {\n\t\th.kill = false"}},
			tests: layers("TestFaultMessageThatIsTooLong", "TestFaultGarbageForTheSplitFunction"),
		},
		{
			name: "message-refused-lost", file: "message/iterate.go",
			what:  "a message that nobody has taken from a channel is lost with it",
			edits: []edit{{old: "\t\t\t\t\th.data, h.finished, h.kill = before, false, false\n", new: "\t\t\t\t\t_ = before\n"}},
			tests: layers("TestFaultLoopsThatAreLeft"),
		},
		{
			name: "message-left-unseen", file: "message/leftover.go",
			what:  "whole messages that a loop has left wait until more comes over their connection",
			edits: []edit{{old: "\t\tif keep && (h.whole || over || h.report != nil) {", new: "\t\tif keep && (over || h.report != nil) {"}},
			tests: layers("TestFaultLoopLeftWithMessagesInHand"),
		},
		{
			name: "message-split-panics", file: "message/split.go",
			what:  "a panic of the split function takes the program down",
			edits: []edit{{old: "\t\tif v := recover(); v != nil {", new: "\t\tif v := any(nil); v != nil {"}},
			tests: layers("TestFaultGarbageForTheSplitFunction"),
		},
		{
			name: "request-identifier-reused", file: "request/table.go",
			what:  "an identifier is used again while its late reply can still come",
			edits: []edit{{old: "\tif maybeSent && t.ids.few() {", new: "\tif maybeSent && !t.ids.few() {"}},
			tests: layers("TestFaultFewIdentifiers", "TestFaultLateReplies"),
		},
		{
			name: "request-identifier-leaked", file: "request/table.go",
			what:  "the identifiers of requests given up are not given back when their connection ends",
			edits: []edit{{old: "\t\twas := c.state\n\t\tt.removeLocked(c)\n", new: "\t\twas := c.state\n\t\tif was == abandoned {\n\t\t\tl.calls.remove(c)\n\t\t\tcontinue\n\t\t}\n\t\tt.removeLocked(c)\n"}},
			tests: layers("TestFaultFewIdentifiers"),
		},
		{
			name: "request-loss-not-told", file: "request/client.go",
			what:  "the requests on a connection that is lost wait for ever",
			edits: []edit{{old: "\tvictims.fail(why)\n\t_ = w.Close() // who", new: "\t_, _ = victims, why\n\t_ = w.Close() // who"}},
			tests: layers("TestFaultRestartWithThousandsInFlight"),
		},
		{
			name: "request-maybe-sent-denied", file: "request/client.go",
			what:  "a request of which part was written is said not to have been sent",
			edits: []edit{{old: "\tmaybeSent := n > 0\n", new: "\tmaybeSent := n > 0 && err == nil\n"}},
			tests: layers("TestFaultLostWhileWriting"),
		},
		{
			name: "request-loss-denies-sending", file: "request/client.go",
			what:  "a request whose connection is lost is said not to have been sent",
			edits: []edit{{old: "\tdone := ctx.Done()\n\tif done == nil {\n\t\treturn c.result(call, <-call.done, maybeSent)\n", new: "\tdone := ctx.Done()\n\tif done == nil {\n\t\treturn c.result(call, <-call.done, false)\n"}},
			tests: layers("TestFaultConnectionsEndUnderRequests", "TestFaultEndAtEveryByteOfARequest"),
		},
		{
			name: "request-not-pinned", file: "request/table.go",
			what:  "a connection is retired under the requests on it",
			edits: []edit{{old: "\tt.pinLocked(l)\n", new: ""}},
			tests: layers("TestFaultRetiringUnderRequests"),
		},
		{
			name: "request-turn-lost", file: "request/table.go",
			what:  "a reply makes room, and nobody who waits is told",
			edits: []edit{{old: "\t\tt.stats.Replies++\n\t\tt.turnsLocked()\n", new: "\t\tt.stats.Replies++\n"}},
			tests: layers("TestFaultBackPressure"),
		},
		{
			name: "request-close-leaves-waiters", file: "request/table.go",
			what:  "callers that wait for their turn are not told that the client is closed",
			edits: []edit{{old: "\t\tt.stats.Waiting--\n\t\tt.failLocked(c, &victims)\n", new: "\t\tt.stats.Waiting--\n"}},
			tests: layers("TestFaultCloseUnderRequests"),
		},
		{
			name: "request-garbage-ignored", file: "request/receive.go",
			what:  "a connection that brings what makes no sense is heard and used on",
			edits: []edit{{old: "\tc.outOfStep(conn, err)\n\tc.messages.Kill(conn)\n", new: ""}},
			tests: layers("TestFaultGarbageReplies"),
		},
		{
			name: "request-write-not-interrupted", file: "request/send.go",
			what:  "a caller whose ctx ends while its request is written waits for a peer that does not read",
			edits: []edit{{old: "context.AfterFunc(s.user, s.interrupt) }", new: "context.AfterFunc(s.client, s.interrupt) }"}},
			tests: layers("TestFaultLostWhileWriting"),
		},
		{
			name: "request-call-pooled-twice", file: "request/client.go",
			what:  "a call that the table keeps for its late reply is given to the next request",
			edits: []edit{{old: "\t\tif !kept {\n\t\t\tc.calls.Put(call)\n\t\t}\n\t\treturn none, &Error{MaybeSent: maybeSent, Err: caller.ContextError(ctx)}\n", new: "\t\tc.calls.Put(call)\n\t\t_ = kept\n\t\treturn none, &Error{MaybeSent: maybeSent, Err: caller.ContextError(ctx)}\n"}},
			tests: layers("TestFaultFewIdentifiers", "TestFaultLateReplies"),
		},
	}
}
