#!/usr/bin/env python3
"""How fast a model reaches a GPU: this command, the Python package, safetensors and torch.load beside what the hardware can do.

    python benches/gpu/run.py FOLDER --binary target/release/flashpack

FOLDER is on the disk to measure, with room for four models of the largest size. Python needs torch, safetensors and flashpack==0.4.5.
Each load is a process of its own, in turn with the others; the clock runs inside it, from before the file is opened until the device is
synchronized; every load is compared with the source byte for byte. README.md beside this script says what the figures mean.

`--device cpu` tries the script itself where there is no GPU. What it writes is labelled so and stays in FOLDER.
"""

import argparse
import csv
import ctypes
import datetime
import json
import mmap
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
UPSTREAM = "0.4.5"
MIB = 1 << 20
CHUNK = 16 * MIB
READERS = 16
HOT_LOADS = 2  # in one process: the first pays for pinned memory, the next finds it there
ALLOWANCE_S = 900  # for one process: more is a hang


class NotMeasured(Exception):
    """Why there is no figure. The report says it in the figure's place."""


class WrongBytes(Exception):
    """A load that gave other bytes than the source's: no figure of the whole run would be worth anything."""


# ---- The children: each measures one thing in a fresh process and prints one line of JSON. Only they import torch.


def child(task, *arguments):
    command = [sys.executable, str(Path(__file__).resolve()), "--child", task, *map(str, arguments)]
    return json.loads(answer(command).splitlines()[-1])


