package main

// Defects of the watcher: watch.go, watch_linux.go.

var watchDefects = []defect{
	{
		name: "watcher-event-ignored", file: "watch_linux.go",
		what:  "the end of an idle connection is not noticed",
		edits: []edit{{"\t\t\tw.m.spawn(func() { c.noticed(reset) })\n", "\t\t\t_ = reset\n"}},
		tests: []suite{root()},
	},
	{
		name: "watched-half-not-let-go", file: "watch.go",
		what:  "a read half that the watcher has looked at is never leased again",
		edits: []edit{{"\th.endHold(over || !failed && c.keepRemains())\n", "\t_ = over || !failed && c.keepRemains()\n"}},
		tests: []suite{root()},
	},
	{
		name: "remains-dropped", file: "watch.go",
		what:  "what a peer sent before its end is dropped when nobody was reading",
		edits: []edit{{"\t\t\th.back = append(h.back, buf[:n])\n\t\t\tsize += n\n", "\t\t\tsize += n\n"}},
		tests: []suite{root()},
	},
	{
		name: "reset-under-a-lease-unnoticed", file: "watch.go",
		what:  "a connection that was reset under a consumer who does not read keeps its slot",
		edits: []edit{{"\t\ttime.AfterFunc(resetGrace, func() { c.fail(errReset) })\n", "\t\t_ = resetGrace\n"}},
		tests: []suite{root()},
	},
	{
		name: "epoll-left-open", file: "watch_linux.go",
		what:  "the watcher's descriptor and goroutine outlive the multiplexer",
		edits: []edit{{"func (w *watcher) stop() { _ = w.file.Close() }", "func (w *watcher) stop() {}"}},
		tests: []suite{root()},
	},
}
