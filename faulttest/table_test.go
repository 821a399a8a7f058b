package faulttest_test

// The table of faults: every row and the tests that are its proof. That no row is missing here is a test, too.

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
	{"dial refused", tests(TestFaultDialRefused, TestFaultDialRefusedJitter)},
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
	have := map[string]bool{}
	for _, r := range table {
		have[r.fault] = true
	}
	for _, fault := range rows {
		require.True(t, have[fault], "no test for %q", fault)
	}
}
