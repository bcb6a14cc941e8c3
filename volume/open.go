package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"lockstep/backend"
	"lockstep/block"
	"lockstep/wal"
)

// Geometry is what is chosen when a volume is created. Only the size can be changed later.
type Geometry struct {
	ID             uuid.UUID // of the volume; zero: made at random
	SizeBytes      int64     // multiple of the block size
	BlockSize      int       // 512, 1024, 2048 or 4096
	LogBudgetBytes int64     // at least MinLogBudgetBytes
	// Unzeroed says that the base image does not read as zeroes. The volume does all the same, and zeroes the base image
	// in the background.
	Unzeroed bool
}

// MinLogBudgetBytes is the least budget that a log works with.
const MinLogBudgetBytes = wal.MinSegments * wal.MinSegmentBytes

func (g *Geometry) validate() error {
	switch {
	case g.BlockSize < 512 || g.BlockSize > 4096 || g.BlockSize&(g.BlockSize-1) != 0:
		return fmt.Errorf("block size %d: must be 512, 1024, 2048 or 4096 bytes", g.BlockSize)
	case g.SizeBytes < int64(g.BlockSize) || g.SizeBytes%int64(g.BlockSize) != 0:
		return fmt.Errorf("size %d: must be a positive multiple of the block size, %d bytes", g.SizeBytes, g.BlockSize)
	case g.LogBudgetBytes < MinLogBudgetBytes:
		return fmt.Errorf("log size %d: must be at least %d bytes", g.LogBudgetBytes, int64(MinLogBudgetBytes))
	}
	return nil
}

// Create makes a new volume: the change map, the first segment of the log, and last the superblock, each durable
// before the next. Base must be DataOffset + SizeBytes long or longer, and read as zeroes after the header unless
// g.Unzeroed; what the header holds is overwritten. The caller makes the directories themselves durable.
func Create(cfg Config, g Geometry) error {
	if err := g.validate(); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	return create(cfg, g, wal.SegmentBytesFor(g.LogBudgetBytes))
}

func create(cfg Config, g Geometry, segmentBytes int64) error {
	size, err := cfg.Base.Size()
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if size < DataOffset+g.SizeBytes {
		return fmt.Errorf("create volume: the base image has %d bytes, the volume needs %d and a header of %d", size, g.SizeBytes, DataOffset)
	}
	if g.ID == uuid.Nil {
		g.ID = cfg.newID()
	}
	sb := Superblock{
		VolumeID: g.ID, CopyID: cfg.newID(), NodeID: cfg.NodeID,
		SizeBytes: g.SizeBytes, BlockBytes: uint32(g.BlockSize), ChunkBytes: ChunkBytesFor(g.SizeBytes),
		SegmentBytes: segmentBytes, LogBudgetBytes: g.LogBudgetBytes,
		MapGeneration: 1, CreatedAt: cfg.now(),
	}
	if g.Unzeroed {
		sb.PendingZero = []block.Range{{Count: uint64(g.SizeBytes / int64(g.BlockSize))}}
	}
	m, err := createChangeMap(cfg.Meta, sb.VolumeID, sb.ChunkBytes, chunkCount(sb.SizeBytes, sb.ChunkBytes))
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if err := m.Close(); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if err := wal.Create(cfg.logConfig(&sb)); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if _, err := createSuperblockFile(cfg.Base, sb); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	return nil
}

// logConfig is what the superblock says of the log.
func (cfg *Config) logConfig(sb *Superblock) wal.Config {
	c := wal.Config{
		FS: cfg.Log, VolumeID: sb.VolumeID, CopyID: sb.CopyID,
		BlockBytes: int(sb.BlockBytes), SegmentBytes: sb.SegmentBytes, BudgetBytes: sb.LogBudgetBytes,
		Logger:      cfg.Logger,
		Incarnation: sb.Incarnation, Checkpoint: sb.Checkpoint, Committed: sb.Committed,
		// Nothing enters the base image before it is durable in the log, so base_high is a durable mark too.
		Durable: max(sb.Durable, sb.BaseHigh, sb.Checkpoint),
	}
	if cfg.LogBudgetBytes > 0 {
		c.BudgetBytes = max(cfg.LogBudgetBytes, wal.MinSegments*sb.SegmentBytes)
	}
	// That of the record at the checkpoint: a follower has seen newer ones than its records are of.
	if n := len(sb.Lineage); n > 0 {
		c.Epoch = sb.Lineage[n-1].Epoch
	}
	for _, x := range sb.Cuts {
		c.Cuts = append(c.Cuts, wal.Cut(x))
	}
	return c
}

