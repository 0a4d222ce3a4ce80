"""All settings of a server: one frozen tree, built from defaults < TOML file < environment < flags.

    [server]                      LEGATO_SERVER__PORT=50051        legato serve --port 50051
    port = 50051

The environment names a section and a key with two underscores between them, so that what a cluster injects for a
service called "legato" (LEGATO_PORT, LEGATO_SERVICE_HOST) is not taken for a setting. LEGATO_CONFIG names the file.
An unknown key, a wrong type or a value out of range is a ConfigError that says where it came from. Nothing else in
legato reads the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from legato.errors import ConfigError
from legato.settings import Key, setting

PREFIX = "LEGATO_"
DEFAULT_MODEL = "heads-128"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The network face: addresses, limits, times, logs."""

    host: str = setting("127.0.0.1", "address to listen on: an IP, a host name, or unix:/path for a socket file")
    port: int = setting(50051, "gRPC port; 0 takes a free one", minimum=0, maximum=65535)
    metrics_host: str = setting("127.0.0.1", "address of the Prometheus page")
    metrics_port: int = setting(
        9464, "port of the Prometheus page; 0 takes a free one, -1 serves none", minimum=-1, maximum=65535
    )
    ready_file: str = setting("", "file that receives {address, metrics, pid} as JSON once the server answers")
    max_message_bytes: int = setting(8 << 20, "largest request message", unit="bytes", minimum=4096, maximum=1 << 30)
    max_pixels: int = setting(4096 * 4096, "largest input image, width times height", unit="pixels", minimum=256)
    max_edits: int = setting(16, "most edits on one image", minimum=0, maximum=1024)
    max_variants: int = setting(16, "most further edited images of one frame", minimum=0, maximum=1024)
    max_clip_frames: int = setting(128, "most frames of a clip in InvertClip", unit="frames", minimum=1)
    max_clip_steps: int = setting(1000, "most steps of a method in InvertClip", unit="steps", minimum=1)
    credits: int = setting(4, "frames one stream may have in flight", unit="frames", minimum=1, maximum=1024)
    deadline_seconds: float = setting(
        0.1,
        "answer time after arrival that counts as on time, unless the client asks otherwise",
        unit="seconds",
        minimum=0.001,
    )
    resume_seconds: float = setting(60.0, "how long a session without a stream is kept", unit="seconds", minimum=0.0)
    drain_seconds: float = setting(
        10.0, "how long streams may go on after a stop was asked for", unit="seconds", minimum=0.0
    )
    heartbeat_seconds: float = setting(
        10.0, "silence of the engine after which health answers NOT_SERVING", unit="seconds", minimum=0.1
    )
    codec_threads: int = setting(2, "threads that decode and encode images", unit="threads", minimum=1, maximum=256)
    allow_model_control: bool = setting(False, "let clients load and unload models; there is no authentication")
    face_detector: str = setting(
        "auto",
        "finds the faces of sessions that ask for alignment (docs/footage.md)",
        choices=("auto", "yunet", "haar", "lbp", "mediapipe"),
    )
    face_model: str = setting("", "file of the face detector: YuNet's .onnx or MediaPipe's .task")
    log_format: str = setting("auto", "auto: human on a terminal, else json", choices=("auto", "human", "json"))
    log_level: str = setting(
        "info", "least severe log line that is written", choices=("debug", "info", "warning", "error")
    )

    def __post_init__(self) -> None:
        _check_section(self)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The thread that owns the device: model, capacity, batching, work per frame."""

    model: str = setting(
        "",
        "the default model: one that ships with legato, a folder with generator.safetensors, or a name in --models; "
        f"empty: {DEFAULT_MODEL}, or the first in --models",
    )
    models: str = setting(
        "", "folder of models to serve: NAME/VERSION/generator.safetensors, or NAME/ without versions"
    )
    encoder: str = setting(
        "", "file of that model's encoder, legato's own or a pSp or e4e checkpoint; empty: the model's own"
    )
    directions: str = setting("", "file of the directions to edit along (`legato directions`); empty: the model's own")
    device: str = setting("cpu", "where the model computes: cpu, cuda, cuda:N, or auto: a GPU where there is one")
    deltas: str = setting(
        "", "folder of deltas (`legato tune`) that a session may be opened with, as MODEL+NAME; empty: none"
    )
    max_sessions: int = setting(16, "sessions that may exist at once", unit="sessions", minimum=1, maximum=65536)
    queue_size: int = setting(64, "frames waiting for the engine, over all sessions", unit="frames", minimum=1)
    batch_buckets: tuple[int, ...] = setting(
        (1, 2, 4, 8), "batch sizes that are warmed and run", unit="frames", minimum=1
    )
    batch_invariant: bool = setting(
        False, "a frame's result is the same bit for bit whoever is served beside it; batches of one"
    )
    in_flight: int = setting(
        32, "frames that may be between their encoding and their answer", unit="frames", minimum=1, maximum=65536
    )
    max_wait_seconds: float = setting(
        0.002, "longest wait for more frames to join a batch", unit="seconds", minimum=0.0, maximum=1.0
    )
    max_steps: int = setting(16, "most gradient steps a client may ask for on one frame", unit="steps", minimum=0)
    clips: int = setting(
        4, "clips of InvertClip that may wait or be worked on; one is worked on at a time", unit="clips", minimum=1
    )
    clip_rows: int = setting(
        2, "frames of a clip that are computed at a time; a stream's frame waits for so many", unit="frames", minimum=1
    )
    threads: int = setting(
        0, "CPU threads for the model; 0 leaves it to torch", unit="threads", minimum=0, maximum=1024
    )
    precision: str = setting(
        "auto",
        "numbers inside the convolutions; auto: bfloat16 where the device has it",
        choices=("auto", "float32", "bfloat16"),
    )
    flow: str = setting(
        "dis",
        "optical flow between frames that come without, where --refine-flow-weight asks: OpenCV's DIS or RAFT",
        choices=("dis", "raft"),
    )
    flow_weights: str = setting("", "file of RAFT's weights, torchvision's raft_small or raft_large")
    residual_steps: int = setting(
        0, "steps of the residual encoder on every frame, where the model has one", unit="steps", minimum=0, maximum=4
    )
    refine_lr: float = setting(
        0.2, "rate of a gradient step, in standard deviations of a correction", minimum=0.0, maximum=1.0
    )
    refine_flow_weight: float = setting(
        0.0, "weight of flow consistency in a step, beside 1 for the pixels; 0 finds no flow", minimum=0.0
    )
    refine_prior_weight: float = setting(0.0, "weight that holds the correction small", minimum=0.0)
    refine_smoothing: float = setting(
        0.5, "weight of the newest correction in the running mean that is shown", minimum=0.01, maximum=1.0
    )
    window_share: float = setting(
        0.5,
        "share of the time that frames leave, for the streams' windows; 0: none",
        minimum=0.0,
        maximum=1.0,
    )
    window_keyframes: int = setting(8, "keyframes that a stream's window holds", minimum=1, maximum=64)
    window_rows: int = setting(
        2, "keyframes that are computed at a time; a stream's frame may wait for so many", minimum=1, maximum=64
    )
    max_window_steps: int = setting(
        4, "most steps a client may ask for on its window after each frame, idle or not", unit="steps", minimum=0
    )
    window_blend_seconds: float = setting(
        0.2, "time in which a stream follows its window", unit="seconds", minimum=0.01, maximum=60.0
    )

    def __post_init__(self) -> None:
        _check_section(self)
        buckets = self.batch_buckets
        if list(buckets) != sorted(set(buckets)) or buckets[:1] != (1,):
            raise ConfigError(f"engine.batch_buckets are rising sizes that begin with 1, as 1,2,4; got {list(buckets)}")
        if (self.flow == "raft") != bool(self.flow_weights):
            raise ConfigError(
                "engine.flow raft and engine.flow_weights go together (--flow raft --flow-weights FILE); "
                f"got flow {self.flow!r} and flow_weights {self.flow_weights!r}"
            )

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that are run. Most kernels sum in another order in another batch; not so in one of one."""
        return (1,) if self.batch_invariant else self.batch_buckets

    @property
    def share(self) -> float:
        """Of the time, for windows. What one finds depends on the compute that others leave it."""
        return 0.0 if self.batch_invariant else self.window_share

    @property
    def most_window_steps(self) -> int:
        """That a client may ask for, where there are windows."""
        return self.max_window_steps if self.share else 0


