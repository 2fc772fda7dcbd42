"""Makes tests/golden/casts.txt: for every pair of dtypes that the crate casts, the BLAKE3 of what PyTorch's CPU `Tensor.to` gives.

Usage: python casts.py > ../../tests/golden/casts.txt     (pip install torch numpy blake3)

Made with torch 2.15.0 on x86-64; AVX2 and AVX-512 give the same. ATEN_CPU_CAPABILITY=default gives NaN other bits in six pairs. Older versions of
torch may give NaN, not the largest value, for what is too large for float8_e4m3fn.

The source patterns are computed, here and in tests/casts.rs alike:
  8 and 16 bits   every pattern
  float32         (i << 12) + k for every i below 2^20 and k in 0, 1, 0xFFF: all boundaries of the smaller floats and their neighbours
  float64         the float32 patterns as float64, and each plus and minus one in the last place
  integers        (i * 0x9E3779B97F4A7C15 mod 2^64) >> (i mod 64), for i below 100,000, cut to the width
  bool            0, 1
"""

import blake3
import numpy as np
import torch

FLOATS = ["float64", "float32", "float16", "bfloat16"]
FLOAT8 = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"]
UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}


def float32_patterns():
    i = np.arange(1 << 20, dtype=np.uint32) << 12
    return np.stack([i, i + 1, i + 0xFFF], axis=1).reshape(-1)


def patterns(name):
    size = torch.tensor([], dtype=getattr(torch, name)).element_size()
    if name == "bool":
        return np.array([0, 1], dtype=np.uint8)
    if size <= 2:
        return np.arange(1 << (8 * size), dtype=f"u{size}")
    if name == "float32":
        return float32_patterns()
    if name == "float64":
        with np.errstate(invalid="ignore"):
            bits = float32_patterns().view(np.float32).astype(np.float64).view(np.uint64)
        return np.stack([bits, bits + np.uint64(1), bits - np.uint64(1)], axis=1).reshape(-1)
    i = np.arange(100_000, dtype=np.uint64)
    return ((i * np.uint64(0x9E3779B97F4A7C15)) >> (i % np.uint64(64))).astype(f"u{size}")


def main():
    every = FLOATS + FLOAT8 + INTEGERS + ["bool"]
    for source in every:
        tensor = torch.from_numpy(patterns(source)).view(getattr(torch, source))
        for target in every:
            is_float = source in FLOATS + FLOAT8
            if source == target or (is_float and target in INTEGERS):
                continue
            cast = tensor.to(getattr(torch, target))
            raw = cast.view(UNSIGNED[cast.element_size()]).numpy().tobytes()
            print(source, target, blake3.blake3(raw).hexdigest())


if __name__ == "__main__":
    main()