// Open recovers a volume that is not replicated, or whose primary needs nobody's leave: it replays what the log holds beyond
// the base image into the index, proves log and base durable, and starts a new incarnation and epoch, of its own, in which
// it takes changes. It starts no goroutine; Run does the background work. Errors name
// what is damaged (*SuperblockDamageError, *wal.CorruptError) or does not fit (wal.ErrMismatch), and nothing that was
// there is changed then, but for the name of a change map that a resize left under another one.
func Open(cfg Config) (*Volume, error) {
	return open(cfg, (*Volume).start)
}

// open reads a volume and then starts it.
func open(cfg Config, start func(*Volume) error) (*Volume, error) {
	begun := time.Now()
	v, err := openVolume(cfg)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	if err := start(v); err != nil {
		return nil, errors.Join(fmt.Errorf("open volume: %w", err), v.closeFiles())
	}
	v.tally.openTook = time.Since(begun)
	return v, nil
}

// openVolume reads everything, and writes nothing but what the change map needs.
func openVolume(cfg Config) (*Volume, error) {
	header, err := openSuperblockFile(cfg.Base)
	if err != nil {
		return nil, err
	}
	sb := &header.current
	if header.other != nil && !errors.Is(header.other, ErrNotFormatted) {
		cfg.Logger.Warn().Err(header.other).Msg("one superblock slot can not be read; the other one is good, as after a power cut")
	}
	if sb.State&Inconsistent != 0 {
		return nil, errors.New("the copy is inside a rebuild and can not be read")
	}
	v := &Volume{
		cfg: cfg, id: sb.VolumeID, copyID: sb.CopyID, blockBytes: int64(sb.BlockBytes), segmentBytes: sb.SegmentBytes,
		base:    base{backend: cfg.Base, blockBytes: int64(sb.BlockBytes)},
		header:  header,
		lineage: slices.Clone(sb.Lineage),
		follow:  following{seen: sb.Epoch, seenID: sb.EpochID},
		kick:    make(chan struct{}, 1),
		zero:    make(chan struct{}, 1),
	}
	v.setSize(sb.SizeBytes)
	v.life, v.stop = context.WithCancel(context.Background())
	v.partials.changed = sync.NewCond(&v.mu)
	v.index.active = newDirtyIndex(v.blockBytes)
	v.setPending(sb.PendingZero)
	v.batches.New = func() any { return new(batch) }
	v.lookups.New = func() any { return &lookup{log: v.log} }
	v.state.Store(uint32(sb.State))
	v.checkpoint.Store(uint64(sb.Checkpoint))
	v.baseHigh.Store(uint64(sb.BaseHigh))
	if v.log, err = wal.Open(cfg.logConfig(sb), v.replay); err != nil {
		return nil, err
	}
	if e := v.log.Epoch(); e > v.follow.seen { // the slot that said so has rotted
		v.follow.seen, v.follow.seenID = e, uuid.Nil
	}
	// A volume grows after its base image has, durably. It may have shrunk since the checkpoint.
	if err := checkBase(cfg.Base, v.Size()); err != nil {
		return nil, errors.Join(err, v.log.Close())
	}
	var problems []error
	v.changes, problems, err = openChangeMap(cfg.Meta, sb.VolumeID, sb.ChunkBytes,
		chunkCount(sb.SizeBytes, sb.ChunkBytes), sb.MapGeneration, v.log.Head())
	if err != nil {
		return nil, errors.Join(err, v.log.Close())
	}
	for _, p := range problems {
		cfg.Logger.Warn().Err(p).Msg("part of the change map is lost: what it covers counts as changed")
	}
	if err := v.openNextMap(); err != nil {
		return nil, errors.Join(fmt.Errorf("change map of a larger volume: %w", err), v.closeFiles())
	}
	v.pacer.fill = v.fill
	return v, nil
}

// checkBase returns an error where the base image is too short for a volume of size bytes.
func checkBase(b backend.Backend, size int64) error {
	has, err := b.Size()
	if err != nil {
		return fmt.Errorf("size of the base image: %w", err)
	}
	if has < DataOffset+size {
		return fmt.Errorf("the base image has %d bytes, and a volume of %d needs %d", has, size, DataOffset+size)
	}
	return nil
}

