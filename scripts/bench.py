"""Print the medians of benchmark runs, and write them and the runs as JSON.

    bench.py RUNS OUTPUT      RUNS has one JSON object a line, as bench.jq makes them
"""

import json
import statistics
import sys

PEERS = ("nbdkit", "qemu")
COLUMNS = (
    ("iops", "IOPS", 0),
    ("p50_us", "p50 us", 0),
    ("p99_us", "p99 us", 0),
    ("flush_p99_us", "flush p99", 0),
    ("cpu_us_per_request", "CPU us/req", 1),
    ("sync_s", "sync s", 2),
    ("checkpoint_s", "ckpt s", 2),
    ("iops_with_checkpoint", "IOPS+ckpt", 0),
)


def median(runs, key):
    values = [r[key] for r in runs if r[key] is not None]
    return statistics.median(values) if values else None


def medians(runs):
    groups = {}
    for r in runs:
        groups.setdefault((r["workload"], r["system"]), []).append(r)
    return {g: {key: median(rs, key) for key, _, _ in COLUMNS} for g, rs in groups.items()}


def ratios(table):
    """Returns lockstep's IOPS over the best peer's, for each workload that both ran."""
    found = {}
    for workload in dict.fromkeys(w for w, _ in table):
        peers = [table[workload, p]["iops"] for p in PEERS if (workload, p) in table]
        if peers and (workload, "lockstep") in table:
            found[workload] = table[workload, "lockstep"]["iops"] / max(peers)
    return found


def main(runs_path, output):
    with open(runs_path) as f:
        runs = [json.loads(line) for line in f]
    table = medians(runs)
    print("%-11s %-9s" % ("workload", "system") + "".join("%12s" % title for _, title, _ in COLUMNS))
    for (workload, system), row in table.items():
        cells = ("-" if row[key] is None else "%.*f" % (digits, row[key]) for key, _, digits in COLUMNS)
        print("%-11s %-9s" % (workload, system) + "".join("%12s" % c for c in cells))
    ratio = ratios(table)
    for workload, r in ratio.items():
        print("%-11s lockstep / best peer: %.2f" % (workload, r))
    with open(output, "w") as f:
        rows = [dict(workload=w, system=s, **row) for (w, s), row in table.items()]
        json.dump({"medians": rows, "ratios": ratio, "runs": runs}, f, indent=2)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
