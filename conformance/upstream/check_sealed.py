"""Does the Python package load what we seal, bit for bit? Seals every file under golden/ and the shipped model, and loads each result as load.py does.

Usage: python check_sealed.py FLASHPACK [FILE...]          (pip install flashpack==0.4.5 torch numpy safetensors blake3)

FLASHPACK is the built command. FILEs, if any, are taken instead of the golden ones and the model. For each file: `flashpack convert` seals it,
`flashpack list --digests --json` tells what is in it, and the package's mapped reader, its parallel reader and `assign_from_file` must all hand out
that and nothing else. That must also be what was there before: of a golden pack what golden/manifest.json recorded, of a safetensors file what the
`safetensors` package reads in it, so that a tensor which our command loses or changes, and then lists so, is seen.

What was sealed is looked at too: a file without the seal, or a reader that was not asked, would make this check say nothing.

Exit codes: 0 no differences; 1 differences, which stderr tells; 2 wrong usage.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import load
from flashpack import deserialization
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
MODEL = HERE.parents[1] / "models" / "silero-vad" / "model.safetensors"
SEALED_MAGIC = bytes.fromhex("89 46 50 4B 0D 0A 1A 0A")


def run(*arguments):
    return subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True, text=True, encoding="utf-8").stdout


def sources():
    yield from sorted(path for path in GOLDEN.iterdir() if path.suffix in (".flashpack", ".safetensors"))
    yield MODEL


def recorded():
    """Of each golden pack: the tensors as the package read them before sealing."""
    packs = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))["packs"]
    return {
        GOLDEN / pack["file"]: {
            tensor["name"]: {"dtype": tensor["dtype"], "shape": tensor["read_shape"], "blake3": tensor["blake3"]} for tensor in pack["tensors"]
        }
        for pack in packs
    }


class Counted:
    """Counts the calls of the parallel reader, which the package falls back from without a word."""

    def __init__(self):
        self.calls, self.wrapped = 0, deserialization.parallel_read_into_storage
        deserialization.parallel_read_into_storage = self

    def __call__(self, *arguments, **options):
        self.calls += 1
        return self.wrapped(*arguments, **options)


def before_sealing(source, packs):
    if source.suffix == ".safetensors":
        # The package hands a scalar out with shape [1].
        return {name: tensor | {"shape": tensor["shape"] or [1]} for name, tensor in load.described(load_file(source)).items()}
    return packs.get(source)


def check(command, source, folder, before, parallel_reads):
    """Returns the differences, the number of tensors, those that no module can have, and whether there is a block without bytes."""
    sealed = Path(folder) / "sealed.flashpack"
    expected_path = Path(folder) / "expected.json"
    run(command, "convert", "--quiet", "--force", "--no-sync", source, sealed)
    with open(sealed, "rb") as file:
        if file.read(8) != SEALED_MAGIC:
            return ["not sealed"], 0, 0, False
    expected_path.write_text(run(command, "list", "--quiet", "--digests", "--json", sealed), encoding="utf-8")
    expected = load.read_expected(expected_path)

    calls = parallel_reads.calls
    mapped = load.by_reader(str(sealed), parallel=False)
    differences = [] if parallel_reads.calls == calls else ["the mapped reader is not the one that was run"]
    parallel = load.by_reader(str(sealed), parallel=True)
    if parallel_reads.calls == calls:
        differences.append("the parallel reader was not run")
    with contextlib.redirect_stderr(io.StringIO()):
        assigned, impossible = load.by_assignment(str(sealed))
    differences += load.differences("mapped reader", expected, mapped)
    differences += load.differences("parallel reader", expected, parallel)
    differences += load.differences("assign_from_file", {name: tensor for name, tensor in expected.items() if name not in impossible}, assigned)
    if before is not None:
        differences += load.differences("before sealing", before, mapped)
    metadata = deserialization.get_flashpack_file_metadata(str(sealed))
    if len(metadata["index"]) != len(mapped):
        differences.append(f"{len(metadata['index'])} records in the index, {len(mapped)} tensors")
    return differences, len(mapped), len(impossible), any(block["length_bytes"] == 0 for block in metadata["macroblocks"])


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", category=UserWarning)
    command = Path(sys.argv[1]).resolve()
    packs, parallel_reads = recorded(), Counted()
    files = tensors = unassigned = empty_blocks = different = 0
    with tempfile.TemporaryDirectory() as folder:
        for source in [Path(path).resolve() for path in sys.argv[2:]] or sources():
            try:
                differences, count, impossible, empty_block = check(command, source, folder, before_sealing(source, packs), parallel_reads)
            except subprocess.CalledProcessError as error:
                differences, count, impossible, empty_block = [f"exit code {error.returncode}: {error.stderr.strip()}"], 0, 0, False
            except Exception as error:
                differences, count, impossible, empty_block = [f"refused: {type(error).__name__}: {error}"], 0, 0, False
            files, tensors, unassigned, empty_blocks = files + 1, tensors + count, unassigned + impossible, empty_blocks + empty_block
            different += bool(differences)
            for difference in differences:
                print(f"{source.name}: {difference}", file=sys.stderr)
    if not files:
        print("no files", file=sys.stderr)
        return 1
    print(f"{files} files tried, {empty_blocks} of them with a block of no bytes; {tensors} tensors loaded three ways, "
          f"{unassigned} of them two ways, as no module can have their names; {different} files differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
