"""What is found in a folder of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from legato.errors import ConfigError, NotFound
from legato.repository import Repository, Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in ("face/1", "face/2", "face/10", "face/11.partial", "face/007", "car", ".hidden/1", "a@b/1", "_old/1"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "generator.safetensors").write_bytes(b"x")
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "face" / "12").write_text("a file, and no version")
    return tmp_path


def test_versions_are_whole_numbers_the_newest_first(folder: Path) -> None:
    repository = Repository(folder)
    assert repository.names == ["car", "face"]
    assert [source.label for source in repository.versions("face")] == ["face@10", "face@2", "face@1"]
    assert repository.find("face") == Source("face", "10", str(folder / "face" / "10"))
    assert repository.find("face", "2").path == str(folder / "face" / "2")


def test_a_folder_without_versions_is_one_model(folder: Path) -> None:
    (source,) = Repository(folder).versions("car")
    assert (source.label, source.path) == ("car", str(folder / "car"))


def test_a_version_is_there_as_soon_as_it_has_its_number(folder: Path) -> None:
    repository = Repository(folder)
    (folder / "face" / "11.partial").rename(folder / "face" / "11")
    assert repository.find("face").version == "11"


@pytest.mark.parametrize("name", ["", "nobody", "../face", "face/1", ".hidden", "a@b", "_old", "/etc", "README.md"])
def test_a_name_that_is_not_listed_is_not_found(folder: Path, name: str) -> None:
    with pytest.raises(NotFound, match=r"there are: 'car', 'face'") as unknown:
        Repository(folder / "face" / "..").find(name)
    assert unknown.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("version", ["3", "../1", "01", "007", "11.partial", "12"])
def test_a_version_that_is_not_there_is_not_found(folder: Path, version: str) -> None:
    with pytest.raises(NotFound, match=r"no version .*; there are: 10, 2, 1"):
        Repository(folder).find("face", version)


def test_a_model_from_elsewhere_comes_first(folder: Path) -> None:
    single = Source("own", "", "/somewhere/own")
    repository = Repository(folder, single)
    assert repository.names == ["own", "car", "face"]
    assert repository.find("own") is single
    assert Repository(None, single).names == ["own"]


def test_files_tell_of_a_change(folder: Path) -> None:
    source = Repository(folder).find("face", "1")
    before = source.files()
    assert before == source.files()
    (folder / "face" / "1" / "encoder.safetensors").write_bytes(b"y")
    assert source.files() != before
    assert Source("heads-128", "", "heads-128").files() == Source("x", "", "").files() == ()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder of models at .*nowhere; --models names one"):
        Repository(tmp_path / "nowhere")
