#!/usr/bin/env bash
# Everything that a GPU should run, in one call of less than nine minutes: the build with CUDA, the CUDA tests, the
# sanitizer, the ops beside their alternatives, the streams that the engine holds, the other benchmarks, and the training
# of heads-128 on renders made on the GPU, for the time that is left.
#
#   benchmarks/gpu.sh OUT [TRAINING]
#
# OUT receives a log for every step, ops.json and its picture, engine.json, the exported model, and summary.json.
# TRAINING keeps renders and checkpoint: the next call with the same folder goes on (default: OUT/training). A step that
# fails or runs out of time does not stop the others; the exit code tells whether one did.
#
#   PYTHON              the interpreter that has torch (default: python3). Nothing is installed into it but what is missing
#                       and can be had; the rest is named in the summary, and the steps that need it fail alone.
#   LEGATO_GPU_WHEELS   a folder of wheels to install missing packages from, where there is no network
#   LEGATO_GPU_STEPS    what to do, of: machine packages build tests memcheck racecheck ops engine benchmarks render
#                       train export (default: all); for the ops alone: "machine packages build tests memcheck racecheck ops"
#   LEGATO_GPU_SECONDS  for the whole call (default: 520)
#   LEGATO_GPU_PEERS    a folder of public implementations to measure beside ours (default: peers, where there is one)
#   LEGATO_GPU_MINUTES  for the comparison of the ops (default: 2.5); what does not fit is left out and told
#   LEGATO_GPU_RENDERS  images of the data set (default: 40960)
#   LEGATO_GPU_IMAGES   images of the whole training, over all calls (default: 1200000)
#   LEGATO_GPU_DRY_RUN  1: the same steps on the CPU at tiny sizes, and nothing is built or installed in place
set -uo pipefail

if [ $# -lt 1 ] || { [ $# -gt 2 ] && [ -z "${LEGATO_GPU_STEP:-}" ]; }; then
    echo "usage: $0 OUT [TRAINING]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" "${2:-$1/training}" || exit 1
out=$(cd "$1" && pwd)
training=$(cd "${2:-$1/training}" && pwd)
python=${PYTHON:-python3}
dry=${LEGATO_GPU_DRY_RUN:-0}
steps=${LEGATO_GPU_STEPS:-machine packages build tests memcheck racecheck ops engine benchmarks render train export}
seconds=${LEGATO_GPU_SECONDS:-520}
renders=${LEGATO_GPU_RENDERS:-40960}
images=${LEGATO_GPU_IMAGES:-1200000}
peers=${LEGATO_GPU_PEERS:-peers}
minutes=${LEGATO_GPU_MINUTES:-2.5}
ops_options=()
device=cuda
held_out=512
resolution=128
render_options=()
engine_options=(--minutes 2)
train_options=(--batch 32 --channel-base 8192)
if [ "$dry" = 1 ]; then
    device=cpu resolution=64 renders=1024 images=48 minutes=0.2
    ops_options=(--nets heads-128 --batches 1 --layers '*b8.*' '64 px' --dtypes float32 --seconds 0.02 --no-compile)
    render_options=(--supersample 1)
    engine_options=(--minutes 0.5 --tiny)
    train_options=(--batch 4 --channel-base 64 --channel-max 8 --precision float32 --threads 1)
fi
cd "$root" || exit 1
export PYTHONPATH="$root/service:$root/clients/python" PYTHONUNBUFFERED=1

left() { echo $((seconds - SECONDS)); }

record() { # name, status, seconds, exit code, note
    printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$out/steps.tsv"
    printf '%-12s %-8s %4s s  %s\n' "$1" "$2" "$3" "$5"
}

skip() { record "$1" skipped 0 0 "$2"; }

# step NAME LIMIT FUNCTION...: runs it in a shell of its own, which can be stopped, for at most LIMIT seconds and no longer
# than the call may last; output to NAME.log.
step() {
    local name=$1 limit=$2 begun=$SECONDS status=ok code=0
    shift 2
    case " $steps " in
        *" $name "*) ;;
        *) return 0 ;;
    esac
    [ "$limit" -le "$(left)" ] || limit=$(left)
    if [ "$limit" -lt 5 ]; then
        skip "$name" "no time left"
        return 1
    fi
    LEGATO_GPU_STEP=$1 timeout --kill-after=10 --signal=INT "$limit" \
        bash "$root/benchmarks/gpu.sh" "$out" "$training" "${@:2}" >"$out/$name.log" 2>&1 || code=$?
    case $code in
        0) ;;
        124 | 137) status=timeout ;;
        *) status=failed ;;
    esac
    record "$name" "$status" $((SECONDS - begun)) "$code" "$(tail -n 1 "$out/$name.log" | tr '\t\r' '  ' | cut -c1-200)"
    [ "$code" -eq 0 ]
}

