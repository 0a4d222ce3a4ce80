"""The command line itself, and `legato doctor`."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest

from legato import cli, config, logs
from legato.errors import LegatoError
from tests.rpc.model import save_tiny_model


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    found = cli.subcommands()
    assert found.keys() >= {"serve", "doctor"}
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    overview = capsys.readouterr().out
    for name in found:
        assert re.search(rf"\n    {name}\s", overview)
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert f"legato {name}" in capsys.readouterr().out


def test_a_switch_of_serve_needs_no_value() -> None:
    parser = cli.build_parser(cli.subcommands())
    for arguments, value in (((), None), (("--allow-model-control",), "true"), (("--allow-model-control=0",), "0")):
        args = parser.parse_args(["serve", *arguments, "--port", "1"])
        assert (vars(args)["server.allow_model_control"], vars(args)["server.port"]) == (value, "1")


def test_serve_s_help_names_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for key in config.all_keys().values():
        assert f"{key.flag} " in text
        if isinstance(key.default, int | float):
            assert f"(default: {str(key.default).lower()})" in text
        if key.setting.unit:
            assert f"; {key.setting.unit} (default" in text


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["serve", "--prot", "1"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: legato" in capsys.readouterr().err


def test_an_expected_error_is_one_line_and_an_interrupt_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor = cli.subcommands()["doctor"]
    for error, code, text in (
        (LegatoError("it is so"), 1, "legato doctor: it is so\n"),
        (KeyboardInterrupt(), 130, ""),
    ):

        def run(args: object, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(doctor, "run", run)
        assert cli.main(["doctor"]) == code
        assert capsys.readouterr().err == text


def test_doctor_tells_what_is_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_model(tmp_path / "tiny")
    assert cli.main(["doctor", "--model", str(model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"].keys() >= {"legato", "torch", "grpcio"}
    assert report["ops"]["flow_warp"] == "cpu"
    assert report["cuda"]["legato_cuda_half"].startswith(("built for ", "not built: "))
    assert all(state.startswith("ok, ") for state in report["model"].values())
    assert report["session"]["bytes_of_state"] > 64 * 64 * 3 * 4, "the last reconstruction alone is that large"
    assert report["flow"]["dis"].startswith("ok, OpenCV ")
    assert any(
        word in report["flow"]["raft"] for word in ("not installed: pip install 'legato[flow]'", "--flow-weights")
    )


def test_doctor_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_model(tmp_path / "tiny")
    (model / "encoder.safetensors").write_bytes(b"broken")
    assert cli.main(["doctor", "--model", str(model)]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " ok, " in lines["generator.safetensors"]
    assert str(model / "encoder.safetensors") in lines["encoder.safetensors"]
    assert " ok, " not in lines["encoder.safetensors"]


def test_doctor_looks_at_raft_s_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, weights = save_tiny_model(tmp_path / "tiny"), tmp_path / "raft.pth"
    weights.write_text("none")
    assert cli.main(["doctor", "--model", str(model), "--flow-weights", str(weights), "--json"]) == 1
    assert f"{weights} cannot be read as a state dict" in json.loads(capsys.readouterr().out)["flow"]["raft"]


def test_log_lines_are_json_for_machines_and_short_for_people() -> None:
    lines = {}
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    try:
        for form in ("json", "human", "auto"):
            stream = io.StringIO()
            logs.configure(form, "info", stream)
            log = logging.getLogger("legato.test")
            log.debug("not this")
            log.info("opened %d", 3, extra={"fields": {"session": "s1"}})
            log.error("failed", exc_info=ValueError("why"))
            lines[form] = stream.getvalue().splitlines()
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    opened, failed = (json.loads(line) for line in lines["json"])
    assert (opened["level"], opened["logger"], opened["message"]) == ("info", "legato.test", "opened 3")
    assert opened["session"] == "s1"
    assert "ValueError: why" in failed["exception"]
    assert lines["human"][0].endswith("info    opened 3 session=s1")
    assert lines["human"][-1] == "ValueError: why"
    assert len(lines["auto"]) == 2, "a file is no terminal"
    json.loads(lines["auto"][0])
