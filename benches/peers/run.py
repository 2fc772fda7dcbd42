#!/usr/bin/env python3
"""This command against what people would use instead: one run, one machine, commands in turn, medians of five, ratios first.

    python benches/peers/run.py FOLDER      a folder with 4 GiB free; Python with torch, numpy, safetensors, flashpack==0.4.5

Makes two synthetic bfloat16 models once: 1 GiB in 300 tensors and 256 MiB in 5,000. Each command is a process of its own; the page cache is
warm. `sync` means that the bytes are on disk before the command ends, for cp by `sync FILE`. Prints a table in Markdown.
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
        print(f"| {name} | {median / base:.2f} | {median:.3f} | {min(runs):.3f} | {max(runs):.3f} | {peaks[name] / 1024:.1f} |")


def main():
    if len(sys.argv) != 2:
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
            "flashpack convert --no-sync --layout v3": ([ours, "convert", model, out, "--no-sync", "-q", "--layout", "v3"], out),
            "Python flashpack": (upstream(convert_py, model, theirs), theirs),
        })
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
        b3sum = subprocess.run(["sh", "-c", "command -v b3sum"], capture_output=True, text=True).stdout.strip()
        compare(f"check every byte, {name}", {
            **({"b3sum": ([b3sum, pack], None)} if b3sum else {"cat": (["sh", "-c", 'cat "$0" >/dev/null', pack], None)}),
            "flashpack validate": ([ours, "validate", pack, "-q"], None),
        })
        print(f"\n### open, {name}\n")
        opened = subprocess.run(["cargo", "run", "--release", "--quiet", "--example", "open_against_safetensors", "--", pack.resolve(), model.resolve()], cwd=ROOT, check=True, capture_output=True, text=True)
        fields = dict(field.split("=") for field in opened.stdout.split())
        from flashpack.deserialization import get_flashpack_file_metadata

        theirs_us = []
        for _ in range(101):
            started = time.perf_counter()
            get_flashpack_file_metadata(str(v3))
            theirs_us.append((time.perf_counter() - started) * 1e6)
        python = statistics.median(theirs_us)
        mine, crate = int(fields["open_us"]), int(fields["safetensors_us"])
        print("| what | ratio | median us |\n|---|---|---|")
        print(f"| Pack::open, tables verified | 1 | {mine} |")
        print(f"| Python flashpack, metadata | {python / mine:.1f} | {python:.0f} |")
        print(f"| safetensors crate, read_metadata | {crate / mine:.1f} | {crate} |")
        print(f"\nLookup by name: {fields['lookup_ns']} ns.")
        for path in [out, copy, theirs, back, pack, v3]:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
