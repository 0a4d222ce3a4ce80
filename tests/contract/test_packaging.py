"""Versions agree wherever they are written, and everything imported is declared."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import legato
from tests.contract.source import CLIENT, OWN_PACKAGES, ROOT, SERVICE, imports, python_files, relative


def project(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def requirements(folder: Path, *extras: str) -> dict[str, Requirement]:
    table = project(folder)
    lines = [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def test_versions_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert newest, "CHANGELOG.md has no heading like '## [1.2.3] - date'"
    assert newest[1] == legato.__version__, "the newest heading of CHANGELOG.md is not legato.__version__"
    assert project(CLIENT)["version"] == legato.__version__
    assert str(requirements(ROOT)["legato-client"].specifier) == f"=={legato.__version__}"


@pytest.mark.parametrize(("folder", "code"), [(ROOT, SERVICE), (CLIENT, CLIENT)], ids=["legato", "legato-client"])
def test_imports_are_declared(folder: Path, code: Path) -> None:
    """A dependency that only the development environment has would be missed by the first user."""
    declared = requirements(folder, *(extra for extra in project(folder)["optional-dependencies"] if extra != "dev"))
    providers = packages_distributions()
    missing = []
    for path in python_files(code):
        for name, line in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in OWN_PACKAGES:
                continue
            # google is shared by protobuf and googleapis-common-protos, grpc_health by one: any provider will do.
            if not {canonicalize_name(provider) for provider in providers.get(top, [])} & declared.keys():
                missing.append(f"{relative(path)}:{line} imports {name}")
    assert not missing, "not among the dependencies of pyproject.toml:\n" + "\n".join(missing)


def test_dependencies_are_pinned_and_torch_stands_first() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert pins[0].name == "torch"
    pinned = {canonicalize_name(pin.name) for pin in pins}
    wanted = requirements(ROOT, *project(ROOT)["optional-dependencies"]).keys() | requirements(CLIENT, "video").keys()
    assert wanted - pinned == {"legato-client"}


def test_declared_ranges_hold_the_pins() -> None:
    """What is installed here from the pins satisfies both pyproject.toml; `perceptual` and `flow` need not be here."""
    wanted = requirements(ROOT, *project(ROOT)["optional-dependencies"]) | requirements(CLIENT, "video")
    optional = requirements(ROOT, "perceptual", "flow").keys() - requirements(ROOT).keys()
    absent = {name for name in optional if importlib.util.find_spec(name) is None}
    found = {name: version(name) for name in wanted.keys() - absent}
    outside = [
        str(wanted[name]) for name in found if not wanted[name].specifier.contains(found[name], prereleases=True)
    ]
    assert not outside, f"installed versions do not satisfy {outside}"