def answer(command):
    """What a process prints; status 1 means wrong bytes, in our command as in a child of this script."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ALLOWANCE_S)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"not done after {ALLOWANCE_S} s") from None
    if done.returncode == 0:
        return done.stdout
    reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    raise (WrongBytes if done.returncode == 1 else NotMeasured)(reason[0])


def run_child(task, *arguments):
    try:
        print(json.dumps(CHILDREN[task](*arguments)))
    except WrongBytes as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:  # torch's are many lines: the first says it
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return 2
    return 0


def child_describe(device):
    import flashpack
    import safetensors
    import torch

    facts = {"torch": torch.__version__, "safetensors": safetensors.__version__, "flashpack": flashpack.__version__}
    if on_gpu(device):
        gpu = torch.cuda.get_device_properties(device)
        facts.update(gpu=gpu.name, gpu_bytes=gpu.total_memory, cuda=torch.version.cuda, uuid=f"GPU-{gpu.uuid}" if hasattr(gpu, "uuid") else "")
    return facts


def child_model(path, size):
    """A safetensors file of about `size` bytes: 300 bfloat16 tensors, large and small as in a language model of 33 layers."""
    import torch

    noise = torch.randint(-(1 << 63), (1 << 63) - 1, (CHUNK // 8,), generator=torch.Generator().manual_seed(7))
    sizes = shapes(int(size))
    header, offset = {}, 0
    for name, shape in sizes:
        length = 2 * elements(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for number, start in enumerate(range(0, offset, CHUNK)):
            # No two places hold the same bytes, so one taken for another is found; and an addition is cheaper than new noise.
            block = noise + (number * 0x9E3779B97F4A7C15 % (1 << 64) - (1 << 63))
            out.write(memoryview(block.view(torch.uint8).numpy())[: offset - start])
    return {"bytes": offset, "tensors": len(sizes)}


def shapes(size):
    layers = 33
    width = max(64, int((size / 2 / (layers * 12 + 16)) ** 0.5) // 64 * 64)
    hidden = max(64, width * 8 // 3 // 64 * 64)
    found = []
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found += [(f"{prefix}self_attn.{part}_proj.weight", [width, width]) for part in "qkvo"]
        found += [(f"{prefix}mlp.{part}_proj.weight", [hidden, width]) for part in ("gate", "up")]
        found.append((f"{prefix}mlp.down_proj.weight", [width, hidden]))
        found += [(f"{prefix}{part}_layernorm.weight", [width]) for part in ("input", "post_attention")]
    found.append(("model.norm.weight", [width]))
    # The vocabulary takes what is left of the size.
    words = max(1, (size // 2 - sum(elements(shape) for _, shape in found)) // (2 * width))
    return [*found, ("model.embed_tokens.weight", [words, width]), ("lm_head.weight", [words, width])]


def elements(shape):
    product = 1
    for extent in shape:
        product *= extent
    return product


def child_save(source, target):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(source), target)
    return {}


def child_pinned(device):
    """Seconds of copies of 256 MiB from pinned memory to the device; without a GPU, from memory to memory."""
    import torch

    length = 256 * MIB
    if on_gpu(device):
        torch.cuda.set_device(device)
    source = torch.ones(length, dtype=torch.uint8, pin_memory=on_gpu(device))
    target = torch.empty(length, dtype=torch.uint8, device=device)
    times = []
    for _ in range(23):
        if on_gpu(device):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            target.copy_(source, non_blocking=True)
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) / 1000)
        else:
            began = time.perf_counter()
            target.copy_(source)
            times.append(time.perf_counter() - began)
    return {"bytes": length, "seconds": times[3:]}


def child_load(loader, path, source, device, loads):
    import torch

    load = PEERS[loader]()
    if on_gpu(device):
        torch.cuda.set_device(device)
        torch.ones(1, device=device)  # creates the context, which is not part of loading
    times = []
    for _ in range(int(loads)):
        synchronize(device)
        began = time.perf_counter()
        tensors = load(path, device)
        synchronize(device)
        times.append(time.perf_counter() - began)
        compare(tensors, source)
        del tensors
        if on_gpu(device):
            torch.cuda.empty_cache()  # else the next load would get this one's device memory for nothing
    return {"seconds": times}


def synchronize(device):
    import torch

    if on_gpu(device):
        torch.cuda.synchronize(device)


def peer_upstream():
    # To the CPU it would hand out a lazy mapping, and nothing would be measured.
    os.environ["FLASHPACK_CPU_PARALLEL_READ"] = "1"
    from flashpack.deserialization import iterate_from_flash_tensor, read_flashpack_file

    def load(path, device):
        storage, metadata = read_flashpack_file(path, device=device)
        return dict(iterate_from_flash_tensor(storage, metadata))

    return load


def peer_safetensors():
    from safetensors.torch import load_file

    return lambda path, device: load_file(path, device=device)


def peer_torch():
    import torch

    return lambda path, device: torch.load(path, map_location=device, weights_only=True)


def compare(tensors, source):
    """Every byte of every tensor, copied back from the device, with the safetensors file. Bytes and not values: NaN is not NaN."""
    import torch

    with open(source, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    (length,) = struct.unpack_from("<Q", mapped)
    header = json.loads(mapped[8 : 8 + length])
    if tensors.keys() != header.keys():
        raise WrongBytes("other tensors than the source's")
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        # As whole numbers of 8 bytes, four times as fast: every length here is a multiple of 128.
        want = torch.frombuffer(mapped, dtype=torch.int64, count=(end - start) // 8, offset=8 + length + start)
        got = tensors[name]
        if got.dtype != torch.bfloat16 or list(got.shape) != entry["shape"]:
            raise WrongBytes(f"{name}: {got.dtype} {list(got.shape)}, not as in the source")
        if not torch.equal(got.cpu().reshape(-1).view(torch.int64), want):
            raise WrongBytes(f"{name}: other bytes than the source's")


def on_gpu(device):
    return device.startswith("cuda")


PEERS = {"upstream": peer_upstream, "safetensors": peer_safetensors, "torch.load": peer_torch}
CHILDREN = {"describe": child_describe, "model": child_model, "save": child_save, "pinned": child_pinned, "load": child_load}


# ---- The page cache, and what the disk gives.

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def resident(path):
    """The part of a file that is in the page cache. mincore, for a read that may not wait starts reading ahead."""
    length = os.path.getsize(path)
    pages = -(-length // mmap.PAGESIZE)
    answers = ctypes.create_string_buffer(pages)
    fd = os.open(path, os.O_RDONLY)
    try:
        address = LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        failed = LIBC.mincore(address, length, answers)
        LIBC.munmap(address, length)
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        os.close(fd)
    return 1 - answers.raw[:pages].count(b"\0") / pages


def evict(path):
    """Takes a file out of the page cache; where the polite way is not enough and root may, all files."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # pages not yet written would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    if resident(path) > 0.001:
        try:
            Path("/proc/sys/vm/drop_caches").write_text("1")
        except OSError:
            pass  # whoever asked looks at what is left