@dataclass(frozen=True, slots=True)
class Config:
    """The whole tree. Values are checked at birth, wherever they come from."""

    server: ServerConfig = field(default_factory=ServerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


SECTIONS: Mapping[str, type[ServerConfig] | type[EngineConfig]] = {"server": ServerConfig, "engine": EngineConfig}


@cache
def all_keys() -> Mapping[str, Key]:
    """Every key of the tree by its full name, in the order in which it is written above."""
    found: dict[str, Key] = {}
    for section, cls in SECTIONS.items():
        hints = get_type_hints(cls)
        for item in fields(cls):
            name = f"{section}.{item.name}"
            found[name] = Key(name, hints[item.name], item.default, item.metadata["setting"])
    return found


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Config:
    """The tree from defaults < file < environment < flags ({"section.name": text as typed}).

    `path` is a TOML file (default: the one that LEGATO_CONFIG names, if any); `environ` defaults to os.environ.
    Raises ConfigError for an unreadable file, an unknown key, a wrong type or a value out of range.
    """
    environ = os.environ if environ is None else environ
    path = path or environ.get(PREFIX + "CONFIG")
    chosen: dict[str, Any] = {}
    for name, value in (_file_values(Path(path)) if path else {}).items():
        chosen[name] = _known(name, f"in {path}").check(value, f" (in {path})")
    for variable, text in sorted(environ.items()):
        section, parted, key = variable.removeprefix(PREFIX).lower().partition("__")
        if variable.startswith(PREFIX) and parted:
            name = f"{section}.{key}"
            chosen[name] = _known(name, f"from {variable}").parse(text, f" (from {variable})")
    for name, text in (flags or {}).items():
        known = _known(name, "from the command line")
        chosen[name] = known.parse(text, f" (from {known.flag})")
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in chosen.items():
        section, _, key = name.partition(".")
        sections[section][key] = value
    return Config(ServerConfig(**sections["server"]), EngineConfig(**sections["engine"]))


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where legato keeps what it can make again: below XDG_CACHE_HOME, or else ~/.cache. It need not exist."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "legato"


def _file_values(path: Path) -> dict[str, Any]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from error
    values: dict[str, Any] = {}
    for section, table in tree.items():
        if not isinstance(table, dict):
            raise ConfigError(f"unknown key {section!r} in {path}: keys live in [{'], ['.join(SECTIONS)}]")
        for key, value in table.items():
            known = all_keys().get(f"{section}.{key}")
            whole = known is not None and known.type is float and type(value) is int
            values[f"{section}.{key}"] = float(value) if whole else tuple(value) if isinstance(value, list) else value
    return values


def _known(name: str, origin: str) -> Key:
    known = all_keys()
    if name not in known:
        section = name.partition(".")[0] + "."
        near = [key for key in known if key.startswith(section)] or [f"{key}.*" for key in SECTIONS]
        raise ConfigError(f"unknown key {name!r} {origin}; known: {', '.join(near)}")
    return known[name]


def _check_section(section: ServerConfig | EngineConfig) -> None:
    for key in all_keys().values():
        where, _, name = key.name.partition(".")
        if SECTIONS[where] is type(section):
            key.check(getattr(section, name))
