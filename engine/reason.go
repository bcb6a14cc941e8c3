package engine

// Why a session failed, as stable words: status, events and other programs show and compare them.
const (
	ReasonEpochMismatch    = "epoch_mismatch"
	ReasonTransportLost    = "transport_lost"
	ReasonProgressStalled  = "progress_stalled"
	ReasonDeadlineExceeded = "deadline_exceeded"
	ReasonPinLost          = "pin_lost"
	ReasonLocalWALCorrupt  = "local_wal_corrupt"
	ReasonLocalBaseCorrupt = "local_base_corrupt"
	ReasonNoSpace          = "no_space"
	ReasonCancelled        = "cancelled"
	ReasonSuperseded       = "superseded"
	ReasonSplitBrain       = "split_brain"
	// ReasonContradiction: what a replica, or the primary's own log, says of itself cannot all be true.
	ReasonContradiction = "contradictory_facts"
)
