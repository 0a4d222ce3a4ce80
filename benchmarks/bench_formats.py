"""Checkpoints of 1024 pixels (config-f, random weights) in every format: time to load, and memory.

Each file is loaded in a process of its own. Memory is the peak resident set beyond what the imports took, as a multiple
of the file's size. The file is in the page cache: what is measured is legato, not the disk. CPU seconds are what it
takes on a machine that has nothing else to do.

Run it as `python -m benchmarks.bench_formats`; it needs 3 GB in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from legato.benchmarks.stamp import stamp
from legato.models import Discriminator, Generator, GeneratorConfig, save_model
from tests.models.formats import writers
from tests.models.formats.test_genforce import genforce_state

CONFIG_F = GeneratorConfig(1024, z_dim=512, w_dim=512, mapping_layers=8, channel_base=32768, conv_clamp=256.0)
RESULT = Path(__file__).parent / "results" / "formats.json"
MIB = 2**20

PROBE = """
import json, re, sys, time
import torch
from legato.models import load_generator
torch.set_num_threads(1)

def peak():  # of this program; what resource.getrusage tells begins with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

before, start, used = peak(), time.perf_counter(), time.process_time()
generator = load_generator(sys.argv[1])
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "cpu_seconds": time.process_time() - used,
    "imports": before,
    "peak": peak(),
}))
"""


def files(folder: Path) -> dict[str, Callable[[], Path]]:
    """A writer of each format."""
    torch.manual_seed(0)
    generator = Generator(CONFIG_F).requires_grad_(False).eval()
    discriminator = Discriminator(CONFIG_F).requires_grad_(False).eval()
    average = generator.w_avg

    def torch_file(name: str, tree: Any, zipped: bool = True) -> Path:
        torch.save(tree, folder / name, _use_new_zipfile_serialization=zipped)
        return folder / name

    def state() -> Path:
        tensors = {name: tensor.contiguous() for name, tensor in writers.nvidia_state(generator).items()}
        filters = {name: tensor.clone() for name, tensor in tensors.items() if name.endswith("filter")}
        save_file(tensors | filters, folder / "state.safetensors")
        return folder / "state.safetensors"

    def own() -> Path:
        save_model(generator, folder / "own.safetensors", meta={}, dtype=torch.float32)
        return folder / "own.safetensors"

    def rosinality() -> dict[str, Any]:
        return {"g_ema": writers.rosinality_state(generator), "latent_avg": average}

    return {
        "NVIDIA .pkl (G, D, G_ema)": lambda: writers.write_nvidia(folder / "network.pkl", generator, discriminator),
        "NVIDIA state dict .safetensors": state,
        "rosinality .pt": lambda: torch_file("rosinality.pt", rosinality()),
        "rosinality .pt, older container": lambda: torch_file("older.pt", rosinality(), zipped=False),
        "rosinality training .pt": lambda: torch_file("t.pt", writers.rosinality_training(generator, discriminator)),
        "pSp .pt": lambda: torch_file("psp.pt", writers.psp(generator, average.repeat(18, 1))),
        "GenForce .pth": lambda: torch_file("genforce.pth", {"generator_smooth": genforce_state(generator)}),
        "legato .safetensors": own,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE", type=Path, default=RESULT, help="(default: %(default)s)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, write in files(Path(folder)).items():
            path = write()
            size = path.stat().st_size
            done = subprocess.run([sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=True)
            path.unlink()
            found = json.loads(done.stdout)
            row = {
                "format": name,
                "mib": round(size / MIB, 1),
                "seconds": round(found["seconds"], 2),
                "cpu_seconds": round(found["cpu_seconds"], 2),
                "memory_mib": round((found["peak"] - found["imports"]) / MIB, 1),
                "of_its_size": round((found["peak"] - found["imports"]) / size, 2),
                "peak_with_imports_mib": round(found["peak"] / MIB, 1),
            }
            rows.append(row)
            print("  ".join(f"{value!s:>32}" if key == "format" else f"{key} {value}" for key, value in row.items()))
    args.out.write_text(json.dumps({**stamp(), "rows": rows}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
