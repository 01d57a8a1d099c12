#!/usr/bin/env python3
"""Times in PyTorch what `sdmoe tune` and `sdmoe bench attention` time, on one GPU, for figures of the same minutes.

    python3 scripts/pytorch.py

f32 is without TF32. Times are those of CUDA events around one call, the fastest of ten, so PyTorch's launch is in them: some
25 us, of which small cases mostly consist.
"""

import torch
import torch.nn.functional as functional

# Form, rows and columns of C, terms of a sum, batch: as in src/bench/tune/product.rs.
PRODUCTS = [
    ("nn", 4096, 4096, 4096, 1), ("nt", 4096, 4096, 4096, 1), ("tn", 4096, 4096, 4096, 1), ("nn", 2048, 2048, 2048, 1),
    ("nn", 1024, 1024, 1024, 1), ("nt", 1024, 1024, 1024, 1), ("tn", 1024, 1024, 2048, 1), ("nn", 512, 512, 512, 1),
    ("nn", 4096, 512, 512, 1), ("tn", 512, 512, 4096, 1), ("nn", 2048, 1024, 256, 1), ("nn", 2048, 256, 256, 1),
    ("nt", 2048, 256, 256, 1), ("tn", 256, 256, 2048, 1), ("nn", 2048, 8, 256, 1), ("nt", 2048, 256, 8, 1),
    ("tn", 256, 8, 2048, 1), ("nn", 256, 4, 512, 8), ("tn", 4, 512, 256, 8), ("nn", 512, 512, 8, 8),
    ("nn", 1, 1024, 1024, 1), ("nt", 16, 4096, 1024, 1),
]
# Sequences, their length, query heads, key heads, head width: as in src/bench/ops.rs.
ATTENTIONS = [(8, 256, 8, 8, 32), (8, 256, 8, 4, 32), (1, 1024, 8, 8, 32), (4, 256, 4, 4, 64), (4, 256, 2, 2, 128)]


def seconds(call, runs=10):
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) * 1e-3)
    return best


def tell(name, time, flop):
    print(f"{name:<44} {time * 1e6:9.1f} us {flop / time * 1e-9:9.0f} GFLOP/s", flush=True)


def products(dtype):
    for form, m, n, k, batch in PRODUCTS:
        def operand(transposed, rows, columns):
            shape = (columns, rows) if transposed else (rows, columns)
            x = torch.randn(batch, *shape, device="cuda", dtype=dtype)
            x = x.transpose(1, 2) if transposed else x
            return x[0] if batch == 1 else x

        a, b = operand(form[0] == "t", m, k), operand(form[1] == "t", k, n)
        time = seconds(lambda: torch.matmul(a, b))
        tell(f"{dtype} {form} {m} x {n} x {k} of {batch}", time, 2 * m * n * k * batch)


def attentions(dtype):
    for batch, length, heads, kv_heads, width in ATTENTIONS:
        q, k, v = (
            torch.randn(batch, count, length, width, device="cuda", dtype=dtype, requires_grad=True)
            for count in (heads, kv_heads, kv_heads)
        )
        dy = torch.randn_like(q)

        def forward():
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)

        def both():
            q.grad = k.grad = v.grad = None
            forward().backward(dy)

        # Two products of the causal half.
        flop = 2 * 2 * batch * heads * length * length / 2 * width
        name = f"{dtype} attention {batch} x {length}, {heads}/{kv_heads} heads of {width}"
        with torch.no_grad():
            tell(f"{name}, forward", seconds(forward), flop)
        tell(f"{name}, both", seconds(both), 3.5 * flop)


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}")
    for dtype in (torch.float32, torch.float16):
        products(dtype)
        attentions(dtype)
    x = torch.randn(1 << 28, device="cuda")
    y = torch.empty_like(x)
    print(f"copy of 1 GiB: {2 * 4 * x.numel() / seconds(lambda: y.copy_(x)) * 1e-9:.0f} GB/s")


main()
