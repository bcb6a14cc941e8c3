package nbd

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// batch is the requests that are carried out together.
type batch struct {
	changes []Change
	cookies []uint64 // of the changes, one for each
	reads   []request
	status  []request
	flushes []uint64 // cookies
	ready   *answers // to requests that needed nothing but an answer

	payloads *buffer // that the changes' data lie in; nil: none

	count       int   // requests in the batch, answered ones included
	readBytes   int   // that its reads ask for
	largest     int   // bytes of its largest request, payload included
	chargeBytes int64 // what its requests count for against the connection's bound

	changesChargeBytes int64 // the part of chargeBytes that its changes make up

	// For the tally: requests of each command, bytes that valid ones name, and when all were parsed.
	received      [commandSlots]uint16
	receivedBytes [commandSlots]uint64
	parsed        time.Duration
}

// batchPool holds batches between uses.
type batchPool struct{ sync.Pool }

func (p *batchPool) get() *batch {
	if b, ok := p.Get().(*batch); ok {
		return b
	}
	return &batch{}
}

func (p *batchPool) put(b *batch) {
	if b.payloads != nil {
		b.payloads.release()
	}
	clear(b.changes)
	*b = batch{
		changes: b.changes[:0],
		cookies: b.cookies[:0],
		reads:   b.reads[:0],
		status:  b.status[:0],
		flushes: b.flushes[:0],
	}
	p.Put(b)
}

// answer answers r without carrying it out.
func (b *batch) answer(s style, r request, code uint32) {
	b.ready.chargeBytes += r.chargeBytes()
	b.ready.answered[slotOf(r.kind)]++
	if r.kind == cmdRead && code == codeOK {
		b.ready.small = s.appendEmptyRead(b.ready.small, r.tag())
		return
	}
	b.ready.small = s.appendAnswer(b.ready.small, r.tag(), code)
}

const (
	// requestChargeBytes is what a request counts for besides its data.
	requestChargeBytes = 4 << 10
	// batchReadBytes ends a batch once its reads ask for so much.
	batchReadBytes = 4 << 20
)

func (r request) chargeBytes() int64 {
	if r.kind == cmdRead || r.kind == cmdWrite {
		return requestChargeBytes + int64(min(r.length, maxPayloadBytes))
	}
	return requestChargeBytes
}

var (
	errDisconnect = errors.New("client disconnected")
	errPayload    = errors.New("payload longer than the server drops")
)

// parser turns the bytes of a connection into batches. Its owner is the leader.
type parser struct {
	input *input
	terms terms
	tally *tally

	// skip is how much of a refused request's payload is still to be dropped; then refused is answered with code.
	skip    int64
	refused request
	code    uint32

	err error // nothing can be read after what was parsed
}

// missing says what parse waits for: total as for fill, or a request's charge that room did not admit.
type missing struct {
	total       int
	chargeBytes int64
}

// parse moves complete requests from the input to b until b is full, the input has no more, or their charges exceed
// roomBytes; alone lets one request through whatever its charge.
func (p *parser) parse(b *batch, roomBytes int64, alone bool) missing {
	for p.err == nil {
		if b.count == batchRequests || b.readBytes >= batchReadBytes {
			return missing{}
		}
		if !p.dropRefused(b) {
			return missing{total: int(p.skip)}
		}
		bytes := p.input.bytes()
		if len(bytes) == 0 {
			return missing{}
		}
		if header := p.terms.style.requestBytes(); len(bytes) < header {
			return missing{total: header}
		}
		var r request
		if r, p.err = p.terms.style.decodeRequest(bytes); p.err != nil {
			p.err = fmt.Errorf("decode a request: %w", p.err)
			break
		}
		if charge := r.chargeBytes(); b.chargeBytes+charge > roomBytes && (b.chargeBytes > 0 || !alone) {
			return missing{chargeBytes: charge}
		}
		if total := p.take(b, r, bytes); total > 0 {
			return missing{total: total}
		}
	}
	return missing{}
}

// take moves one request to b. Where its payload is not complete it takes nothing and returns the request's length.
func (p *parser) take(b *batch, r request, bytes []byte) (total int) {
	if r.kind == cmdDisconnect {
		p.err = errDisconnect
		return 0
	}
	header := p.terms.style.requestBytes()
	code := p.terms.check(r)
	switch {
	case code != codeOK && r.payload > p.terms.drainBytes():
		p.err = fmt.Errorf("%w: %d bytes", errPayload, r.payload)
		return 0
	case code != codeOK && r.payload > 0:
		p.input.consume(header)
		p.skip, p.refused, p.code = int64(r.payload), r, code
		return 0
	}
	total = header + int(r.payload)
	if len(bytes) < total {
		return total
	}
	if r.kind == cmdBlockStatus && r.payload > 0 {
		r, code = p.terms.checkFilter(r, bytes[header:total])
	}
	b.count++
	b.chargeBytes += r.chargeBytes()
	b.largest = max(b.largest, total)
	b.received[slotOf(r.kind)]++
	if code == codeOK {
		b.receivedBytes[slotOf(r.kind)] += r.length
		p.add(b, r, bytes[header:total])
	} else {
		p.tally.failed(r.kind, code)
		b.answer(p.terms.style, r, code)
	}
	p.input.consume(total)
	return 0
}

// dropRefused drops what is here of a refused request's payload, and reports whether none is outstanding. The answer
// waits for the whole payload: a client need not look for it before it has sent that.
func (p *parser) dropRefused(b *batch) bool {
	if p.skip == 0 {
		return true
	}
	n := min(p.skip, int64(len(p.input.bytes())))
	p.input.consume(int(n))
	if p.skip -= n; p.skip > 0 {
		return false
	}
	b.count++
	b.chargeBytes += p.refused.chargeBytes()
	b.received[slotOf(p.refused.kind)]++
	p.tally.failed(p.refused.kind, p.code)
	b.answer(p.terms.style, p.refused, p.code)
	return true
}

// add sorts a request that was checked into b.
func (p *parser) add(b *batch, r request, payload []byte) {
	switch {
	case r.kind == cmdFlush:
		b.flushes = append(b.flushes, r.cookie)
	case r.kind == cmdBlockStatus:
		b.status = append(b.status, r)
	case r.kind == cmdCache: // a hint; reads fill the cache soon enough
		b.answer(p.terms.style, r, codeOK)
	case r.kind == cmdRead && r.length > 0:
		b.reads = append(b.reads, r)
		b.readBytes += int(r.length)
	case r.length == 0: // a read or a change of nothing
		b.answer(p.terms.style, r, codeOK)
	default:
		p.addChange(b, r, payload)
	}
}

func (p *parser) addChange(b *batch, r request, payload []byte) {
	c := Change{
		FUA:    r.flags&cmdFlagFUA != 0,
		NoHole: r.flags&cmdFlagNoHole != 0,
		Offset: int64(r.offset),
		Length: int64(r.length),
	}
	switch r.kind {
	case cmdWrite:
		c.Op, c.Data = OpWrite, payload
		if b.payloads == nil {
			b.payloads = p.input.buf
			b.payloads.hold()
		}
	case cmdTrim:
		c.Op = OpTrim
	case cmdWriteZeroes:
		c.Op = OpWriteZeroes
	default:
		panic(fmt.Sprintf("nbd: command %d is no change", r.kind))
	}
	b.changes = append(b.changes, c)
	b.cookies = append(b.cookies, r.cookie)
	b.changesChargeBytes += r.chargeBytes()
}
