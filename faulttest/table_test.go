package faulttest_test

// The table of faults: every row and the tests that are its proof, and the rows whose proof is still to come. That no row
// is missing here is a test, too.

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type row struct {
	fault string
	tests []func(*testing.T)
}

var table = []row{
	{"FIN while idle", tests(TestFaultFINWhileIdle)},
	{"FIN behind unread data", tests(TestFaultFINBehindUnreadData)},
	{"RST while idle", tests(TestFaultRSTWhileIdle)},
	{"RST in the middle of a read", tests(TestFaultRSTInTheMiddleOfARead)},
	{"peer closes between check and first write", tests(TestFaultPeerClosesBetweenCheckAndFirstWrite)},
	{"half close by the peer", tests(TestFaultHalfCloseByThePeer)},
	{"black hole, idle or with unacked data", blackHoleTests},
	{"zero window (peer stops reading)", tests(TestFaultZeroWindow, TestFaultStallsDelayOnlyTheirOwnConnection)},
	{"latency, single-byte segments", tests(TestFaultLatencyAndSingleByteSegments)},
	{"dial refused", tests(TestFaultDialRefused, TestFaultDialRefusedBackoff, TestFaultDialRefusedJitter)},
	{"dial hangs, or Connect ignores its ctx", tests(TestFaultDialHangs, TestFaultConnectIgnoresItsContext)},
	{"accepted then closed at once (flapping)", tests(TestFaultAcceptedThenClosedAtOnce)},
	{"TLS handshake fails", tests(TestFaultTLSHandshakeFails)},
	{"the name resolves elsewhere now", tests(TestFaultTheNameResolvesElsewhereNow)},
	{"no descriptors left (EMFILE)", descriptorTests},
	{"Connect panics", tests(TestFaultConnectPanics)},
	{"Connect returns nil without a transport, or a typed nil", tests(TestFaultConnectReturnsNilWithoutATransport)},
	{"Connect returns a connection and an error", tests(TestFaultConnectReturnsAConnectionAndAnError)},
	{"the same connection twice", tests(TestFaultTheSameConnectionTwice)},
	{"ctx cancelled while waiting", tests(TestFaultContextCancelledWhileWaiting)},
	{"cancel races the hand-over", tests(TestFaultCancelRacesTheHandOver)},
	{"ctx cancelled in a stream", tests(TestFaultContextCancelledInAStream)},
	{"a deadline left behind", tests(TestFaultADeadlineLeftBehind)},
	{"lease never closed", tests(TestFaultLeaseNeverClosed)},
	{"Close twice, use after Close", tests(TestFaultCloseTwiceAndUseAfterClose)},
	{"Close during a blocked Read or Write", tests(TestFaultCloseDuringABlockedReadOrWrite)},
	{"multiplexer closed with waiters, leases, dials", tests(TestFaultMultiplexerClosedWithWaitersLeasesAndDials)},
	{"clock jump", tests(TestFaultClockJump, TestFaultClockJumpWallClockIsNeverAsked)},
	{"garbage collection all the time", tests(TestFaultGarbageCollectionAllTheTime)},
	{"10,000 waiters, many cancelling", tests(TestFaultTenThousandWaitersManyCancelling)},
	{"server restart with everyone connected", tests(TestFaultServerRestartWithEveryoneConnected)},
	{"burst of waiters while dials are slow", tests(TestFaultBurstOfWaitersWhileDialsAreSlow)},
	{"partial write", tests(TestFaultPartialWrite, TestFaultPartialWritesDoNotPileUpAtAStalledPeer)},
	{"data arrives while nobody reads", tests(TestFaultDataArrivesWhileNobodyReads)},
	{"UDP refused", tests(TestFaultUDPRefused)},
	{"datagram empty or larger than the buffer", tests(TestFaultDatagramEmptyOrLargerThanTheBuffer)},
	{"connection aborted by the host", abortTests},
	{"wait timeouts hide the cause", tests(TestFaultWaitTimeoutsHideTheCause)},
	{"a peer that greets, or a TLS 1.3 server that sends tickets, to a user who only writes", tests(TestFaultAPeerThatSpeaksToAUserWhoOnlyWrites)},
	{"a reply, or the rest of a message, that never comes, on a connection that is too old", tests(TestFaultAReplyThatNeverComesOnAnOldConnection, TestFaultARestThatNeverComesOnAnOldConnection)},
	{"connects fail while the last connection that works becomes too old", tests(TestFaultConnectsFailWhileTheLastConnectionBecomesTooOld)},
	{"the service says \"busy\" in one line and hangs up, at once or a moment later", tests(TestFaultTheServiceHangsUpYoung)},
	{"a balancer accepts and hangs up 30 ms later", tests(TestFaultTheServiceHangsUpYoung)},
	{"TLS 1.3: the server rejects the client's certificate after the handshake", tests(TestFaultTheServerRejectsTheClientsCertificate)},
	{"a consumer kills young connections of a service that is well", tests(TestFaultAConsumerKillsYoungConnections)},
	{"a small accept backlog at start", backlogTests},
	{"a transport's Close that is slow or never returns", tests(TestFaultATransportsCloseThatNeverReturns)},
	{"any foreign function panics, exits its goroutine or hangs", tests(TestFaultAForeignFunctionGoesWrong, TestFaultATransportGoesWrong, TestFaultATransportEndsTheGoroutine, TestFaultAProtocolGoesWrong)},
	{"deadlines of transports without a kernel", tests(TestFaultDeadlinesOfATransportWithoutAKernel)},
	{"the process stands still for seconds", stoppedTests},
	{"TLS key update while a Write is blocked", tests(TestFaultKeyUpdateWhileAWriteIsBlocked)},
	{"a transport closed by someone else in this process", tests(TestFaultATransportClosedBySomeoneElse)},
	{"a datagram is refused or too long, on any kind of datagram socket", tests(TestFaultADatagramIsTooLong, TestFaultADatagramIsRefusedByAUnixSocketsPeer, TestFaultARequestInADatagramIsRefused)},
}

// owed is a row of the page that has no test yet, the issue that brings it, and why it is not here now.
type owed struct {
	fault string
	issue int
	why   string
}

var later = []owed{
	{"one of several connections hangs and the others do not", 12, "it takes the stall timeout to find it"},
	{"replies in order, and a caller gives up", 12, "it takes replies in order"},
	{"a rolling restart of several servers", 14, "it takes more than one address in a pool"},
	{"the name points elsewhere, one address is dead", 14, "it takes a pool that looks its addresses up"},
	{"thousands of connections end, expire or are killed at once", 16, "it takes the figures of pools of that size"},
}

func tests(fs ...func(*testing.T)) []func(*testing.T) { return fs }

// The rows of this table are those of the page that the project was given, which is at hand where it is developed and in
// its CI.
func TestTableHasEveryRow(t *testing.T) {
	page, err := os.ReadFile("../../shared/faults.md")
	if err != nil {
		t.Skipf("the page that lists the faults is not here: %v", err)
	}
	_, body, found := strings.Cut(string(page), "| --- | --- | --- | --- |\n")
	require.True(t, found)
	var rows []string
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		rows = append(rows, strings.TrimSpace(strings.Split(line, "|")[1]))
	}
	require.Greater(t, len(rows), 30)
	var have []string
	for _, r := range table {
		require.NotEmpty(t, r.tests, r.fault)
		have = append(have, r.fault)
	}
	for _, o := range later {
		require.True(t, o.issue > 0 && o.why != "", o.fault)
		have = append(have, o.fault)
	}
	require.ElementsMatch(t, rows, have, "each row of the page is in the table or to come later, and in one of the two only")
}
