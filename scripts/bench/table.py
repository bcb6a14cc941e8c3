"""Print the medians of benchmark runs as one table, and write them and the runs as JSON.

    table.py ABOUT RUNS OUTPUT      RUNS has one JSON object a line, as run.jq makes them; ABOUT says where and when
"""

import json
import statistics
import sys

PEERS = ("nbdkit", "qemu", "nbd-server")
SYSTEMS = ("lockstep",) + PEERS + ("plain",)
# What each workload has to reach: at least so many times the best peer, or, for a checkpoint, at most so many times the
# p99 of flushes without one.
BARS = {
    "write1": 1.5,
    "write32": 1.5,
    "flush1": 1.3,
    "flush16": 1.3,
    "mix32": 1.2,
    "read1warm": 1.0,
    "read1cold": 1.0,
    "read32warm": 1.0,
    "read32cold": 1.0,
    "seqwrite64k": 0.8,
    "seqwrite1m": 0.8,
    "seqread64kwarm": 1.0,
    "seqread64kcold": 1.0,
    "seqread1mwarm": 1.0,
    "seqread1mcold": 1.0,
    "long": 1.5,
    "checkpoint1": 2.0,
    "checkpoint16": 2.0,
}
LABELS = ("system", "workload", "round")
TITLES = ("workload", "unit") + SYSTEMS + ("ratio", "drained", "bar", "", "CPU us", "peers'", "p99 us", "peers'")


def medians(runs):
    groups = {}
    for r in runs:
        groups.setdefault((r["workload"], r["system"]), []).append(r)
    return {group: {k: median(rs, k) for k in rs[0] if k not in LABELS} for group, rs in groups.items()}


def median(runs, key):
    values = [r[key] for r in runs if r[key] is not None]
    return statistics.median(values) if values else None


def unit(workload):
    return "MB/s" if workload.startswith("seq") else "IOPS"


def measure(workload):
    return "mb_s" if unit(workload) == "MB/s" else "iops"


def best(table, workload, key, choose):
    """Returns the best peer's figure, None where no peer has one."""
    values = [table[workload, p][key] for p in PEERS if (workload, p) in table]
    values = [v for v in values if v is not None]
    return choose(values) if values else None


def p99(row):
    """Returns the p99 that says most about a workload: of flushes, else of writes, else of reads."""
    found = [row[k] for k in ("flush_p99_us", "write_p99_us", "read_p99_us") if row[k] is not None]
    return found[0] if found else None


def verdict(table, workload):
    """Returns how lockstep did, as a dict; a ratio with a bar has whether that is met."""
    own, key = table.get((workload, "lockstep")), measure(workload)
    if own is None:
        return None
    result = {"workload": workload, "bar": BARS.get(workload), "ratio": None, "drained": None, "met": None}
    if workload.startswith("checkpoint"):
        quiet = table.get((workload.replace("checkpoint", "flush"), "lockstep"))
        if quiet is not None and own["flush_p99_us"] is not None: # else the checkpoint was over at once
            result["ratio"] = result["drained"] = own["flush_p99_us"] / quiet["flush_p99_us"]
            result["met"] = result["ratio"] <= result["bar"]
    elif best(table, workload, key, max) is not None:
        result["ratio"] = own[key] / best(table, workload, key, max)
        result["drained"] = own[key + "_drained"] / best(table, workload, key + "_drained", max)
        result["met"] = result["drained"] >= result["bar"]
    result["cpu_us"] = own["cpu_us_per_request"]
    result["cpu_us_peers"] = best(table, workload, "cpu_us_per_request", min)
    result["cpu_met"] = None
    if result["cpu_us"] is not None and result["cpu_us_peers"] is not None:
        result["cpu_met"] = result["cpu_us"] <= result["cpu_us_peers"]
    return result


def digits(value, n):
    return "" if value is None else "%.*f" % (n, value)


def line(table, workload):
    v, key = verdict(table, workload), measure(workload)
    cells = [workload, unit(workload)]
    cells += [digits(table.get((workload, s), {}).get(key), 0) for s in SYSTEMS]
    if v is None:
        return cells + [""] * (len(TITLES) - len(cells))
    compare = "≤ " if workload.startswith("checkpoint") else "≥ "
    cells += [digits(v["ratio"], 2), digits(v["drained"], 2), compare + digits(v["bar"], 1)]
    cells += [{True: "ok", False: "MISSED", None: ""}[v["met"]]]
    cells += [digits(v["cpu_us"], 1) + {True: "", False: " !", None: ""}[v["cpu_met"]], digits(v["cpu_us_peers"], 1)]
    peers = [p99(table[workload, p]) for p in PEERS if (workload, p) in table]
    cells += [digits(p99(table[workload, "lockstep"]), 0), digits(min(filter(None, peers), default=None), 0)]
    return cells


def print_table(table):
    rows = [list(TITLES)] + [line(table, w) for w in dict.fromkeys(w for w, _ in table)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(TITLES))]
    rows.insert(1, ["-" * w for w in widths])
    for r in rows:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))]
        print("| " + " | ".join(cells) + " |")


def main(about_path, runs_path, output):
    with open(about_path) as f:
        about = json.load(f)
    with open(runs_path) as f:
        runs = [json.loads(text) for text in f]
    table = medians(runs)
    for key, value in about.items():
        if value and key != "qemu_modes":
            print("%s: %s" % (key, value))
    print()
    print_table(table)
    print(
        "\nratio: to the best peer, with a sync of the server's files in the time. drained: with lockstep's checkpoint as "
        "well; this is\nheld against the bar. For checkpoint1 and checkpoint16: the p99 of flushes over that of flush1 and "
        "flush16. CPU: of the server,\na request, checkpoint included; ! is more than the least of the peers. p99: of flushes, "
        "else writes, else reads; the least\nof the peers'."
    )
    with open(output, "w") as f:
        rows = [dict(workload=w, system=s, **row) for (w, s), row in table.items()]
        verdicts = [verdict(table, w) for w in dict.fromkeys(w for w, s in table if s == "lockstep")]
        json.dump({"about": about, "medians": rows, "verdicts": verdicts, "runs": runs}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
