package main

// Defects of the watcher: watch.go, watch_linux.go.

var watchDefects = []defect{
	{
		name: "watcher-event-ignored", file: "watch_linux.go",
		what:  "the end of an idle connection is not noticed",
		edits: []edit{{old: "\t\t\tw.m.spawn(func() { c.noticed(reset) })\n", new: "\t\t\t_ = reset\n"}},
		tests: []suite{root("TestHalfClosedConnectionCostsNoProcessorTime")},
	},
	{
		name: "watched-half-not-let-go", file: "watch.go",
		what:  "a read half that the watcher has looked at is never leased again",
		edits: []edit{{old: "\th.endHold(h.over() || !failed && c.keepRemains())\n", new: "\t_ = h.over() || !failed && c.keepRemains()\n"}},
		tests: []suite{root("TestTransportEndOfStreamEndsStreamsCleanly")},
	},
	{
		name: "remains-dropped", file: "watch.go",
		what:  "what a peer sent before its end is dropped when nobody was reading",
		edits: []edit{{old: "\t\t\th.back = append(h.back, buf[:n])\n\t\t\tsize += n\n", new: "\t\t\tsize += n\n"}},
		tests: []suite{root("TestNoMoreThanAFewRemainsAreKeptInMemory")},
	},
	{
		name: "reset-under-a-lease-unnoticed", file: "watch.go",
		what:  "a connection that was reset under a consumer who does not read keeps its slot",
		edits: []edit{{old: "\t\ttime.AfterFunc(resetGrace, func() { c.fail(errReset) })\n", new: "\t\t_ = resetGrace\n"}},
		tests: []suite{root("TestLeasesThatDoNothingDoNotHoldUpTheReplacementOfWhatWasReset")},
	},
	{
		name: "epoll-left-open", file: "epoll_linux.go",
		what:  "the watcher's descriptor and goroutine outlive the multiplexer",
		edits: []edit{{old: "func (e *epoll) stop() { _ = e.file.Close() }", new: "func (e *epoll) stop() {}"}},
		tests: []suite{root("TestWatcherCostsOneDescriptorForThePool", "TestTheProcessIsAsItWasAfterManyMultiplexersOfRealConnections")},
	},
}
