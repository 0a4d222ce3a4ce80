"""`legato bench ops`: every op beside its alternatives."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands._bench_options import add_results, check_results, progress, write_json
from legato.commands._numbers import count, positive
from legato.errors import ConfigError, LegatoError

if TYPE_CHECKING:
    from legato.benchmarks.ops import Options

NETS = ("heads-128", "config-f-256", "config-f-512", "config-f-1024")
OPS = ("modulated_conv2d", "flow_warp", "photometric_error", "to_rgb", "synthesis")
MODES = ("forward", "forward_backward")
DTYPES = ("float32", "bfloat16", "float16")

EPILOG = """
Every case races ours, plain torch (shared weights, channels last, the fastest of several variants; eager and under
torch.compile), the formulation with a weight for each sample, and the public implementations that are in --peers:
stylegan2-ada-pytorch, stylegan2-pytorch, flownet2-pytorch. Times are medians over rounds that run all of them in turn.
How it is measured and how to read it: docs/benchmarks.md.
"""


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato bench ops`."""
    ops = kinds.add_parser(
        "ops",
        help="every op, layer by layer",
        description="Races every op against the best alternatives, on the layers of real nets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ops.set_defaults(bench=run)
    what = ops.add_argument_group("what")
    what.add_argument("--only", nargs="+", choices=OPS, default=OPS, metavar="OP", help=f"of {', '.join(OPS)}")
    what.add_argument("--nets", nargs="+", choices=NETS, metavar="NET", help=f"of {', '.join(NETS)} (default: all)")
    what.add_argument(
        "--layers", nargs="+", default=(), metavar="PATTERN", help='of names, as "*b128.conv?" or "256 px"'
    )
    what.add_argument("--batches", nargs="+", type=count, metavar="N", help="(default: 1 8 32)")
    what.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, metavar="T", help="(default: float32 bfloat16; on CUDA float16, too)"
    )
    what.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE", help=f"of {', '.join(MODES)}")
    what.add_argument("--peers", type=Path, metavar="DIR", help="public implementations (default: ./peers, if there)")

    how = ops.add_argument_group("how")
    how.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    how.add_argument(
        "--quick", action="store_true", help="within a minute: heads-128 and config-f-256, batch 1, then 8"
    )
    how.add_argument("--threads", type=count, metavar="N", help="of torch on the CPU (default: torch's own)")
    how.add_argument("--seconds", type=positive, default=1.0, metavar="X", help="of a race (default: %(default)s)")
    how.add_argument("--minutes", type=positive, metavar="X", help="of all; what does not fit is left out, and told")
    how.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes most of the time")
    how.add_argument(
        "--compile-mode",
        choices=("default", "max-autotune-no-cudagraphs"),
        default="default",
        help="(default: default)",
    )
    how.add_argument("--seed", type=int, default=0, help="of the inputs (default: %(default)s)")
    add_results(ops, "rooflines")


def run(args: argparse.Namespace) -> int:
    """`legato bench ops`: 0, or 1 where one of our own ops failed or computed something else than its alternatives."""
    begun = time.perf_counter()
    check_results(args)

    import torch

    from legato.benchmarks import ops
    from legato.benchmarks.report import print_report

    if args.threads:
        torch.set_num_threads(args.threads)
    with progress("case") as tell:
        result = ops.run(_options(args), tell, begun)
    print_report(result)
    if args.json:
        write_json(result, args.json)
        print(f"{args.json}: {len(result['cases'])} cases")
    if args.picture:
        from legato.benchmarks.picture import draw

        print(f"{args.picture}: rooflines" if draw(result, args.picture) else "no forward modulated_conv2d: no picture")
    failed = [case for case in result["cases"] if not case["median_ms"] and "skipped" not in case["not_run"]["ours"]]
    if failed:
        first = failed[0]
        raise LegatoError(f"{len(failed)} cases failed; {first['op']} {first['name']}: {first['not_run']['ours']}")
    return 0


def _options(args: argparse.Namespace) -> Options:
    from legato.benchmarks.ops import Options

    peers = args.peers
    if peers is not None and not peers.is_dir():
        raise ConfigError(f"--peers {peers}: no such folder")
    if peers is None and not args.quick and Path("peers").is_dir():
        peers = Path("peers")
    cuda = args.device.startswith("cuda")
    return Options(
        device=args.device,
        nets=tuple(args.nets or (NETS[:2] if args.quick else NETS)),
        ops=tuple(args.only),
        layers=tuple(args.layers),
        batches=tuple(args.batches or ((1, 8) if args.quick else (1, 8, 32))),
        dtypes=tuple(args.dtypes or (DTYPES if cuda else DTYPES[:2])),
        modes=tuple(args.modes),
        seconds=args.seconds,
        minutes=args.minutes,
        peers=peers,
        compile=not args.no_compile,
        compile_mode=args.compile_mode,
        quick=args.quick,
        seed=args.seed,
    )
