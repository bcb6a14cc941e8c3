package nbd

import (
	"bytes"
	"errors"
	"testing"
)

// TestReadsLeaveTogether lets reads gather behind one that waits for the disk, and the disk have them all by then: none
// of them waits again, and each answer is right.
func TestReadsLeaveTogether(t *testing.T) {
	const reads = 2*alongRequests + 3
	for name, want := range map[string]uint32{"data": codeOK, "errors": codeIO} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(testSize)
			m.cold.Store(true)
			m.readGate = newGate()
			f := start(t, Config{ReadWorkers: 1}, Export{Name: "a", Device: m})
			w := f.connect(false)
			for i := range reads {
				w.want(codeOK, request{kind: cmdWrite, offset: uint64(i) * 512, length: 512}, bytes.Repeat([]byte{byte(i + 1)}, 512)...)
			}
			for i := range reads {
				w.send(request{kind: cmdRead, cookie: uint64(i), offset: uint64(i) * 512, length: 512})
			}
			<-m.readGate.entered
			w.want(codeOK, request{kind: cmdWrite, cookie: 1000, offset: testSize - 1, length: 1}, 'x') // the reads before it wait in the pool
			m.cold.Store(false)
			if want != codeOK {
				m.fail(errors.New("disk"))
			}
			close(m.readGate.open)
			for i := range reads {
				a := w.next(512)
				if a.code != want || a.cookie != uint64(i) {
					t.Fatalf("answer %d: %+v", i, a.reply)
				}
				if want == codeOK && !bytes.Equal(a.payload, bytes.Repeat([]byte{byte(i + 1)}, 512)) {
					t.Fatalf("answer %d has the data of another", i)
				}
			}
			if n := m.coldReads.Load(); n != 3 { // the first, and one after every alongRequests
				t.Errorf("%d reads waited for the disk, want 3", n)
			}
			tr := f.onlyTransmission()
			w.leave()
			f.awaitConnections(0)
			if tr.jobs.startedBytes != 0 || tr.inFlightBytes != 0 {
				t.Errorf("in the end %d bytes count as started and %d as in flight", tr.jobs.startedBytes, tr.inFlightBytes)
			}
		})
	}
}

// TestAnswersWaitForNoOtherConnection has a worker go from one client's read to another's, which waits for the disk or
// does not. Each gets its own answer, the first one at once.
func TestAnswersWaitForNoOtherConnection(t *testing.T) {
	for name, cold := range map[string]bool{"cold": true, "warm": false} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(testSize)
			m.cold.Store(true)
			m.readGate = newGate()
			f := start(t, Config{ReadWorkers: 1}, Export{Name: "a", Device: m})
			first, second := f.connect(false), f.connect(false)
			first.send(request{kind: cmdRead, cookie: 10, length: 1})
			<-m.readGate.entered
			second.send(request{kind: cmdRead, cookie: 20, length: 1})
			second.want(codeOK, request{kind: cmdWrite, cookie: 1, length: 1}, 'x') // the read before it waits in the pool
			m.cold.Store(cold)
			m.readGate.open <- struct{}{}
			<-m.readGate.entered
			if a := first.next(1); a.cookie != 10 {
				t.Fatalf("answer %+v", a.reply)
			}
			close(m.readGate.open)
			if a := second.next(1); a.cookie != 20 {
				t.Fatalf("answer %+v", a.reply)
			}
		})
	}
}
