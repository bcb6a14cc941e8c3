package replication

import (
	"encoding/binary"
	"fmt"
)

// Kind is the type of a message. Numbers are never given to another meaning.
type Kind uint16

// The messages. The first group is the handshake's and every lane's; then the control lane's, the log lane's and the base
// lane's.
const (
	KindHello     Kind = 1
	KindChallenge Kind = 2
	KindProof     Kind = 3
	KindWelcome   Kind = 4
	KindRefusal   Kind = 5
	KindHeartbeat Kind = 6

	KindSyncRequest      Kind = 16
	KindSyncAck          Kind = 17
	KindStartCatchUp     Kind = 18
	KindStartRebuild     Kind = 19
	KindSessionProgress  Kind = 20
	KindSessionCompleted Kind = 21
	KindSessionFailed    Kind = 22
	KindCancelSession    Kind = 23
	KindBarrierRequest   Kind = 24
	KindBarrierAck       Kind = 25
	KindCommitted        Kind = 26

	KindStartStream Kind = 32
	KindRecords     Kind = 33
	KindAck         Kind = 34

	KindChunkData  Kind = 48
	KindZeroRange  Kind = 49
	KindHashList   Kind = 50
	KindHashAnswer Kind = 51
	KindEndOfBase  Kind = 52
)

// String returns the kind's name as it stands in logs and errors.
func (k Kind) String() string {
	switch k {
	case KindHello:
		return "hello"
	case KindChallenge:
		return "challenge"
	case KindProof:
		return "proof"
	case KindWelcome:
		return "welcome"
	case KindRefusal:
		return "refusal"
	case KindHeartbeat:
		return "heartbeat"
	case KindSyncRequest:
		return "sync request"
	case KindSyncAck:
		return "sync ack"
	case KindStartCatchUp:
		return "start catch-up"
	case KindStartRebuild:
		return "start rebuild"
	case KindSessionProgress:
		return "session progress"
	case KindSessionCompleted:
		return "session completed"
	case KindSessionFailed:
		return "session failed"
	case KindCancelSession:
		return "cancel session"
	case KindBarrierRequest:
		return "barrier request"
	case KindBarrierAck:
		return "barrier ack"
	case KindCommitted:
		return "committed"
	case KindStartStream:
		return "start stream"
	case KindRecords:
		return "records"
	case KindAck:
		return "ack"
	case KindChunkData:
		return "chunk data"
	case KindZeroRange:
		return "zero range"
	case KindHashList:
		return "hash list"
	case KindHashAnswer:
		return "hash answer"
	case KindEndOfBase:
		return "end of base"
	}
	return fmt.Sprintf("type %d", uint16(k))
}

// empty returns a message of the kind to decode into, or nil where the kind is unknown.
func (k Kind) empty() Message {
	switch k {
	case KindHello:
		return &Hello{}
	case KindChallenge:
		return &Challenge{}
	case KindProof:
		return &Proof{}
	case KindWelcome:
		return &Welcome{}
	case KindRefusal:
		return &Refusal{}
	case KindHeartbeat:
		return &Heartbeat{}
	case KindSyncRequest:
		return &SyncRequest{}
	case KindSyncAck:
		return &SyncAck{}
	case KindStartCatchUp:
		return &StartCatchUp{}
	case KindStartRebuild:
		return &StartRebuild{}
	case KindSessionProgress:
		return &SessionProgress{}
	case KindSessionCompleted:
		return &SessionCompleted{}
	case KindSessionFailed:
		return &SessionFailed{}
	case KindCancelSession:
		return &CancelSession{}
	case KindBarrierRequest:
		return &BarrierRequest{}
	case KindBarrierAck:
		return &BarrierAck{}
	case KindCommitted:
		return &Committed{}
	case KindStartStream:
		return &StartStream{}
	case KindRecords:
		return &Records{}
	case KindAck:
		return &Ack{}
	case KindChunkData:
		return &ChunkData{}
	case KindZeroRange:
		return &ZeroRange{}
	case KindHashList:
		return &HashList{}
	case KindHashAnswer:
		return &HashAnswer{}
	case KindEndOfBase:
		return &EndOfBase{}
	}
	return nil
}

// limits returns the least and the most bytes that a body of a known kind has.
func (k Kind) limits() (least, most int) {
	switch k {
	case KindRefusal:
		return refusalBytes, refusalBytes + 2*maxReasonBytes
	case KindSessionFailed, KindCancelSession:
		return reasonBytes, reasonBytes + maxReasonBytes
	case KindSyncAck:
		return syncAckBytes, syncAckBytes + MaxLineage*lineageEntryBytes
	case KindRecords:
		return recordsBytes + 1, recordsBytes + MaxRecordsBytes
	case KindChunkData:
		return chunkDataBytes + 1, chunkDataBytes + MaxChunkDataBytes
	case KindHashList:
		return hashListBytes + hashEntryBytes, hashListBytes + MaxHashes*hashEntryBytes
	case KindHashAnswer:
		return hashAnswerBytes + 1, hashAnswerBytes + MaxHashes/8
	}
	size := k.empty().size()
	return size, size
}

// kindOf returns the kind in a header.
func kindOf(header []byte) Kind { return Kind(binary.LittleEndian.Uint16(header[frameTypeAt:])) }

// ofHandshake tells whether a message may come before a peer is authenticated. They are short.
func (k Kind) ofHandshake() bool { return k <= KindRefusal }

// carries tells whether a message may come on the lane, after the handshake.
func (l Lane) carries(k Kind) bool {
	switch {
	case k == KindHeartbeat:
		return true
	case k >= KindChunkData:
		return l == LaneBase
	case k >= KindStartStream:
		return l == LaneLog
	case k >= KindSyncRequest:
		return l == LaneControl
	}
	return false
}