def why_no_cold(folder):
    """None where files can be taken out of the page cache, and where mincore tells the truth about it."""
    probe = folder / "probe"
    try:
        probe.write_bytes(os.urandom(CHUNK))
        if resident(probe) < 0.99:
            return "the page cache cannot be looked into here"
        evict(probe)
        return "files cannot be taken out of the page cache here" if resident(probe) > 0.001 else None
    except OSError as error:
        return f"the page cache cannot be looked into here: {error}"
    finally:
        probe.unlink(missing_ok=True)


def prepare(path, state, no_cold):
    """Brings a file into the state; returns what part of it is cached, None where that cannot be told."""
    if state == "cold":
        if no_cold:
            raise NotMeasured(no_cold)
        evict(path)
        left = resident(path)
        if left > 0.001:
            raise NotMeasured(f"{left:.1%} of the file stayed in the page cache")
        return left
    if no_cold or resident(path) < 0.999:
        read_file(path, READERS)
    if no_cold:
        return None
    found = resident(path)
    if found < 0.99:
        raise NotMeasured(f"only {found:.0%} of the file stays in the page cache: too little memory")
    return found


def read_file(path, threads, direct=False):
    """Seconds to read a file once, into memory that each thread uses again."""
    length = os.path.getsize(path)
    starts = iter(range(0, length, CHUNK))
    lock, failures = threading.Lock(), []
    buffers = [mmap.mmap(-1, CHUNK) for _ in range(threads)]  # aligned to pages, as O_DIRECT asks
    for buffer in buffers:
        buffer[:] = bytes(CHUNK)  # its pages exist before the clock runs

    def reader(buffer):
        try:
            while True:
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                if os.preadv(fd, [buffer], start) != min(CHUNK, length - start):
                    raise OSError(f"{path}: a short read at {start}")
        except OSError as error:
            failures.append(error)

    try:
        fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    except OSError as error:
        raise NotMeasured(f"O_DIRECT: {error.strerror}") from None
    try:
        workers = [threading.Thread(target=reader, args=(buffer,)) for buffer in buffers]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - began
    finally:
        os.close(fd)
    if failures:
        raise NotMeasured(str(failures[0]))
    return seconds


# ---- What is measured. A case is called with (files, loads) and returns records of what it took.

PINNED, MEMORY = "pinned copy to the device", "copy from memory to memory"
CACHE, DIRECT, PLAIN = "page cache, 16 threads", "disk, O_DIRECT, 16 threads", "disk, one reader"
OURS, THEIRS, SAFETENSORS, TORCH = "flashpack", f"Python flashpack {UPSTREAM}", "safetensors load_file", "torch.load"
FIELDS = ["device", "gib", "round", "state", "case", "load", "seconds", "bytes", "gb_per_s", "picked", "threads", "cached", "stages", "note"]


def bound_pinned(device):
    def measure(_, __):
        found = child("pinned", device)
        # The best and the median of a process: two records.
        return [
            {"load": load, "seconds": seconds, "bytes": found["bytes"]}
            for load, seconds in [("best", min(found["seconds"])), ("median", statistics.median(found["seconds"]))]
        ]

    return measure


