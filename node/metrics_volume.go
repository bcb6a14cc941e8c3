package node

import (
	"lockstep/histogram"
	"lockstep/volume"
)

// volumeFamilies are read from each open volume. Their counters begin anew when it is opened.
func volumeFamilies() []family[volume.Stats] {
	type stats = volume.Stats
	labels := []string{"volume"}
	gauge := func(name, help string, value func(stats) float64) family[stats] {
		return number(kindGauge, "lockstep_volume_"+name, help, labels, value)
	}
	counter := func(name, help string, value func(stats) float64) family[stats] {
		return number(kindCounter, "lockstep_volume_"+name+"_total", help, labels, value)
	}
	return []family[stats]{
		gauge("head_lsn", "Newest change.", func(s stats) float64 { return float64(s.Head) }),
		gauge("durable_lsn", "Change up to which all are on stable storage.", func(s stats) float64 { return float64(s.Durable) }),
		gauge("checkpoint_lsn", "Change up to which the base image has all.", func(s stats) float64 { return float64(s.Checkpoint) }),
		gauge("dirty_ranges", "Ranges that the base image does not have yet.", func(s stats) float64 { return float64(s.DirtyEntries) }),
		gauge("dirty_blocks", "Blocks in these ranges.", func(s stats) float64 { return float64(s.DirtyBlocks) }),
		gauge("dirty_bytes", "Data in these ranges, which a checkpoint has to copy.", func(s stats) float64 { return float64(s.DirtyBytes) }),
		gauge("pending_zero_bytes", "What the background has to zero in the base image.", func(s stats) float64 { return float64(s.PendingZeroBytes) }),
		gauge("checkpoint_running", "1 while a checkpoint runs.", func(s stats) float64 { return truth(s.Checkpointing) }),
		gauge("checkpoint_running_seconds", "How long the checkpoint that runs has been running.", func(s stats) float64 { return s.CheckpointRuns.Seconds() }),
		gauge("checkpoint_progress_ratio", "Share of its ranges that the checkpoint that runs has moved.", func(s stats) float64 { return s.CheckpointProgress }),
		distribution("lockstep_volume_checkpoint_duration_seconds", "Checkpoints that did their work.", labels,
			func(s stats) histogram.Snapshot { return s.CheckpointTook }),
		each(kindCounter, "lockstep_volume_checkpoints_total", "Checkpoints that ended: done, no_space, cancelled, uncommitted or failed.",
			[]string{"volume", "outcome"}, readOutcomes),
		counter("base_written_bytes", "Data written to the base image.", func(s stats) float64 { return float64(s.BaseWrittenBytes) }),
		counter("base_zeroed_bytes", "What was zeroed in the base image, trims included.", func(s stats) float64 { return float64(s.BaseZeroedBytes) }),
		distribution("lockstep_volume_base_sync_duration_seconds", "Syncs of the base image, but for its superblock's.", labels,
			func(s stats) histogram.Snapshot { return s.BaseSync }),
		counter("write_delays", "Changes that were slowed down because the log fills.", func(s stats) float64 { return float64(s.Delays.Count) }),
		counter("write_delay_seconds", "By how much they were slowed down.", func(s stats) float64 { return s.Delays.Total.Seconds() }),
		counter("full_waits", "Times that a change found no room in the log.", func(s stats) float64 { return float64(s.FullWaits.Count) }),
		counter("full_wait_seconds", "How long they waited for it.", func(s stats) float64 { return s.FullWaits.Total.Seconds() }),
		gauge("open_duration_seconds", "How long it took to open the volume, with the replay of its log.", func(s stats) float64 { return s.OpenTook.Seconds() }),
		gauge("replayed_records", "Records that were replayed when the volume was opened.", func(s stats) float64 { return float64(s.Replayed) }),
	}
}

func readOutcomes(s volume.Stats, to sink) {
	for i, outcome := range volume.CheckpointOutcomes() {
		to.number(float64(s.Checkpoints[i]), outcome)
	}
}

// logFamilies are read from the log of each open volume.
func logFamilies() []family[volume.Stats] {
	type stats = volume.Stats
	labels := []string{"volume"}
	gauge := func(name, help string, value func(stats) float64) family[stats] {
		return number(kindGauge, "lockstep_wal_"+name, help, labels, value)
	}
	counter := func(name, help string, value func(stats) float64) family[stats] {
		return number(kindCounter, "lockstep_wal_"+name+"_total", help, labels, value)
	}
	return []family[stats]{
		gauge("used_bytes", "Log that is not reclaimed.", func(s stats) float64 { return float64(s.Log.UsedBytes) }),
		gauge("budget_bytes", "Log that can be had: less than configured where its file system is full.", func(s stats) float64 { return float64(s.Log.BudgetBytes) }),
		gauge("segments", "Segment files.", func(s stats) float64 { return float64(s.Log.Segments) }),
		gauge("tail_lsn", "Oldest change that is still in the log.", func(s stats) float64 { return float64(s.Tail) }),
		counter("appended_bytes", "Bytes appended, headers included.", func(s stats) float64 { return float64(s.LogStats.AppendedBytes) }),
		counter("frames", "Appends: each is one write.", func(s stats) float64 { return float64(s.LogStats.Frames) }),
		counter("records", "Records appended.", func(s stats) float64 { return float64(s.LogStats.Records) }),
		distribution("lockstep_wal_sync_duration_seconds", "Syncs of a segment.", labels, func(s stats) histogram.Snapshot { return s.LogStats.Sync }),
		distribution("lockstep_wal_sync_group_size", "Flushes that one sync of the log answered.", labels, func(s stats) histogram.Snapshot { return s.LogStats.Group }),
	}
}
