//go:build !linux

package faulttest_test

import "testing"

// Rows whose tests need Linux.
var (
	blackHoleTests  = tests(TestFaultsOnLinuxOnly)
	descriptorTests = tests(TestFaultsOnLinuxOnly)
	backlogTests    = tests(TestFaultsOnLinuxOnly)
	abortTests      = tests(TestFaultsOnLinuxOnly)
	stoppedTests    = tests(TestFaultsOnLinuxOnly)
)

func TestFaultsOnLinuxOnly(t *testing.T) {
	t.Skip("network namespaces, ss -K, SIGSTOP, what a full backlog of a Unix socket says, and a limit on descriptors below those that are open: Linux only")
}
