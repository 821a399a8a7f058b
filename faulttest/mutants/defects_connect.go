package main

// Defects in connecting: connect.go.

var connectDefects = []defect{
	{
		name: "slot-leaked-on-failure", file: "connect.go",
		what:  "a connect that fails keeps its slot of the capacity for ever",
		edits: []edit{{old: "\tm.stats.ConnectFailed++\n\tm.unreserveLocked()\n", new: "\tm.stats.ConnectFailed++\n"}},
		tests: []suite{root("TestTheCapacityHoldsThroughBurstsLossesAndRefusals")},
	},
	{
		name: "slot-leaked-on-panic", file: "connect.go",
		what:  "a Connect that panics keeps its slot for ever, as database/sql does",
		edits: []edit{{old: "\t\t\tdefault:\n\t\t\t\terr = fmt.Errorf(\"plex: Connect panicked: %v\\n%s\", p, debug.Stack())\n", new: "\t\t\tdefault:\n\t\t\t\treturn\n"}},
		tests: []suite{root("TestConnectMisbehaviours")},
	},
	{
		name: "late-dial-not-closed", file: "connect.go",
		what:  "a transport that comes after its Connect has returned stays open for ever",
		edits: []edit{{old: "\tif !h.m.knows(transport) {\n", new: "\tif !h.returned && !h.m.knows(transport) {\n"}},
		tests: []suite{root("TestConnectHandleIsInertAfterwards")},
	},
	{
		name: "late-dial-not-closed-after-close", file: "connect.go",
		what:  "a transport that comes after the multiplexer's Close stays open for ever",
		edits: []edit{{old: "\tif !h.m.knows(transport) {\n", new: "\tif !errors.Is(err, ErrClosed) && !h.m.knows(transport) {\n"}},
		tests: []suite{root("TestConnectThatNeverReturns", "TestConnectThatSucceedsTooLate", "TestConnectThatIgnoresItsContext")},
	},
	{
		name: "failed-handshake-left-open", file: "connect.go",
		what:  "a connection whose Connect fails after Attach is not closed",
		edits: []edit{{old: "\tif c != nil && err != nil {\n\t\tc.fail(err)\n\t}\n\treturn c, err", new: "\tif c != nil && err != nil {\n\t\treturn nil, err\n\t}\n\treturn c, err"}},
		tests: []suite{root("TestConnectMisbehaviours"), fault("./model", "TestPoolIsWhatTheModelSays")},
	},
	{
		name: "handshake-deadline-left", file: "conn.go",
		what:  "a deadline that a handshake set is still there for the first consumer",
		edits: []edit{{old: "\t\th.takeBack()\n\t\th.clear()\n\t}\n\n\tm.mu.Lock()\n\tcause", new: "\t\th.takeBack()\n\t}\n\n\tm.mu.Lock()\n\tcause"}},
		tests: []suite{root("TestConnectLeavesAReadBehind")},
	},
	{
		name: "tls-handshake-left-to-the-consumer", file: "conn.go",
		what:  "a TLS connection is leased before its handshake, which the first deadline then breaks",
		edits: []edit{{old: "\tif !ok || tc.ConnectionState().HandshakeComplete {\n\t\treturn nil", new: "\tif ok || !ok {\n\t\treturn nil"}},
		tests: []suite{root("TestTLSHandshakeThatFails")},
	},
	{
		name: "nothing-attached-accepted", file: "connect.go",
		what:  "a Connect that returns nil without a transport counts as a success",
		edits: []edit{{old: "\tcase c == nil:\n\t\terr = ErrNotAttached\n", new: "\tcase c == nil:\n\t\treturn nil, errors.New(\"closed\")\n"}},
		tests: []suite{root("TestConnectMisbehaviours")},
	},
	{
		name: "connect-error-hidden", file: "stats.go",
		what:  "a failed acquire does not say why the pool could not connect",
		edits: []edit{{old: "Waited: waited, Err: why, Connect: m.lastErr,", new: "Waited: waited, Err: why,"}},
		tests: []suite{root("TestAFailedFirstConnectIsRetriedForThoseWhoWaitAndForNobodyElse")},
	},
}
