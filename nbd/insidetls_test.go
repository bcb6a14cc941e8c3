package nbd

import (
	"crypto/tls"
	"strings"
	"testing"

	"lockstep/test/authority"
)

// insideTLS is the test whose subtests are tests of plaintext, with all their connections inside TLS.
const insideTLS = "TestInsideTLS"

func isInsideTLS(tb testing.TB) bool { return strings.HasPrefix(tb.Name(), insideTLS+"/") }

// TestInsideTLS expects of connections inside TLS what is expected of others: answers, order, budgets, deadlines,
// drain, and a stream that stays in step.
func TestInsideTLS(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"FlushDoesNotHoldBackOthers":     TestFlushDoesNotHoldBackOthers,
		"ApplyDoesNotHoldBackReads":      TestApplyDoesNotHoldBackReads,
		"SlowReadDoesNotHoldBackOthers":  TestSlowReadDoesNotHoldBackOthers,
		"StalledClientHarmsNobody":       TestStalledClientHarmsNobody,
		"ClientThatStopsInAPayloadIsCut": TestClientThatStopsInAPayloadIsCut,
		"DeadlineOfAnEarlierRequest":     TestDeadlineOfAnEarlierRequest,
		"HandshakeTimeout":               TestHandshakeTimeout,
		"VanishedClient":                 TestVanishedClient,
		"DisconnectRequest":              TestDisconnectRequest,
		"TooManyConnections":             TestTooManyConnections,
		"InFlightBound":                  TestInFlightBound,
		"IdleConnectionHoldsNoBuffer":    TestIdleConnectionHoldsNoBuffer,
		"ManyClients":                    TestManyClients,
		"ShareOfTheReadPool":             TestShareOfTheReadPool,
		"ReadPoolTakesTurns":             TestReadPoolTakesTurns,
		"BufferOfAMissIsGivenBack":       TestBufferOfAMissIsGivenBack,
		"ReadsWhatWasWritten":            TestReadsWhatWasWritten,
		"Codes":                          TestCodes,
		"WithoutStructuredReplies":       TestWithoutStructuredReplies,
		"ReadTooLargeForOneReply":        TestReadTooLargeForOneReply,
		"LargestRequests":                TestLargestRequests,
		"RequestLargerThanTheBudget":     TestRequestLargerThanTheBudget,
		"PayloadNobodyDropsEnds":         TestPayloadNobodyDropsEndsTheConnection,
		"WrongMagicEnds":                 TestWrongMagicEndsTheConnectionAfterWhatCameBefore,
		"DeviceErrors":                   TestDeviceErrors,
		"BlockStatus":                    TestBlockStatus,
		"AnySplit":                       TestAnySplit,
		"RandomRequestsAgainstAModel":    TestRandomRequestsAgainstAModel,
		"ShutdownAnswersWhatIsInFlight":  TestShutdownAnswersWhatIsInFlight,
		"ShutdownGivesUp":                TestShutdownGivesUp,
		"NoAllocationForEachRequest":     TestNoAllocationForEachRequest,
	} {
		t.Run(name, test)
	}
}

// mutualTLS is a server's TLS that asks for certificates, and the configuration of a client that has one.
func mutualTLS(tb testing.TB) (*TLS, *tls.Config) {
	tb.Helper()
	ca := authority.New(tb)
	id := Identity{Certificate: ca.Server("server").TLS(tb), ClientCAs: ca.Pool()}
	return &TLS{Identity: func() Identity { return id }}, clientTLS(tb, ca, ca.Client("client"))
}

// clientTLS is the configuration of a client that trusts the CA and shows the certificates.
func clientTLS(tb testing.TB, ca *authority.Authority, shown ...authority.Pair) *tls.Config {
	c := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
	for _, p := range shown {
		c.Certificates = append(c.Certificates, p.TLS(tb))
	}
	return c
}

// startTLS switches to TLS as a client does.
func (w *wire) startTLS(cfg *tls.Config) {
	w.tb.Helper()
	w.option(optStartTLS, nil)
	w.wantReply(optStartTLS, repAck)
	c := tls.Client(w.conn, cfg)
	if err := c.Handshake(); err != nil {
		w.tb.Fatalf("client's TLS handshake: %v", err)
	}
	w.conn = c
}
