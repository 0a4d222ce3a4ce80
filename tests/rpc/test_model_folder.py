"""What of a folder of models is served, what may be loaded from it, and by whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from legato.errors import ConfigError, ModelFileError
from tests.rpc.repository import Shelf, Versions, damage, serving
from tests.rpc.wire import refusal


def test_loading_and_unloading_are_off_unless_they_are_allowed(shelf: Shelf) -> None:
    shelf.put("face/1")
    with serving(shelf.folder, allow_model_control=False) as running:
        for call in (running.load, running.unload):
            refused = refusal(call, "face")
            assert (refused.code, refused.reason) == ("PERMISSION_DENIED", "MODEL_CONTROL_OFF")
            assert "--allow-model-control" in refused.message
        assert running.listed() == {"face@1": "READY"}


@pytest.mark.parametrize("name", ["nobody", "../models/face", "", "face@1"])
def test_only_what_lies_in_the_folder_can_be_loaded(face: Versions, name: str) -> None:
    refused = refusal(face.load, name)
    assert (refused.code, refused.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert refusal(face.load, "face", "../1").reason == "MODEL_NOT_FOUND"


def test_a_server_starts_with_the_newest_version_that_can_be_served(shelf: Shelf) -> None:
    shelf.put("face/1")
    damage(shelf.put("face/2", seed=1))
    damage(shelf.put("car"))
    with serving(shelf.folder) as running:
        assert running.opened() == "face@1"
        assert running.listed() == {"face@2": "FAILED", "face@1": "READY", "car": "FAILED"}


def test_what_has_no_default_model_does_not_start(shelf: Shelf) -> None:
    (shelf.folder / "face").rmdir()
    with pytest.raises(ConfigError, match="there is no model to serve"), serving(shelf.folder):
        pass
    shelf.put("face")
    damage(shelf.put("car"))
    with pytest.raises(ModelFileError, match="damaged"), serving(shelf.folder, model="car"):
        pass
    with pytest.raises(ModelFileError, match="no model is named 'bus'"), serving(shelf.folder, model="bus"):
        pass


def test_a_model_from_elsewhere_is_served_beside_the_folder(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("face/1")
    own = Shelf(shelf._saved, tmp_path).put("own", seed=1)
    with serving(shelf.folder, model=str(own)) as running:
        assert (running.opened(), running.opened("face")) == ("own", "face@1")
        assert running.listed() == {"own": "READY", "face@1": "READY"}
    with serving(shelf.folder, model="face") as running:
        assert running.listed() == {"face@1": "READY"}