def bound_read(threads, direct):
    def measure(files, _):
        return [{"load": "first", "seconds": read_file(files["sealed"], threads, direct), "bytes": os.path.getsize(files["sealed"])}]

    return measure


def ours(binary, device, strategy, verified):
    command = [binary, "load", "--device", device, "--check", "-j"]
    command += ["--strategy", strategy] if strategy else []
    command += [] if verified else ["--no-verify"]

    def measure(files, loads):
        told = json.loads(answer([*map(str, command), "--repeat", str(loads), str(files["sealed"])]))
        # A figure is only worth having of the load that was asked for.
        if not told["checked"]:
            raise WrongBytes("the command did not check what it loaded")
        if told["verified"] != verified or told["device"] != device or len(told["runs"]) != loads or told["bytes"] < files["bytes"]:
            raise SystemExit(f"{command}: not what was asked for: {told}")
        if strategy not in (None, "auto", told["strategy"]):
            raise NotMeasured(f"the command took the strategy {told['strategy']} instead")
        return [
            {
                "load": "again" if number else "first",
                # Opening counts: the others' clocks include it.
                "seconds": run["seconds"] + run["stages"]["open"],
                "bytes": files["bytes"],
                "picked": told.get("strategy", ""),
                "threads": told["threads"],
                "stages": " ".join(f"{stage}={seconds:.4f}" for stage, seconds in run["stages"].items()),
            }
            for number, run in enumerate(told["runs"])
        ]

    return measure


def peer(loader, file, device):
    def measure(files, loads):
        found = child("load", loader, files[file], files["source"], device, loads)
        return [
            {"load": "again" if number else "first", "seconds": seconds, "bytes": files["bytes"]}
            for number, seconds in enumerate(found["seconds"])
        ]

    return measure


def our_name(strategy, verified):
    return ", ".join(filter(None, [OURS, strategy, "verified" if verified else "not verified"]))


def cases(options):
    """(state, name, file that has to be in that state, measure), in the order of a round: the hot ones first, so that files stay hot."""
    device, gpu = options.device, on_gpu(options.device)
    loads = []
    for strategy in ["auto", "buffered", "direct", "registered"] if gpu else [None]:
        for verified in [True, False]:
            # `registered` copies straight from the page cache, and the command refuses to verify that.
            if not (strategy == "registered" and verified):
                loads.append((our_name(strategy, verified), "sealed", ours(options.binary, device, strategy, verified)))
    loads += [
        (THEIRS, "upstream", peer("upstream", "upstream", device)),
        (SAFETENSORS, "source", peer("safetensors", "source", device)),
        (TORCH, "torch", peer("torch.load", "torch", device)),
    ]
    bounds = {
        "hot": [(PINNED if gpu else MEMORY, None, bound_pinned(device)), (CACHE, "sealed", bound_read(READERS, False))],
        "cold": [(DIRECT, "sealed", bound_read(READERS, True)), (PLAIN, "sealed", bound_read(1, False))],
    }
    return [(state, *case) for state in ("hot", "cold") for case in bounds[state] + loads]


def make_files(options, gib):
    """One model in the four forms. Whether our pack holds the source's bytes is asked of upstream's reader, not of ours."""
    folder, files = options.models, {}
    files["source"], files["torch"] = folder / "model.safetensors", folder / "model.pt"
    files["sealed"], files["upstream"] = folder / "sealed.flashpack", folder / "v4.flashpack"
    files["bytes"] = child("model", files["source"], int(gib * (1 << 30)))["bytes"]
    child("save", files["source"], files["torch"])
    answer([options.binary, "convert", files["source"], files["sealed"], "--force", "-q"])
    if options.share_pack:
        files["upstream"] = files["sealed"]
    else:
        answer([options.binary, "convert", files["source"], files["upstream"], "--force", "-q", "--layout", "v4"])
    child("load", "upstream", files["sealed"], files["source"], "cpu", 1)
    return files


