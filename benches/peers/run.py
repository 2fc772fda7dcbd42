#!/usr/bin/env python3
"""This command against what people would use instead: one run, one machine, commands in turn, medians of five, ratios first.

    python benches/peers/run.py FOLDER [PLOT.svg]

FOLDER has 4 GiB free; Python has torch, numpy, safetensors and flashpack==0.4.5; b3sum is installed (`cargo install b3sum`).

Makes synthetic bfloat16 models once: 1 GiB in 300 tensors, 256 MiB in 5,000, and for opening alone 6 MiB in 100,000. Each command is a process of its
own; the page cache is warm. `sync` means that the bytes are on disk before the command ends, for cp by `sync FILE`. Loads into memory are timed within
the process, imports left out. Prints tables in Markdown, and draws the ratios.
"""

import json
import os
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RUNS = 5


def make_model(path, tensors, mib):
    """Sizes spread as in real models: a few large tensors, many small ones."""
    rng = np.random.default_rng(7)
    elements = mib << 19
    weights = rng.lognormal(0, 1, tensors)
    sizes = np.maximum(1, (weights / weights.sum() * elements).astype(np.int64))
    sizes[0] += elements - sizes.sum()
    header, offset = {}, 0
    for number, size in enumerate(sizes.tolist()):
        name = f"model.layers.{number // 9}.block{number % 9}.weight"
        header[name] = {"dtype": "BF16", "shape": [size], "data_offsets": [offset, offset + 2 * size]}
        offset += 2 * size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        while offset:
            length = min(offset, 1 << 24)
            out.write(rng.bytes(length))
            offset -= length


def measure(command, target=None):
    """Seconds and peak KiB of one process."""
    if target is not None:
        Path(target).unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command} failed")
    return seconds, usage.ru_maxrss


PLOTTED = []


def compare(title, commands):
    """Runs the commands in turn; the first is the one to compare with."""
    times = {name: [] for name in commands}
    peaks = dict.fromkeys(commands, 0)
    for _ in range(RUNS + 1):
        for name, (command, target) in commands.items():
            seconds, peak = measure(command, target)
            times[name].append(seconds)
            peaks[name] = max(peaks[name], peak)
    print(f"\n### {title}\n\n| command | ratio | median s | min s | max s | peak MiB |\n|---|---|---|---|---|---|")
    base = statistics.median(next(iter(times.values()))[1:])
    for name, all_runs in times.items():
        runs = all_runs[1:]  # the first warms up
        median = statistics.median(runs)
        PLOTTED.append((title, name, median / base))
        print(f"| {name} | {median / base:.2f} | {median:.3f} | {min(runs):.3f} | {max(runs):.3f} | {peaks[name] / 1024:.1f} |")


def report(title, unit, times):
    """Times that processes told of themselves; the first is the one to compare with."""
    print(f"\n### {title}\n\n| what | ratio | median {unit} | min | max |\n|---|---|---|---|---|")
    base = statistics.median(next(iter(times.values())))
    for name, runs in times.items():
        median = statistics.median(runs)
        PLOTTED.append((title, name, median / base))
        print(f"| {name} | {median / base:.2f} | {median:.4g} | {min(runs):.4g} | {max(runs):.4g} |")


TIMED = """
import json, sys, time
import torch
{imports}
path = sys.argv[1]
{call}
started = time.perf_counter()
held = {call}
print(json.dumps(time.perf_counter() - started))
"""


def load(ours, pack, model, v3, name):
    """Every tensor in memory of its own, by each of those who offer it; bytes touched."""
    timed = lambda imports, call: TIMED.format(imports=imports, call=call)
    numbers = lambda command: json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    mine = lambda *options: lambda: numbers([ours, "load", pack, "-j", "--repeat", "2", *options])["runs"][1]["seconds"]
    python = lambda code, path: lambda: numbers([sys.executable, "-c", code, str(path)])
    ways = {
        "read(2) into new memory, one thread": python(timed("", "open(path, 'rb').read()"), pack),
        "memcpy of the same bytes": python(
            TIMED.format(imports="data = torch.empty(0); import os; data = torch.ones(os.path.getsize(sys.argv[1]), dtype=torch.uint8)", call="data.clone()"),
            pack,
        ),
        "flashpack load --no-verify": mine("--no-verify"),
        "flashpack load, verified": mine(),
        "safetensors (Python), every tensor copied": python(
            timed("from safetensors.torch import load_file", "[t.clone() for t in load_file(path).values()]"), model
        ),
        "Python flashpack, eager": python(
            timed("from flashpack.deserialization import revert_from_file", "[t.clone() for t in revert_from_file(path).values()]"), v3
        ),
    }
    times = {way: [] for way in ways}
    for _ in range(RUNS):
        for way, run in ways.items():
            times[way].append(run())
    report(f"load into memory, {name}", "s", times)


