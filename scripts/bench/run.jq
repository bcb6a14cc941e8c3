# The passes of one run of fio, and what was measured around it, as one object. Times in seconds, latencies in microseconds.
def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def latency(percentile): if .total_ios > 0 then (.clat_ns.percentile[percentile] // 0) / 1000 else null end;
def among(f): map(f) | map(select(. != null)) | if length > 0 then median else null end;

map(.jobs[0]) as $jobs
| ($sync / 1e9) as $sync
| ($drain / 1e9) as $drain
| ($jobs | map(.read.total_ios + .write.total_ios) | add) as $requests
| ($jobs | map(.read.io_bytes + .write.io_bytes) | add) as $bytes
| ([$jobs | map([.read.runtime, .write.runtime] | max) | add / 1000, 0.001] | max) as $ran
| {
    $system, $workload, $round,
    passes: ($jobs | length),
    $requests, $bytes,
    ran_s: $ran,
    sync_s: $sync,
    checkpoint_s: $drain,
    iops: ($requests / ($ran + $sync)),
    iops_drained: ($requests / ($ran + $sync + $drain)),
    mb_s: ($bytes / 1e6 / ($ran + $sync)),
    mb_s_drained: ($bytes / 1e6 / ($ran + $sync + $drain)),
    read_p50_us: ($jobs | among(.read | latency("50.000000"))),
    read_p99_us: ($jobs | among(.read | latency("99.000000"))),
    write_p50_us: ($jobs | among(.write | latency("50.000000"))),
    write_p99_us: ($jobs | among(.write | latency("99.000000"))),
    flush_p50_us: ($jobs | among((.sync.lat_ns.percentile["50.000000"] // null) | if . then . / 1000 else null end)),
    flush_p99_us: ($jobs | among((.sync.lat_ns.percentile["99.000000"] // null) | if . then . / 1000 else null end)),
    others_cpus: ($others / $hertz / ($spent / 1e9) * 100 | round / 100),
    cpu_us_per_request: (if $ticks > 0 and $requests > 0 then $ticks / $hertz * 1000000 / $requests else null end),
  }
