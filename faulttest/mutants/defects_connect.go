package main

// Defects in connecting.

var connectDefects = []defect{
	{
		name:  "slot-leaked-on-failure",
		what:  "a connect that fails keeps its slot of the capacity",
		edits: []edit{in("Multiplexer.connectFailed", drop("m.unreserveLocked()"))},
		tests: []suite{root("TestTheCapacityHoldsThroughBurstsLossesAndRefusals")},
	},
	{
		name: "slot-leaked-on-panic",
		what: "a Connect that panics keeps its slot of the capacity, as in database/sql",
		edits: []edit{in("Multiplexer.connect",
			before("caller.Apart", "panicked := false"),
			replace("return m.cfg.connect(ctx, h)", "panicked = true; err := m.cfg.connect(ctx, h); panicked = false; return err"),
			before("!stop()", "if panicked { return }"))},
		tests: []suite{root("TestConnectMisbehaviours")},
	},
	{
		name:  "late-dial-not-closed",
		what:  "a transport attached after its Connect has returned stays open",
		edits: []edit{in("handle.take", replace("!h.m.knows(transport)", "!h.returned && !h.m.knows(transport)"))},
		tests: []suite{root("TestConnectHandleIsInertAfterwards")},
	},
	{
		name:  "late-dial-not-closed-after-close",
		what:  "a transport attached after the multiplexer's Close stays open",
		edits: []edit{in("handle.take", replace("!h.m.knows(transport)", "!errors.Is(err, ErrClosed) && !h.m.knows(transport)"))},
		tests: []suite{root("TestConnectThatNeverReturns", "TestConnectThatSucceedsTooLate", "TestConnectThatIgnoresItsContext")},
	},
	{
		name:  "failed-handshake-left-open",
		what:  "a connection whose Connect fails after Attach is not closed",
		edits: []edit{in("handle.finish", instead("c.fail(err)", "return nil, err"))},
		tests: []suite{root("TestConnectMisbehaviours"), fault("./model", "TestPoolIsWhatTheModelSays")},
	},
	{
		name:  "handshake-deadline-left",
		what:  "a deadline that a handshake set is still set for the first consumer",
		edits: []edit{in("Multiplexer.admit", drop("h.clear()"))},
		tests: []suite{root("TestConnectLeavesAReadBehind")},
	},
	{
		name:  "tls-handshake-left-to-the-consumer",
		what:  "a TLS connection is leased before its handshake is done, and the first missed deadline breaks it",
		edits: []edit{in("conn.prepareUnguarded", always("tc.ConnectionState().HandshakeComplete"))},
		tests: []suite{root("TestTLSHandshakeThatFails")},
	},
	{
		name:  "nothing-attached-unsaid",
		what:  "if Connect returns nil without a transport, the error of the connect does not match ErrNotAttached",
		edits: []edit{in("handle.finish", instead("err = ErrNotAttached", `return nil, errors.New("closed")`))},
		tests: []suite{root("TestConnectMisbehaviours")},
	},
	{
		name:  "connect-error-hidden",
		what:  "the error of a failed acquire does not include that of the latest connect",
		edits: []edit{in("Multiplexer.acquireFailed", replace("m.lastErr", "nil"))},
		tests: []suite{root("TestAFailedFirstConnectIsRetriedForThoseWhoWaitAndForNobodyElse")},
	},
	{
		name:  "dialtcp-server-name-shared",
		what:  "one TLS option given to DialTCP for two addresses has the second server prove the first one's name",
		edits: []edit{in("TLS", replace("d.tls = config.Clone()", "d.tls = config"))},
		tests: []suite{root("TestDialTCPClonesTheConfig")},
	},
	{
		name:  "user-timeout-without-keep-alive",
		what:  "a user timeout leaves keep-alive as it is, so that the death of an idle peer stays unnoticed for longer",
		edits: []edit{in("tcpDialer.validateUserTimeout", replace("d.keepAlive.Give(keepAliveWithin(timeout))", "_ = keepAliveWithin"))},
		tests: []suite{root("TestDialTCPTellsTheKernel")},
	},
	{
		name:  "user-timeout-of-one-lost-probe",
		what:  "a user timeout that makes one lost probe fatal, whatever keep-alive's Count says, is taken",
		edits: []edit{in("tcpDialer.validateUserTimeout", never("ok && count > 1 && timeout <= idle+interval"))},
		tests: []suite{root("TestDialTCPRefusesWhatCannotWork")},
	},
	{
		name:  "keep-alive-of-the-dialer",
		what:  "values that are the system's own are those of package net",
		edits: []edit{in("tcpDialer.dial", drop("dialer.KeepAlive = -1"))},
		tests: []suite{root("TestDialTCPTellsTheKernel")},
	},
}
