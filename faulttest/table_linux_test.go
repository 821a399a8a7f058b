package faulttest_test

// Rows whose tests need Linux.
var (
	blackHoleTests  = tests(TestFaultBlackHole, TestFaultBlackHoleWithDialTCP)
	descriptorTests = tests(TestFaultNoDescriptorsLeft)
	backlogTests    = tests(TestFaultASmallAcceptBacklogAtStart)
	abortTests      = tests(TestFaultConnectionAbortedByTheHost)
	stoppedTests    = tests(TestFaultTheProcessStandsStill)
)
