# One run of fio, and what was measured around it, as one object. Times in seconds, latencies in microseconds.
.jobs[0] as $job
| (if $job.read.total_ios > 0 then $job.read else $job.write end) as $io
| ($io.runtime / 1000) as $ran
| ($ended - $begun) as $sync
| {
    $system, $workload, $round,
    requests: $io.total_ios,
    iops: ($io.total_ios / ($ran + $sync)),
    ran_s: $ran,
    sync_s: $sync,
    checkpoint_s: ($drained - $ended),
    iops_with_checkpoint: ($io.total_ios / ($ran + $drained - $begun)),
    p50_us: ($io.clat_ns.percentile["50.000000"] / 1000),
    p99_us: ($io.clat_ns.percentile["99.000000"] / 1000),
    flush_p99_us: (($job.sync.lat_ns.percentile["99.000000"] // 0) / 1000),
    cpu_us_per_request: (if $ticks > 0 then $ticks / $hertz * 1000000 / $io.total_ios else null end),
  }
