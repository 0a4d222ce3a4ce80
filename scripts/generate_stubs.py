"""Generates the legato_pb package from protos/legato/v1: `python scripts/generate_stubs.py [FOLDER]`.

The proto package stays `legato.v1`, on which the wire depends. The Python package is `legato_pb`, so that the stubs can
be installed beside the server's own `legato`: protoc is given the folder under that name.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "clients" / "python" / "legato_pb"


def generate(folder: Path) -> list[Path]:
    """Writes `legato_pb/*_pb2*.py[i]` below `folder` and returns what was written. Raises CalledProcessError."""
    sources = sorted((ROOT / "protos" / "legato" / "v1").glob("*.proto"))
    scripts = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-Ilegato_pb={sources[0].parent}"),
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        *(f"--{kind}_out={folder}" for kind in ("python", "grpc_python")),
        *(f"--{kind}_out=quiet:{folder}" for kind in ("mypy", "mypy_grpc")),
        *(f"legato_pb/{source.name}" for source in sources),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return sorted((folder / "legato_pb").glob("*_pb2*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=STUBS.parent, help="where legato_pb lies")
    try:
        written = generate(parser.parse_args().folder)
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr, end="")
        return 1
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
