"""docs/server.md names what is there: every reason, every metric, every option that it shows."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics_core import Metric

from legato import config
from legato.errors import LegatoError
from legato.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
OFFLINE = {"DIVERGED", "OTHER_SOLVE"}  # of training and of long solves, never on the wire
STARTUP = {"CONFIG", "BACKEND_UNAVAILABLE"}  # a line on stderr, never on the wire


def classes(base: type[LegatoError]) -> list[type[LegatoError]]:
    return [base, *(found for child in base.__subclasses__() for found in classes(child))]


def test_every_reason_is_on_the_page() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "service" / "legato").rglob("*.py")]
    given = {reason for source in sources for reason in re.findall(r'reason="([A-Z_]+)"', source)}
    given |= {error.reason for error in classes(LegatoError)}
    listed = set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", PAGE))
    assert given - OFFLINE - STARTUP <= listed


def test_the_page_names_the_metrics_and_no_others() -> None:
    families: list[Metric] = list(Metrics(version="x").registry.collect())
    there = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert set(re.findall(r"`(legato_[a-z_]+)", PAGE)) == there


def test_the_page_names_options_that_exist() -> None:
    flags = {key.flag for key in config.all_keys().values()} | {"--config", "--help"}
    for command in ("models_command.py", "stream_command.py"):
        code = (ROOT / "clients" / "python" / "legato_client" / command).read_text(encoding="utf-8")
        flags |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', code))
    assert set(re.findall(r"(--[a-z][a-z-]+)", PAGE)) <= flags
