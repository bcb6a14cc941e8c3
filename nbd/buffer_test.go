package nbd

import (
	"context"
	"errors"
	"testing"
)

func TestBufferClasses(t *testing.T) {
	for n, want := range map[int]int{
		1: 0, smallestBufferBytes + bufferSlackBytes: 0, smallestBufferBytes + bufferSlackBytes + 1: 1,
		receiveBufferBytes: 2, receiveBufferBytes + requestBytes: 2,
		maxPayloadBytes + styleExtended.readHeaderBytes(): bufferClasses - 1, maxPayloadBytes + bufferSlackBytes: bufferClasses - 1,
	} {
		if got := bufferClass(n); got != want || classBytes(got) < n {
			t.Errorf("class of %d bytes: got %d of %d bytes, want %d", n, got, classBytes(got), want)
		}
	}
}

// TestUnusedBuffersAreUnmapped runs trim as its timer would.
func TestUnusedBuffersAreUnmapped(t *testing.T) {
	p := newPool()
	mapped := 0
	p.mapMemory = func(n int) ([]byte, error) { mapped++; return make([]byte, n), nil }
	p.unmapMemory = func([]byte) { mapped-- }
	q := newQuota(p, 1<<30)
	a, b := q.try(1), q.try(1)
	a.release()
	b.release()
	p.trim() // both were used since the last trim
	if mapped != 2 {
		t.Fatalf("%d buffers are mapped, want 2", mapped)
	}
	q.try(1).release() // one is enough
	p.trim()
	if mapped != 1 {
		t.Fatalf("%d buffers are mapped, want 1", mapped)
	}
	p.trim()
	if mapped != 0 || !p.quiet {
		t.Fatalf("%d buffers are mapped, want 0", mapped)
	}
	late := q.try(1)
	p.close()
	late.release()
	if mapped != 0 {
		t.Fatalf("%d buffers are mapped after close", mapped)
	}
}

func TestQuota(t *testing.T) {
	q := newQuota(newPool(), 100<<10)
	defer q.pool.close()
	large, err := q.get(context.Background(), 10<<20) // larger than the quota: alone
	if err != nil {
		t.Fatal(err)
	}
	if q.try(1) != nil {
		t.Fatal("a buffer beside one that takes the whole quota")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := q.get(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting for the quota: %v", err)
	}
	large.release()
	small := q.try(1)
	if small == nil {
		t.Fatal("no buffer in an empty quota")
	}
	small.release()
	q.pool.mapMemory = func(int) ([]byte, error) { return nil, errors.New("no memory") }
	if _, err := q.get(context.Background(), 1<<20); err == nil || !q.sem.TryAcquire(q.limitBytes) {
		t.Fatalf("a failed map: error %v", err)
	}
}