summarize() {
    "$python" - "$out" "$training" "$SECONDS" "$dry" <<'PYTHON'
import json, pathlib, platform, subprocess, sys

out, training, seconds, dry = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
names = ("name", "status", "seconds", "exit_code", "note")
steps = [dict(zip(names, line.split("\t"), strict=True)) for line in (out / "steps.tsv").read_text().splitlines()]
for step in steps:
    step |= {"seconds": int(step["seconds"]), "exit_code": int(step["exit_code"])}
describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
try:
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
except OSError:
    commit = "unknown"
try:
    compared = json.loads((out / "ops.json").read_text())["summary"]
except (OSError, ValueError, KeyError):
    compared = None
try:
    rows = json.loads((out / "engine.json").read_text())["results"]
    streams = [{key: row.get(key) for key in ("resolution", "steps", "held", "floor_streams", "saturated_fps", "lost_share")}
               for row in rows]
except (OSError, ValueError, KeyError):
    streams = None
try:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
except Exception as error:  # the summary is written whatever is broken
    gpu, versions = None, {"torch": str(error)}
log = training / "joint" / "log.jsonl"
rows = log.read_text().splitlines() if log.exists() else []
summary = {
    "commit": commit,
    "dry_run": dry,
    "seconds": seconds,
    "gpu": gpu,
    "versions": {"python": platform.python_version(), **versions},
    "missing": (out / "missing.txt").read_text().split(),
    "steps": steps,
    "ops": compared,
    "engine": streams,
    "training": json.loads(rows[-1]) if rows else None,
    "failed": [step["name"] for step in steps if step["status"] in ("failed", "timeout")],
}
(out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
print(f"{out / 'summary.json'}: {seconds} s, failed: {', '.join(summary['failed']) or 'none'}")
sys.exit(bool(summary["failed"]))
PYTHON
}

machine() {
    uname -a
    if [ "$dry" = 1 ]; then
        echo "dry run on the CPU"
    else
        nvidia-smi && nvcc --version && "$python" -c 'import torch; assert torch.cuda.is_available(); print(torch.__version__)'
    fi
}

packages() { # prints what is missing; installs it, torch excepted, where it can be had
    local wanted missing
    wanted="numpy:numpy cv2:opencv-python-headless safetensors:safetensors tqdm:tqdm rich:rich grpc:grpcio
        grpc_health:grpcio-health-checking grpc_reflection:grpcio-reflection google.protobuf:protobuf
        prometheus_client:prometheus-client simplejpeg:simplejpeg ninja:ninja setuptools:setuptools pytest:pytest
        pytest_asyncio:pytest-asyncio pytest_timeout:pytest-timeout hypothesis:hypothesis matplotlib:matplotlib"
    absent() {
        "$python" - "$wanted" <<'PYTHON'
import importlib, sys
for pair in sys.argv[1].split():
    module, package = pair.split(":")
    try:
        importlib.import_module(module)
    except ImportError:
        print(package)
PYTHON
    }
    missing=$(absent)
    for package in $missing; do
        [ "$dry" = 1 ] && continue
        if [ -n "${LEGATO_GPU_WHEELS:-}" ]; then
            "$python" -m pip install --quiet --no-deps --no-index --find-links "$LEGATO_GPU_WHEELS" "$package"
        else
            "$python" -m pip install --quiet --no-deps --timeout 3 --retries 0 -c constraints.txt "$package"
        fi
    done
    absent >"$out/missing.txt"
    echo "missing: $(tr '\n' ' ' <"$out/missing.txt")"
}

build() {
    local kernels=(csrc/cuda/*.cu) cuda=1
    [ -e "${kernels[0]}" ] && [ "$dry" != 1 ] || cuda=0
    if [ "$dry" = 1 ]; then
        LEGATO_CUDA=$cuda "$python" setup.py --quiet build_ext --build-lib "$out/build" --build-temp "$out/build"
    else
        LEGATO_CUDA=$cuda "$python" setup.py --quiet build_ext --inplace
    fi
}

# pytest with the settings of pyproject.toml, less those of plugins that are missing here.
tests() {
    "$python" - "$out/pytest.ini" <<'PYTHON'
import importlib.util, pathlib, sys, tomllib

table = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["tool"]["pytest"]
for plugin, prefix in (("pytest_asyncio", "asyncio_"), ("pytest_timeout", "timeout")):
    if importlib.util.find_spec(plugin) is None:
        table = {key: value for key, value in table.items() if not key.startswith(prefix)}
table.pop("minversion", None)
lines = ["[pytest]"]
for key, value in table.items():
    if key == "addopts":
        value = " ".join(value)
    elif key in ("testpaths", "pythonpath"):
        value = [str(pathlib.Path(part).resolve()) for part in value]
    lines.append(f"{key} = {value}" if isinstance(value, str) else f"{key} =\n    " + "\n    ".join(value)
                 if isinstance(value, list) else f"{key} = {str(value).lower()}")
pathlib.Path(sys.argv[1]).write_text("\n".join(lines) + "\n")
PYTHON
    local found code=0
    mapfile -t found < <(grep -rl --include='test_*.py' 'mark\.cuda' tests/ops tests/models tests/devices tests/synthetic tests/train 2>/dev/null)
    [ ! -d tests/cuda ] || found+=(tests/cuda) # marked where they are parametrized
    if [ ${#found[@]} -eq 0 ]; then
        echo "no tests are marked cuda"
        return 0
    fi
    local require=1
    [ "$dry" = 1 ] && require=0
    LEGATO_REQUIRE_CUDA=$require "$python" -m pytest -c "$out/pytest.ini" --rootdir "$root" -p no:cacheprovider \
        -m cuda -q "${found[@]}" || code=$?
    [ $code -eq 5 ] && code=0 # none collected
    return $code
}

sanitize() { # tool
    local tool=(compute-sanitizer --tool "$1" --error-exitcode 9)
    [ "$dry" = 1 ] && tool=()
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${tool[@]}" "$python" benchmarks/sanitize.py --device "$device"
}

ops() {
    local options=(--device "$device" --minutes "$minutes" --json "$out/ops.json" "${ops_options[@]}")
    [ ! -d "$peers" ] || options+=(--peers "$peers")
    "$python" -c 'import matplotlib' 2>/dev/null && options+=(--picture "$out/ops.png")
    "$python" -m legato bench ops "${options[@]}"
}

engine() {
    "$python" -m benchmarks.gpu_engine --device "$device" --out "$out/engine.json" "${engine_options[@]}"
}

benchmarks() { # those that take a device
    local script name code=0
    for script in benchmarks/bench_*.py; do
        name=$(basename "$script" .py)
        if "$python" "$script" --help 2>&1 | grep -q -- '--device'; then
            "$python" "$script" --device "$device" --out "$out/$name.json" || code=1
        else
            echo "$name takes no --device: left out"
        fi
    done
    return $code
}

render() { # seconds: as many shards as fit into them; what is there already is kept
    local common=(--dataset "$training/renders" --device "$device" --resolution "$resolution" "${render_options[@]}")
    "$python" -m legato render --split eval --images "$held_out" "${common[@]}" || return 1
    timeout --signal=INT $(($1 - SECONDS)) "$python" -m legato render --split train --images "$renders" "${common[@]}"
    local shards=("$training"/renders/train-*.npz)
    echo "${#shards[@]} shards for training"
    [ ${#shards[@]} -ge 2 ]
}

train() { # minutes, or --export-only
    local more=(--weights-only --export-only)
    [ "$1" = --export-only ] || more=(--weights-only --minutes "$1")
    "$python" -m legato train generator --recipe joint --data "$training/renders" --out "$training/joint" \
        --device "$device" --resolution "$resolution" --images "$images" "${train_options[@]}" "${more[@]}"
}

if [ -n "${LEGATO_GPU_STEP:-}" ]; then # called by `step`
    "$LEGATO_GPU_STEP" "${@:3}"
    exit
fi

: >"$out/steps.tsv"
: >"$out/missing.txt"
trap 'summarize; exit $?' EXIT
step machine 30 machine
step packages 60 packages
kernels=(csrc/cuda/*.cu)
if step build 150 build; then
    step tests 120 tests
else
    skip tests "the build failed"
fi
if [ "$dry" = 1 ] || { [ -e "${kernels[0]}" ] && command -v compute-sanitizer >/dev/null; }; then
    step memcheck 60 sanitize memcheck
    step racecheck 90 sanitize racecheck
else
    skip memcheck "no kernels in csrc/cuda, or no compute-sanitizer"
    skip racecheck "no kernels in csrc/cuda, or no compute-sanitizer"
fi
step ops "$(awk "BEGIN { print int(60 * $minutes) + 45 }")" ops
step engine 150 engine
step benchmarks 90 benchmarks
step render 130 render 120
export_seconds=75
for_training=$(($(left) - export_seconds - 10))
if [ $for_training -ge 10 ]; then
    step train $((for_training + 10)) train "$(awk "BEGIN { print $for_training / 60 }")"
    step export $export_seconds train --export-only
    [ ! -d "$training/joint" ] || cp "$training"/joint/{samples.png,log.jsonl,run.json} "$training"/joint/model/*.safetensors "$out"
else
    skip train "no time left"
fi
