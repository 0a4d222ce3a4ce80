"""The metrics page: names, labels, counts."""

from __future__ import annotations

import math
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from legato.errors import ConfigError
from legato.metrics import FRAME_PERIODS, Metrics, MetricsPage
from legato.options import DropReason, Settings
from legato.types import FrameAnswer
from legato.work import Failed, Work

CONTRACT = {
    "legato_frames_received_total",
    "legato_frames_completed_total",
    "legato_frames_on_time_total",
    "legato_frames_dropped_total",
    "legato_frames_failed_total",
    "legato_frame_age_seconds_bucket",
    "legato_frame_stage_duration_seconds_bucket",
    "legato_batch_size_bucket",
    "legato_refine_steps_bucket",
    "legato_reconstruction_psnr_db_bucket",
    "legato_queue_depth",
    "legato_sessions_active",
    "legato_sessions_total",
    "legato_session_resumes_total",
    "legato_clip_inversions_total",
    "legato_clip_seconds_bucket",
    "legato_clip_steps_total",
    "legato_model_versions",
    "legato_model_sessions",
    "legato_model_loads_total",
    "legato_model_load_seconds_bucket",
    "legato_engine_heartbeat_timestamp_seconds",
    "legato_op_info",
    "legato_build_info",
}


def scrape(address: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a metrics page: (name, labels) -> value."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        text = page.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def test_every_metric_of_the_contract_is_on_the_page() -> None:
    metrics = Metrics(version="1.2.3")
    metrics.ops({"flow_warp": "cpu"})
    metrics.answered(0.03, 0.1, {"decode": 0.001, "unheard of": 0.1})
    metrics.batch("encode", 3, 0.01)
    metrics.model("face", 2, 5)
    metrics.model_load("face", "failed", 3.0)
    page = MetricsPage(metrics.registry, "127.0.0.1", 0)
    try:
        samples = scrape(page.address)
    finally:
        page.close()
    assert {name for name, _ in samples} >= CONTRACT
    assert samples["legato_build_info", (("version", "1.2.3"),)] == 1
    assert samples["legato_op_info", (("implementation", "cpu"), ("op", "flow_warp"))] == 1
    assert samples["legato_frame_stage_duration_seconds_count", (("stage", "other"),)] == 1
    assert samples["legato_model_versions", (("model", "face"),)] == 2
    assert samples["legato_model_sessions", (("model", "face"),)] == 5
    assert samples["legato_model_loads_total", (("model", "face"), ("outcome", "failed"))] == 1
    assert samples["legato_batch_size_bucket", (("le", "4.0"), ("stage", "encode"))] == 1
    assert samples["legato_batch_size_bucket", (("le", "2.0"), ("stage", "encode"))] == 0


def test_frames_are_counted_by_what_became_of_them() -> None:
    metrics = Metrics(version="x")
    work = Work(1, None, Settings(), 0.0)
    for outcome in (FrameAnswer(1, None, None, None, math.nan, 0, 1, {}), Failed("X", "x"), *DropReason):
        metrics.settled(work, outcome)
    value = metrics.registry.get_sample_value
    assert value("legato_frames_completed_total") == 1
    assert value("legato_frames_failed_total") == 1
    for reason in DropReason:
        assert value("legato_frames_dropped_total", {"reason": reason.value.lower()}) == 1


def test_a_frame_is_on_time_within_its_deadline() -> None:
    metrics = Metrics(version="x")
    for age in (0.05, 0.1, 0.11):
        metrics.answered(age, 0.1, {})
    assert metrics.registry.get_sample_value("legato_frames_on_time_total") == 2
    assert metrics.registry.get_sample_value("legato_frame_age_seconds_bucket", {"le": "0.1"}) == 2


def test_buckets_stand_at_frame_periods() -> None:
    assert list(FRAME_PERIODS) == sorted(FRAME_PERIODS)
    assert {1 / 120, 1 / 60, 1 / 30, 1 / 25} <= set(FRAME_PERIODS)


def test_two_servers_share_nothing() -> None:
    first, second = Metrics(version="x"), Metrics(version="x")
    first.received()
    assert second.registry.get_sample_value("legato_frames_received_total") == 0


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    metrics = Metrics(version="x")
    page = MetricsPage(metrics.registry, "127.0.0.1", 0)
    port = int(page.address.split(":")[1])
    try:
        with pytest.raises(ConfigError, match=f"metrics port {port} of 127.0.0.1 is taken; .*--metrics-port"):
            MetricsPage(metrics.registry, "127.0.0.1", port)
    finally:
        page.close()
    MetricsPage(metrics.registry, "127.0.0.1", port).close()