def opening(folder, name, pack, model, v3):
    command = ["cargo", "run", "--release", "--quiet", "--example", "peers-open", "--", pack.resolve(), model.resolve()]
    opened = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    fields = dict(field.split("=") for field in opened.stdout.split())
    from flashpack.deserialization import get_flashpack_file_metadata

    theirs = []
    for _ in range(51):
        started = time.perf_counter()
        get_flashpack_file_metadata(str(v3))
        theirs.append((time.perf_counter() - started) * 1e6)
    report(f"open, {name}", "us", {
        "Pack::open, tables verified": [int(fields["open_us"])],
        "safetensors crate, read_metadata": [int(fields["safetensors_us"])],
        "Python flashpack, metadata": theirs,
    })
    print(f"\nLookup by name: {fields['lookup_ns']} ns.")


def draw(path):
    """Bars of the ratios, the one that others are compared with at 1; longer is slower. Beyond 4 the bar is cut and the number tells."""
    rows, y = [], 24
    last = None
    for title, name, ratio in PLOTTED:
        if title != last:
            y += 12
            rows.append(f'<text x="8" y="{y}" class="title">{title}</text>')
            y += 18
            last = title
        ours = "ours" if name.startswith(("flashpack", "Pack::")) else "theirs"
        width = 110 * min(ratio, 4)
        rows.append(f'<text x="286" y="{y}" text-anchor="end">{name}</text>')
        rows.append(f'<rect x="294" y="{y - 10}" width="{width:.1f}" height="12" class="{ours}"/>')
        rows.append(f'<text x="{298 + width:.1f}" y="{y}">{ratio:.2f}</text>')
        y += 17
    style = (
        "text{font:12px sans-serif;fill:#24292f}.title{font-weight:bold}.ours{fill:#1f6feb}.theirs{fill:#8c959f}line{stroke:#d0d7de}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#58a6ff}.theirs{fill:#6e7681}line{stroke:#30363d}}"
    )
    body = "".join(rows)
    line = f'<line x1="404" y1="20" x2="404" y2="{y}"/>'
    Path(path).write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {y + 8}"><style>{style}</style>{line}{body}</svg>\n')


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    ours = ROOT / "target/release/flashpack"
    convert_py = "import sys; from flashpack.commands import convert_to_flashpack as c; c(sys.argv[1], sys.argv[2])"
    revert_py = "import sys; from flashpack.commands import revert_from_flashpack as r; r(sys.argv[1], sys.argv[2])"
    for name, tensors, mib in [("1 GiB, 300 tensors", 300, 1024), ("256 MiB, 5,000 tensors", 5000, 256)]:
        model, pack, v3 = (folder / f"m{tensors}.{ending}" for ending in ("safetensors", "flashpack", "v3.flashpack"))
        if not model.exists():
            make_model(model, tensors, mib)
        out, copy, theirs = folder / "out.flashpack", folder / "copy", folder / "theirs.flashpack"
        upstream = lambda code, *paths: [sys.executable, "-c", code, *map(str, paths)]
        compare(f"convert, {name}", {
            "cp": (["cp", model, copy], copy),
            "flashpack convert --no-sync": ([ours, "convert", model, out, "--no-sync", "-q"], out),
            "Python flashpack": (upstream(convert_py, model, theirs), theirs),
        })
        v4 = folder / "v4.flashpack"
        compare(f"convert to v4, {name}", {
            "cp": (["cp", model, copy], copy),
            "flashpack convert --no-sync --layout v4": ([ours, "convert", model, v4, "--no-sync", "-q", "--layout", "v4"], v4),
        })
        v4.unlink()
        compare(f"convert, bytes on disk, {name}", {
            "cp and sync": (["sh", "-c", 'cp "$0" "$1" && sync "$1"', model, copy], copy),
            "flashpack convert": ([ours, "convert", model, out, "-q"], out),
        })
        for layout, path in [("sealed", pack), ("v3", v3)]:
            measure([ours, "convert", model, path, "--layout", layout, "--no-sync", "-q"], path)
        back = folder / "back.safetensors"
        compare(f"revert, {name}", {
            "cp": (["cp", pack, copy], copy),
            "flashpack revert --no-sync": ([ours, "revert", pack, back, "--no-sync", "-q"], back),
            "Python flashpack": (upstream(revert_py, v3, back), back),
        })
        compare(f"check every byte, {name}", {
            "b3sum": (["b3sum", "--num-threads", str(os.cpu_count()), pack], None),
            "cat": (["sh", "-c", 'cat "$0" >/dev/null', pack], None),
            "flashpack validate": ([ours, "validate", pack, "-q"], None),
        })
        load(ours, pack, model, v3, name)
        opening(folder, name, pack, model, v3)
        for path in [out, copy, theirs, back, pack, v3]:
            path.unlink(missing_ok=True)
    model, pack, v3 = (folder / f"m100000.{ending}" for ending in ("safetensors", "flashpack", "v3.flashpack"))
    make_model(model, 100_000, 6)
    for layout, path in [("sealed", pack), ("v3", v3)]:
        measure([ours, "convert", model, path, "--layout", layout, "--no-sync", "-q"], path)
    opening(folder, "100,000 tensors", pack, model, v3)
    for path in [model, pack, v3]:
        path.unlink(missing_ok=True)
    if len(sys.argv) > 2:
        draw(sys.argv[2])


if __name__ == "__main__":
    main()