def measure_size(options, gib, no_cold, keep):
    files = make_files(options, gib)
    given_up = set()
    for number in range(1, options.runs + 1):
        for state, name, file, measure in cases(options):
            if (state, name) in given_up:
                continue
            known = {"gib": f"{gib:g}", "round": str(number), "state": state, "case": name}
            began = time.perf_counter()
            try:
                cached = prepare(files[file], state, no_cold) if file else None
                records = measure(files, HOT_LOADS if state == "hot" else 1)
            except NotMeasured as reason:
                given_up.add((state, name))
                keep({**known, "note": str(reason)})
                print(f"{gib:g} GiB, {number}, {state}, {name}: not measured: {reason}", file=sys.stderr)
                continue
            for record in records:
                rate = f"{record['bytes'] / record['seconds'] / 1e9:.3f}"
                cached_part = "" if cached is None else f"{cached:.3f}"
                keep({**known, **record, "seconds": f"{record['seconds']:.6f}", "gb_per_s": rate, "cached": cached_part})
            took = time.perf_counter() - began
            print(f"{gib:g} GiB, {number}, {state}, {name}: {rate} GB/s ({took:.0f} s with all)", file=sys.stderr)


# ---- The report: read from the records alone.


class Records:
    def __init__(self, rows):
        self.rows = rows
        self.sizes = sorted({row["gib"] for row in rows}, key=float)

    def pick(self, gib, state, name, load=None):
        rows = [row for row in self.rows if (row["gib"], row["state"], row["case"]) == (gib, state, name)]
        return [float(row["seconds"]) for row in rows if row["seconds"] and load in (None, row["load"])]

    def seconds(self, gib, state, name):
        """Of a load: the hot ones with pinned memory at hand, which the first of a process lacks. A cold load is always a first one."""
        return self.pick(gib, state, name, "again" if state == "hot" else "first")

    def rate(self, gib, state, name):
        """GB/s of the median load, None if there is none."""
        seconds = self.seconds(gib, state, name)
        payload = next((int(row["bytes"]) for row in self.rows if row["gib"] == gib and row["case"] == name and row["bytes"]), 0)
        return payload / statistics.median(seconds) / 1e9 if seconds else None

    def bounds(self, gib):
        """(name, best GB/s, median GB/s)"""
        found = []
        for state, name in [("hot", PINNED), ("hot", MEMORY), ("hot", CACHE), ("cold", DIRECT), ("cold", PLAIN)]:
            rows = [row for row in self.rows if (row["gib"], row["state"], row["case"]) == (gib, state, name) and row["seconds"]]
            rates = [float(row["gb_per_s"]) for row in rows]
            middle = [float(row["gb_per_s"]) for row in rows if row["load"] != "best"]
            if rates:
                found.append((name, max(rates), statistics.median(middle)))
        return found

    def limit(self, gib, state):
        """What a load is held against: the best pinned copy; the faster way to read the disk."""
        found = {name: (best, median) for name, best, median in self.bounds(gib)}
        if state == "hot":
            return next((found[name][0] for name in (PINNED, MEMORY) if name in found), None)
        return max((found[name][1] for name in (DIRECT, PLAIN) if name in found), default=None)

    def loaders(self, gib, state):
        bounds = {PINNED, MEMORY, CACHE, DIRECT, PLAIN}
        return list(dict.fromkeys(row["case"] for row in self.rows if (row["gib"], row["state"]) == (gib, state) and row["case"] not in bounds))


def ratio(value, base):
    return value / base if value and base else None


