// Package engine decides keep-up, catch-up or rebuild for each replica of a volume; it performs none of them.
//
// It owns what the primary knows of its replicas and the sessions it has issued to them. A host feeds it facts, one
// Event at a time, and carries out the commands that come back. It has no clock, no chance, no goroutine, no lock and
// no I/O: an Engine is a value that one goroutine owns, and the same events give the same results, in the same order.
//
// # Lifecycle
//
// NewEngine makes an empty engine. AssignmentDelivered tells which volumes there are, in which role and epoch. The host
// answers ApplyRoleCommand, ConfigureShipperCommand and StartReceiverCommand with ReadinessObserved. It asks replicas how
// far they are (a sync) when something prompts it, a new connection or a timer, and reports each answer, together with
// the primary's own positions at that moment, as SyncAckReceived. Only such an answer leads to a decision. A
// session ends with one SessionCompleted or SessionFailed. Nothing has to be closed. An engine keeps a few words on a volume
// that was taken from it, so that a late event of an old epoch finds the newer one.
//
// # What the host provides
//
//   - A new epoch for each start of a primary, this process's included (I14). Session IDs are made of the epoch and a
//     counter; they do not repeat because no two engines are primary in one epoch (S23).
//   - RoleApplied only after the longer tail is joined and the epoch-start record is durable (S9).
//   - A CommittedLSN in every ack that is never below a flush which that copy acknowledged (S7).
//   - SessionFailed for each session on a connection that was lost, or that is past its deadline; it has stopped
//     its side of the session by then. Commands tell of a session that the engine itself ends.
//   - The configuration that a command with OutOfSyncFirst wants, durable, before it carries that command out (S13).
//   - Admission (S3): a replica with Learning and CaughtUp waits for it. The engine counts it in sync once an
//     assignment says so.
//
// # Which rule decides
//
// The rows of one table, first that holds; decide.go is that table. Rules 1 to 6 compare three positions. The fork
// is the last LSN up to which both logs are the same; applied is the replica's head; tail and head are the primary's.
//
//	takeover   the primary's own epoch has not begun        decide nothing
//	0          contradiction, newer epoch, split brain      an operator decides; nothing is touched
//	0          the primary's log or base is damaged         decide nothing from it
//	0          the replica's log or base is damaged         rebuild of everything
//	1          inside an unfinished rebuild                 rebuild, resuming what it durably has
//	2          fork < applied, base and log reach the fork  truncate to the fork, catch-up from there
//	3          fork < applied otherwise                     rebuild of what changed after the fork on either side
//	4          applied = head                               keep-up; catch-up with nothing to send if not in sync
//	5          applied + 1 >= tail                          catch-up
//	6          otherwise                                    rebuild of what changed after applied
//
// # A worked example
//
// a was primary in epoch 1 and is cut off at LSN 120; b, which has 100, is promoted, and writes epoch 2 from 101 on. b is
// at 150 and keeps its log from 90 on when a returns as a replica. a's lineage is (1 from 1), b's is (1 from 1), (2 from
// 101): they fork at 100, and a has 20 records that b has not. If a has told nobody that they are flushed (committed 100)
// and none is in its base image (base_high 95), rule 2: truncate to 100, catch up from 101 to 150. With base_high 110 it
// is rule 3: rebuild of what changed after 100. With committed 110 it is neither: a acknowledged flushes that b does not
// have, and an operator has to say which side loses (S7).
//
// # Invariants
//
//   - The same events give the same results, byte for byte (I15).
//   - An event of another epoch or session, or about a replica that is not assigned, changes nothing; Result.Ignored
//     says why (I16). So does an older configuration.
//   - A session that is issued or running is never re-decided; one that failed stays so until the next sync ack (I17).
//   - A replica that lost its place in sync has it again only after SessionCompleted of its present session at or above its
//     target, with the copy that the configuration names (I18, S2, S21).
//   - DurableLSN is what barriers confirmed for all in-sync replicas, and never decreases. No ack of one moves it.
//   - ReplicaStates has exactly the replicas that the newest assignment names, and only on a primary.
//   - For each replica the last decisions are kept with all their inputs; Decision.String says them in words.
//
// It survives any sequence of events: what contradicts itself is an answer to refuse, not a reason to panic.
package engine
