package nbd

import (
	"sync"
	"time"
)

const (
	// maxAnswerBytes is the longest answer without data: an error chunk.
	maxAnswerBytes = extendedChunkBytes + failureHeaderBytes + maxCodeText
	// batchRequests is the most requests in one batch.
	batchRequests = 256
	// replyBufferBytes is the size of buffer that several small reads share.
	replyBufferBytes = 256 << 10
)

// answers is what goes to a client in one write: answers without data in small, reads in buffers.
type answers struct {
	small   []byte // Invariant: cap is enough for every request of a batch
	buffers []*buffer
	// chargeBytes is what the requests answered here count for against their connection's bound.
	chargeBytes int64
	// pooledBytes is what the read pool counts for requests answered here.
	pooledBytes int64
	// answered is how many requests of each command are answered here, which were parsed at parsed.
	answered [commandSlots]uint16
	parsed   time.Duration
}

// answerPool holds answers between uses, of all servers of the process.
type answerPool struct{ sync.Pool }

func (p *answerPool) get() *answers {
	if a, ok := p.Get().(*answers); ok {
		return a
	}
	return &answers{small: make([]byte, 0, batchRequests*maxAnswerBytes)}
}

// put gives up the buffers and keeps the rest.
func (p *answerPool) put(a *answers) {
	for _, b := range a.buffers {
		b.release()
	}
	clear(a.buffers)
	*a = answers{small: a.small[:0], buffers: a.buffers[:0]}
	p.Put(a)
}

// trim gives up a last buffer that holds nothing.
func (a *answers) trim() {
	last := len(a.buffers) - 1
	if last >= 0 && a.buffers[last].filled == 0 {
		a.buffers[last].release()
		a.buffers[last] = nil
		a.buffers = a.buffers[:last]
	}
}

// dataBytes is how much of the buffers is to be sent.
func (a *answers) dataBytes() int {
	n := 0
	for _, b := range a.buffers {
		n += b.dataBytes()
	}
	return n
}