def shown(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def load_table(records, gib, state):
    gpu = any(name == PINNED for name, _, _ in records.bounds(gib))
    bound = "disk" if state == "cold" else "pinned copy" if gpu else "copy in memory"
    peers = [THEIRS, SAFETENSORS, TORCH]
    rows = []
    for name in records.loaders(gib, state):
        rate, seconds = records.rate(gib, state, name), records.seconds(gib, state, name)
        if rate is None:
            continue
        ratios = [ratio(rate, records.limit(gib, state)), *(ratio(rate, records.rate(gib, state, peer)) for peer in peers)]
        first = [statistics.median(records.pick(gib, state, name, "first"))] if state == "hot" else []
        figures = [statistics.median(seconds), min(seconds), max(seconds), *first]
        rows.append([name, *map(shown, ratios), shown(rate), *(shown(figure, 3) for figure in figures)])
    head = ["loader", f"of the {bound}", "x Python flashpack", "x safetensors", "x torch.load", "GB/s", "median s", "min s", "max s"]
    return table(head + (["first load s"] if state == "hot" else []), rows)


def auto_picked(records):
    lines = []
    for state in ("hot", "cold"):
        rows = [row for row in records.rows if row["state"] == state and row["case"] == our_name("auto", True) and row["picked"]]
        times = {strategy: sum(row["picked"] == strategy for row in rows) for strategy in sorted({row["picked"] for row in rows})}
        if times:
            found = ", ".join(f"`{strategy}` {number} times" for strategy, number in times.items())
            lines += [f"{state.capitalize()} and verified, `auto` picked {found}.", ""]
    return lines


def aims(records):
    """(aim, what was reached at each size)"""
    name = our_name("auto", True)
    hot, cold = ({gib: records.rate(gib, state, name) for gib in records.sizes} for state in ("hot", "cold"))
    return [
        ("hot: of the pinned copy's rate", 0.9, [ratio(hot[gib], records.limit(gib, "hot")) for gib in records.sizes]),
        (f"hot: times Python flashpack {UPSTREAM}", 2.0, [ratio(hot[gib], records.rate(gib, "hot", THEIRS)) for gib in records.sizes]),
        ("cold: of the disk's rate", 0.95, [ratio(cold[gib], records.limit(gib, "cold")) for gib in records.sizes]),
    ]


def judged(reached, aim):
    return "not measured" if reached is None else f"{reached:.3f}, {'met' if reached >= aim else 'not met'}"


def report(records, options, machine, plot):
    gpu = on_gpu(options.device)
    lines = ["# Results", ""]
    if not gpu:
        lines = ["# cpu: a trial of the script", "", "**No GPU took part. These figures say nothing about loading to one.**", ""]
    runs = " or ".join(sorted({max((row["round"] for row in records.rows if row["gib"] == gib), key=int) for gib in records.sizes}, key=int))
    lines += [f"Of `benches/gpu/run.py`, {datetime.date.today()}. Medians of {runs} processes each, in turn; 1 GB is 10^9 bytes.", ""]
    lines += [*(f"- {what}: {value}" for what, value in machine.items()), "", *repeat(options, records), f"![GB/s of each loader]({plot.name})", ""]
    if gpu:
        lines += ["## Aims", "", "For an H100, verified, with the strategy that `auto` picks.", ""]
        head = ["aim", "at least", *(f"{gib} GiB" for gib in records.sizes)]
        lines += table(head, [[what, aim, *(judged(reached, aim) for reached in found)] for what, aim, found in aims(records)])
    for gib in records.sizes:
        for state, title in [("hot", "page cache hot"), ("cold", "cold")]:
            if any(records.rate(gib, state, name) for name in records.loaders(gib, state)):
                lines += [f"## {gib} GiB, {title}", "", *load_table(records, gib, state)]
        bounds = [[what, shown(best), shown(middle)] for what, best, middle in records.bounds(gib)]
        lines += [f"## {gib} GiB, bounds", "", *table(["what", "best GB/s", "median GB/s"], bounds)]
    lines += auto_picked(records)
    missing = [[f"{row['gib']} GiB", row["state"], row["case"], row["note"]] for row in records.rows if row["note"]]
    return "\n".join(lines + (["## Not measured", "", *table(["size", "state", "what", "why"], missing)] if missing else [])).rstrip() + "\n"


def repeat(options, records):
    command = f"python benches/gpu/run.py FOLDER --binary target/release/flashpack --device {options.device} --runs {options.runs}"
    return [f"    {command} --sizes {','.join(records.sizes)}{' --share-pack' if options.share_pack else ''}", ""]


STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 } .size { font-weight: 600 } .rate { text-anchor: end } .soft { fill: #59636e }
  .page { fill: #ffffff } .ours { fill: #0969da } .peer { fill: #afb8c1 } .limit { stroke: #cf222e; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .soft { fill: #9198a1 }
    .page { fill: #0d1117 } .ours { fill: #4493f8 } .peer { fill: #656c76 } .limit { stroke: #f85149 }
  }
"""


def plot(records, gpu):
    """A bar for each loader, for each size, hot and cold. Of our strategies only what `auto` picks: the table has them all."""
    left, span, step = 300, 425, 21
    body, y = [], 34

    def text(x, y, words, kind="name"):
        body.append(f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{escape(words)}</text>')

    text(20, y, f"Loading to {gpu or 'the cpu: no GPU took part'}, GB/s", "title")
    chosen = {our_name(strategy, verified) for strategy in ("auto", None) for verified in (True, False)} | {THEIRS, SAFETENSORS, TORCH}
    fastest = "a copy from pinned memory" if gpu else "a copy in memory"
    for state, title in [("hot", f"Page cache hot; the line: {fastest}"), ("cold", "Cold; the line: the disk")]:
        groups = []
        for gib in records.sizes:
            bars = [(name, records.rate(gib, state, name)) for name in records.loaders(gib, state) if name in chosen]
            groups.append((gib, [(name, rate) for name, rate in bars if rate], records.limit(gib, state)))
        groups = [group for group in groups if group[1]]
        if not groups:
            continue
        most = max(max(limit or 0, *(rate for _, rate in bars)) for _, bars, limit in groups)
        y += 34
        text(20, y, title, "soft")
        for gib, bars, limit in groups:
            y += 14
            top = y
            text(20, y + 15, f"{gib} GiB", "size")
            for name, rate in bars:
                width = rate / most * span
                text(110, y + 15, name)
                body.append(f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="15" class="{"ours" if name.startswith(OURS) else "peer"}"/>')
                text(780, y + 15, f"{rate:.1f}", "rate")
                y += step
            if limit:
                x = left + limit / most * span
                body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{y}" class="limit"/>')
                text(20, top + 15 + step, f"line: {limit:.1f}", "soft")
    y += 20
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {y}" width="800" height="{y}"><style>{STYLE}</style>'
    return "\n".join([head, f'<rect width="800" height="{y}" class="page"/>', *body, "</svg>", ""])


# ---- The machine.


def describe(options, told):
    def first(path, key):
        try:
            return next((line.split(":", 1)[1].strip() for line in Path(path).read_text().splitlines() if line.startswith(key)), "?")
        except OSError:
            return "?"

    memory = int(first("/proc/meminfo", "MemTotal").split()[0]) / MIB
    version = answer([options.binary, "--version"]).strip()
    python = f"Python {platform.python_version()}, torch {told['torch']}, safetensors {told['safetensors']}, Python flashpack {told['flashpack']}"
    return {
        "GPU": gpu_line(told) if on_gpu(options.device) else "none (cpu)",
        "CPU": f"{first('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores for this process",
        "memory": f"{memory:.0f} GiB",
        "disk": disk_line(options.folder),
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": f"{version}, {python}",
    }


def gpu_line(told):
    line = f"{told['gpu']}, {told['gpu_bytes'] / (1 << 30):.0f} GiB, CUDA {told['cuda']} in torch"
    query = ["nvidia-smi", "--query-gpu=driver_version,pcie.link.gen.max,pcie.link.width.max", "--format=csv,noheader"]
    try:
        done = subprocess.run(query + (["-i", told["uuid"]] if told["uuid"] else []), capture_output=True, text=True, timeout=60)
        driver, generation, width = done.stdout.splitlines()[0].split(", ")
    except (OSError, IndexError, ValueError, subprocess.TimeoutExpired):
        return line
    return f"{line}, driver {driver}, PCIe {generation} x{width}"


def disk_line(folder):
    """The file system, and the model of the disk under it where there is one."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            kind, source = after.split()[:2]
            found = f"{kind} on {source}"
            break
    else:
        found = "?"
    block = Path(f"/sys/dev/block/{number}").resolve()
    for place in (block, block.parent):  # a disk, or a partition of one
        for name in ("device/model", "device/name"):
            if (place / name).is_file():
                return f"{found}, {(place / name).read_text().strip()}"
    return found


# ---- The run.


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--binary", type=Path, required=True, help="this project's command, built with GPU support")
    parser.add_argument("--sizes", default="1,4,16", help="GiB of each model (default: 1,4,16)")
    parser.add_argument("--runs", type=int, default=5, help="processes for each figure (default: 5)")
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu to try the script")
    parser.add_argument("--results", type=Path, help="the table; CSV and plot go beside it (default: benches/gpu/RESULTS.md; for cpu FOLDER/cpu.md)")
    parser.add_argument("--append", action="store_true", help="keep what the CSV holds of other sizes, measured on this machine before")
    parser.add_argument("--share-pack", action="store_true", help="let the Python package read the sealed pack, not a v4 one: a quarter less disk")
    options = parser.parse_args()
    if options.device == "cuda":
        options.device = "cuda:0"
    if options.device != "cpu" and not on_gpu(options.device):
        parser.error(f"{options.device}: no such device")
    options.sizes = [float(size) for size in options.sizes.split(",")]
    options.folder, options.binary = options.folder.resolve(), options.binary.resolve()
    options.results = options.results or (HERE / "RESULTS.md" if on_gpu(options.device) else options.folder / "cpu.md")
    if not on_gpu(options.device) and options.results.resolve().is_relative_to(HERE):
        parser.error("results of the cpu are no results: write them elsewhere")
    needed = max(options.sizes) * (1 << 30) * (3 if options.share_pack else 4)
    options.folder.mkdir(parents=True, exist_ok=True)
    # A folder of its own, so that no one's model is written over; what a killed run left there goes.
    options.models = options.folder / "flashpack-gpu-bench"
    shutil.rmtree(options.models, ignore_errors=True)
    if shutil.disk_usage(options.folder).free < needed * 1.02:
        parser.error(f"{options.folder}: {needed / (1 << 30):g} GiB are needed")
    return options


def main():
    options = parse()
    told = child("describe", options.device)
    if told["flashpack"] != UPSTREAM:
        raise SystemExit(f"Python flashpack {told['flashpack']}: the figures are against {UPSTREAM}")
    device = told.get("gpu", "cpu")
    no_cold = why_no_cold(options.folder)
    path = options.results.with_suffix(".csv")
    rows = []
    if options.append and path.exists():
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if float(row["gib"]) not in options.sizes]
        if any(row["device"] != device for row in rows):
            raise SystemExit(f"{path}: measured on another device than {device}: figures of two are not put together")
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

        def keep(row):
            rows.append({**dict.fromkeys(FIELDS, ""), "device": device, **row})
            writer.writerow(rows[-1])
            file.flush()  # a run that is cut off leaves what it measured

        for gib in options.sizes:
            options.models.mkdir()
            try:
                measure_size(options, gib, no_cold, keep)
            finally:
                shutil.rmtree(options.models)
    records = Records(rows)
    drawing = options.results.with_suffix(".svg")
    drawing.write_text(plot(records, told.get("gpu")))
    options.results.write_text(report(records, options, describe(options, told), drawing))
    print(options.results.read_text(), end="")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(run_child(*sys.argv[2:]))
    try:
        main()
    except (WrongBytes, NotMeasured) as error:
        sys.exit(f"stopped: {error}")
