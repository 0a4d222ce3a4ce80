"""Importing the packages is free of effects: no thread, no setting read, no file, nothing changed that others share."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

from tests.contract.source import CLIENT, OWN_PACKAGES, SERVICE, imports, module_name, python_files

# Runs in a process of its own. Third-party modules come first, so that what is seen afterwards is ours.
PROBE = """
import importlib, json, logging, os, pathlib, random, sys, threading, warnings
outside, ours = json.loads(sys.argv[1])
for name in outside:
    importlib.import_module(name)
import torch

def state():
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "python threads": sorted(thread.name for thread in threading.enumerate()),
        "torch threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "cuda": torch.cuda.is_initialized(),
        "torch random": torch.get_rng_state().sum().item(),
        "python random": hash(random.getstate()),
        "log handlers": len(logging.getLogger().handlers),
        "warnings": len(warnings.filters),
        "folder": os.getcwd(),
    }

seen = []
CODE = {".py", ".pyc", ".so", ".pyi"}
def watch(event, args):
    if event == "open" and isinstance(args[0], str) and pathlib.Path(args[0]).suffix not in CODE:
        seen.append(f"opened {args[0]}")
    elif event in {"subprocess.Popen", "os.system", "socket.connect", "socket.bind"}:
        seen.append(f"{event} {args}")

class Environment(type(os.environ)):
    def __getitem__(self, key):
        caller, depth = sys._getframe(1), 0
        while caller and depth < 3:
            name = caller.f_globals.get("__name__", "").split(".")[0]
            if name in {"legato", "legato_align", "legato_client", "legato_pb"}:
                seen.append(f"{caller.f_globals['__name__']} read ${key}")
                break
            caller, depth = caller.f_back, depth + 1
        return super().__getitem__(key)

before = state()
os.environ.__class__ = Environment
sys.addaudithook(watch)
for name in ours:
    importlib.import_module(name)
watched = list(seen)
after = state()
changed = [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]
print(json.dumps(watched + changed))
"""


def test_importing_has_no_effects() -> None:
    files = [path for path in python_files(SERVICE, CLIENT) if path.name != "__main__.py"]
    ours = [module_name(path) for path in files] + ["legato_pb.inversion_pb2", "legato_pb.inversion_pb2_grpc"]
    names = {name for path in files for name, _ in imports(path) if name.split(".")[0] not in OWN_PACKAGES}
    outside = sorted({name.split(".")[0] for name in names} | {"torch", "grpc", "google.protobuf.message"})
    outside.append("sympy")  # torch brings it in with the first custom op, and it adds a filter of warnings
    outside += sorted(name.rpartition(".")[0] for name in names if name.count(".") and is_importable(name))
    probe = [sys.executable, "-c", PROBE, json.dumps([outside, ours])]
    done = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    effects = json.loads(done.stdout.splitlines()[-1])
    assert effects == []


def is_importable(name: str) -> bool:
    """Whether the part before the last dot is a module, and not a name inside one."""
    try:
        pkgutil.resolve_name(f"{name.rpartition('.')[0]}:__name__")
    except (ImportError, AttributeError):
        return False
    return True


def test_importing_the_client_brings_no_torch_and_no_video() -> None:
    """Both are optional for a client: torch belongs to the server, PyAV is an extra."""
    code = "import sys, legato_client; print(sorted({'torch', 'av', 'legato', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
