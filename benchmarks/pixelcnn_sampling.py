"""How much faster PixelCNN samples with cached activations than with one pass for each pixel.

Both samplers draw the same whole images from the same noise, in one process and on the same
threads; the results are compared. Run it with `make bench`, or by itself for other sizes:

    python benchmarks/pixelcnn_sampling.py --images 64 --side 28
"""

import argparse
import sys
import time

import torch

from ppl_vae.likelihoods import AutoregressiveLikelihood, PixelCNN, PixelCNNpp

REQUIRED = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["PixelCNN", "PixelCNNpp"], default="PixelCNN")
    parser.add_argument("--images", type=int, default=64, help="images drawn at once")
    parser.add_argument("--side", type=int, default=28, help="height and width, in pixels")
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    size = (args.side, args.side)
    net: AutoregressiveLikelihood
    net = PixelCNN(10, size) if args.network == "PixelCNN" else PixelCNNpp(10, size)
    z, noise = torch.randn(args.images, 10), net.noise(args.images)
    net.draw(z[:2], noise[:2])

    cached = []
    for _ in range(3):
        start = time.perf_counter()
        quick = net.draw(z, noise)
        cached.append(time.perf_counter() - start)
    start = time.perf_counter()
    slow = net.draw_naively(z, noise)
    naive = time.perf_counter() - start

    median, same = sorted(cached)[1], (quick == slow).float().mean().item()
    print(
        f"{args.network}, {sum(p.numel() for p in net.parameters()):,} parameters, "
        f"{args.images} images of {args.side}x{args.side}, {torch.get_num_threads()} threads\n"
        f"  cached  {median:8.2f} s  (median of {', '.join(f'{t:.2f}' for t in cached)})\n"
        f"  naive   {naive:8.2f} s\n"
        f"  ratio   {naive / median:8.1f}    (required: {REQUIRED:.0f})\n"
        f"  equal pixels {same:.4%}: single precision, where rounding may turn a draw"
    )
    return 0 if naive / median >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