// replay takes a record after the checkpoint into the index.
func (v *Volume) replay(r wal.Record, at wal.Position) error {
	v.tally.replayed++
	if r.Type == wal.RecordEpochStart {
		v.lineage = append(v.lineage, r.EpochStart())
		return nil
	}
	if r.Type == wal.RecordResize {
		return v.replayResize(r)
	}
	if r.Range.End() > v.sizeBlocks() {
		return fmt.Errorf("blocks %d+%d: %w of %d blocks", r.Range.Start, r.Range.Count, ErrRange, v.sizeBlocks())
	}
	v.index.publish([]wal.Change{{Type: r.Type, Range: r.Range, LSN: r.LSN, Position: at, Payload: r.Payload}})
	return nil
}

// start makes what recovery found durable, and begins an incarnation and an epoch. The superblock says so twice, so that the
// volume opens again, and misses nothing of it, though either slot may rot.
func (v *Volume) start() error {
	epoch := v.follow.seen + 1
	if err := v.harden(epoch); err != nil {
		return err
	}
	v.follow.seen, v.follow.seenID = epoch, uuid.Nil
	v.beginReignLocked() // nobody has the volume yet; a checkpoint that makes room waits for the other copies under it
	if _, err := v.startEpoch(epoch, v.cfg.newID(), func() error { return v.Checkpoint(context.Background()) }); err != nil {
		return err
	}
	return v.cutBaseLocked()
}

// harden makes what recovery found durable (L4), and begins a new incarnation (L2), in which epoch is the newest one seen.
func (v *Volume) harden(epoch block.Epoch) error {
	if err := v.log.Harden(); err != nil {
		return err
	}
	if err := v.base.sync(); err != nil {
		return err
	}
	next := v.header.current
	next.Incarnation++
	if next.Epoch < epoch {
		next.Epoch, next.EpochID = epoch, uuid.Nil
	}
	next.Durable = v.log.Head()
	if err := v.header.write(next); err != nil {
		return err
	}
	return v.log.Start(next.Incarnation)
}

// startEpoch logs the first record of an epoch that the superblock knows of (S6), durably, and has the other slot of the
// superblock know of it too. Where trims filled the log to the brim, room makes place in it.
func (v *Volume) startEpoch(epoch block.Epoch, id uuid.UUID, room func() error) (block.EpochStart, error) {
	start := func() (block.EpochStart, error) {
		return v.log.StartEpoch(epoch, id, v.cfg.NodeID, v.now().UnixNano())
	}
	entry, err := start()
	if errors.Is(err, wal.ErrFull) {
		if err := room(); err != nil {
			return block.EpochStart{}, err
		}
		entry, err = start()
	}
	if err != nil {
		return block.EpochStart{}, err
	}
	v.mu.Lock()
	v.lineage = append(v.lineage, entry)
	v.mu.Unlock()
	if _, err := v.log.Sync(); err != nil {
		return block.EpochStart{}, err
	}
	return entry, v.noteDurable()
}

// noteDurable has the superblock say how far the log is durable, and committed.
func (v *Volume) noteDurable() error {
	next := v.header.current
	durable, committed := v.log.Durable(), v.log.Committed()
	if next.Durable >= durable && next.Committed >= committed {
		return nil
	}
	next.Durable, next.Committed = max(next.Durable, durable), max(next.Committed, committed)
	return v.header.write(next)
}

// Close makes the log durable on this node, has log and superblock say so, and closes log and change map. It does not
// checkpoint, and does not close what Config brought. It waits for no other copy: what waits for one, and everything
// after, gets ErrClosed. It is safe to call twice.
func (v *Volume) Close() error {
	v.stop()
	v.resizing.Lock()
	defer v.resizing.Unlock()
	v.checkpointing.Lock()
	defer v.checkpointing.Unlock()
	if v.closed.Load() {
		return nil
	}
	err := v.Err()
	v.mu.Lock() // no change is under way
	v.closed.Store(true)
	v.mu.Unlock()
	if err == nil {
		err = v.seal()
	}
	return errors.Join(err, v.closeFiles())
}

// seal makes everything that was logged durable, and says so in the log and in the superblock: should the end of the log
// be lost, or an older one take its place, the next open knows.
func (v *Volume) seal() error {
	if err := v.syncLog(); err != nil {
		return err
	}
	if err := v.log.Mark(); err != nil && !errors.Is(err, wal.ErrFull) {
		return err
	}
	if err := v.noteDurable(); err != nil {
		return v.fail(err)
	}
	return nil
}

func (v *Volume) closeFiles() error {
	v.stop()
	return errors.Join(v.log.Close(), v.changes.Close(), v.dropNextMap())
}
