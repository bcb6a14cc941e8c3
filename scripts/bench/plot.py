"""Draw what `bench.sh scaling` measured, and write each series as CSV.

    plot.py RESULTS DIR     RESULTS is the JSON that bench.sh wrote; into DIR come SERIES.png and SERIES.csv
"""

import csv
import json
import os
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402: the backend has to be chosen before

# Of each series: what x is, whether its axis is logarithmic, and the panels. A panel has a title, its unit, and lines.
SERIES = {
    "clients": (
        "clients, one request at a time each",
        True,
        [
            ("4k write, then a flush", "IOPS", ["flush_iops"]),
            ("latency of a flush", "µs", ["flush_p50_us", "flush_p99_us"]),
            ("4k write, until all is on the disk", "IOPS", ["write_iops_drained"]),
            ("4k read, warm", "IOPS", ["read_iops"]),
        ],
    ),
    "sizes": (
        "size of the volume, GiB",
        True,
        [
            ("4k write, depth 32", "IOPS", ["write_iops"]),
            ("4k write, then a flush", "IOPS", ["flush_iops"]),
            ("flush p99", "µs", ["flush_p99_us"]),
            ("memory of the server", "MiB", ["rss_mib"]),
            ("time to create and to open", "ms", ["created_ms", "opened_ms"]),
        ],
    ),
    "logs": (
        "size of the log, MiB",
        True,
        [
            ("2 GiB of 4k writes, depth 32", "IOPS", ["write_iops", "write_iops_drained"]),
            ("write p99", "µs", ["write_p99_us"]),
            ("longest write", "ms", ["write_max_ms"]),
        ],
    ),
    "dirty": (
        "changes that the base image does not have, MiB",
        False,
        [
            ("memory of the server", "MiB", ["rss_mib", "rss_after_open_mib"]),
            ("time to open after kill -9, cold", "s", ["opened_s", "served_after_s"]),
            ("ranges", "", ["ranges"]),
        ],
    ),
}
LABELS = ("series", "system", "x", "round")


def medians(points):
    """Returns one point for each system and x, with the medians over rounds, in the order of x."""
    groups = {}
    for p in points:
        groups.setdefault((p["system"], p["x"]), []).append(p)
    rows = []
    for (system, x), ps in groups.items():
        figures = {k: statistics.median(p[k] for p in ps) for k in ps[0] if k not in LABELS}
        rows.append({"system": system, "x": x, **figures})
    return sorted(rows, key=lambda r: (r["system"], r["x"]))


def write_csv(rows, path):
    with open(path, "w", newline="") as f:
        w = csv.DictWriter(f, fieldnames=list(rows[0]), lineterminator="\n")
        w.writeheader()
        w.writerows(rows)


def draw(name, rows, path):
    label, logarithmic, panels = SERIES[name]
    systems = list(dict.fromkeys(r["system"] for r in rows))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.4 * len(panels), 3), squeeze=False)
    for axis, (title, unit, lines) in zip(axes[0], panels):
        for system in systems:
            for line in lines:
                points = [(r["x"], r[line]) for r in rows if r["system"] == system]
                names = ([system] if len(systems) > 1 else []) + ([line] if len(lines) > 1 else [])
                axis.plot(*zip(*points), marker="o", markersize=3, linewidth=1, label=" ".join(names))
        if logarithmic:
            axis.set_xscale("log", base=2)
            ticks = sorted({r["x"] for r in rows})
            axis.set_xticks(ticks, [str(t) for t in ticks], fontsize=7)
        axis.set_ylim(bottom=0)
        axis.set_title(title + (", " + unit if unit else ""), fontsize=9)
        axis.set_xlabel(label, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1] and any(axis.get_legend_handles_labels()[1]):
            axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main(results, folder):
    with open(results) as f:
        points = json.load(f)["points"]
    for name in SERIES:
        rows = medians([p for p in points if p["series"] == name])
        if not rows:
            continue
        write_csv(rows, os.path.join(folder, name + ".csv"))
        draw(name, rows, os.path.join(folder, name + ".png"))
        print("%s: %s" % (name, os.path.join(folder, name + ".png")))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
