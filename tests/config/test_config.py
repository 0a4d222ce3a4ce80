"""One tree of settings: where a value comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from legato.config import Config, EngineConfig, ServerConfig, all_keys, load
from legato.errors import ConfigError


def test_defaults_listen_on_loopback_only() -> None:
    config = load(environ={})
    assert config == Config()
    assert config.server.host == config.server.metrics_host == "127.0.0.1"


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "legato.toml"
    file.write_text("[server]\nport = 1\ncredits = 1\nmax_edits = 1\n[engine]\nbatch_buckets = [1, 3]\n")
    environ = {"LEGATO_SERVER__PORT": "2", "LEGATO_SERVER__CREDITS": "2", "PATH": "/bin"}
    config = load(file, environ, {"server.port": "3"})
    assert (config.server.port, config.server.credits, config.server.max_edits) == (3, 2, 1)
    assert config.engine.batch_buckets == (1, 3)
    assert config.server.max_pixels == ServerConfig().max_pixels


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "legato.toml"
    file.write_text("[server]\nresume_seconds = 7\n")
    assert load(environ={"LEGATO_CONFIG": str(file)}).server.resume_seconds == 7.0


def test_what_a_cluster_injects_for_a_service_called_legato_is_no_setting() -> None:
    assert load(environ={"LEGATO_PORT": "tcp://10.0.0.1:50051", "LEGATO_SERVICE_HOST": "10.0.0.1"}) == Config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flags": {"server.prt": "1"}}, r"unknown key 'server.prt' from the command line; known: server.host, "),
        ({"environ": {"LEGATO_SERVER__PRT": "1"}}, "unknown key 'server.prt' from LEGATO_SERVER__PRT"),
        ({"environ": {"LEGATO_OTHER__PORT": "1"}}, r"unknown key 'other.port' .*; known: server\.\*, engine\.\*"),
        ({"environ": {"LEGATO_SERVER__PORT": "x"}}, "server.port is an integer .*; got 'x' .from LEGATO_SERVER__PORT."),
        (
            {"flags": {"server.port": "65536"}},
            r"server.port is an integer between 0 and 65535; got 65536 .from --port.",
        ),
        ({"flags": {"server.drain_seconds": "nan"}}, "a finite number of seconds from 0 up; got nan"),
        ({"flags": {"server.drain_seconds": "inf"}}, "a finite number of seconds from 0 up; got inf"),
        ({"flags": {"server.log_format": "xml"}}, "server.log_format is one of auto, human, json; got 'xml'"),
        ({"flags": {"server.allow_model_control": "maybe"}}, "allow_model_control is true or false; got 'maybe'"),
        ({"flags": {"engine.batch_buckets": "1,4,2"}}, "rising sizes that begin with 1"),
        ({"flags": {"engine.batch_buckets": "2,4"}}, r"rising sizes that begin with 1, as 1,2,4; got \[2, 4\]"),
        ({"flags": {"engine.batch_buckets": "1,,2"}}, "a list of integers such as 1,2,4"),
        ({"flags": {"engine.flow": "raft"}}, "--flow raft --flow-weights FILE.*; got flow 'raft' and flow_weights ''"),
        ({"flags": {"engine.flow_weights": "raft.pth"}}, "got flow 'dis' and flow_weights 'raft.pth'"),
        ({"path": "/nowhere/legato.toml"}, "/nowhere/legato.toml cannot be read: No such file"),
    ],
)
def test_what_cannot_be_right_is_refused_with_its_origin(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(**{"environ": {}, **arguments})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 1", r"unknown key 'port' in .*: keys live in \[server\], \[engine\]"),
        ("[server]\nprt = 1", "unknown key 'server.prt' in "),
        ("[servers]\nport = 1", "unknown key 'servers.port' in "),
        ("[server]\nport = '1'", "server.port is an integer .*; got '1' .in "),
        ("[server]\nport = true", "server.port is an integer .*; got True"),
        ("[server]\nallow_model_control = 1", "allow_model_control is true or false; got 1 .in "),
        ("[server]\nport = 1.0", "server.port is an integer .*; got 1.0"),
        ("[engine]\nbatch_buckets = 4", "a list of integers"),
        ("[engine]\nbatch_buckets = [1, 'x']", "a list of integers"),
        ("[server", "is not TOML"),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "legato.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(file, {})


def test_a_switch_is_true_or_false(tmp_path: Path) -> None:
    file = tmp_path / "legato.toml"
    file.write_text("[server]\nallow_model_control = true\n")
    assert load(file, {}).server.allow_model_control is True
    assert load(file, {"LEGATO_SERVER__ALLOW_MODEL_CONTROL": "0"}).server.allow_model_control is False
    assert load(environ={}, flags={"server.allow_model_control": "True"}).server.allow_model_control is True


def test_values_are_checked_wherever_they_come_from() -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_sessions is an integer of sessions"):
        EngineConfig(max_sessions=0)
    with pytest.raises(ConfigError, match=r"server\.credits"):
        ServerConfig(credits=1.5)  # type: ignore[arg-type]


def test_every_key_has_help_and_a_flag_of_its_own() -> None:
    keys = list(all_keys().values())
    assert len({key.flag for key in keys}) == len(keys)
    assert all(key.setting.help for key in keys)
    assert all(key.check(key.default) == key.default for key in keys)
