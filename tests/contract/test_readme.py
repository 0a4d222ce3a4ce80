"""README.md promises only what is there: every command, option, file and import that it shows."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from functools import cache

import pytest

from tests.contract.source import ROOT

README = ROOT / "README.md"
PROGRAMS = {"legato": "legato", "legato-client": "legato_client"}

pytestmark = pytest.mark.skipif(not README.exists(), reason="README.md is not written yet")


def blocks(*languages: str) -> list[str]:
    """The fenced code blocks in one of `languages`."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in fences if language in languages]


def commands() -> list[list[str]]:
    """The words of every shell line, without prompt, comment and leading settings of variables."""
    found = []
    for block in blocks("sh", "bash", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.match(r"\w+=", words[0]):
                words = words[1:]
            if words:
                found.append([words[0].rpartition("/")[2], *words[1:]])
    return found


@cache
def help_text(module: str, *subcommand: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *subcommand, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"`{' '.join([module, *subcommand])} --help` fails:\n{done.stderr}"
    return done.stdout


def test_readme_shows_the_two_commands() -> None:
    shown = [words[:2] for words in commands()]
    assert ["make", "demo"] in shown
    assert ["make", "test"] in shown


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    shown = {word for words in commands() if words[0] == "make" for word in words[1:] if re.fullmatch(r"[a-z]+", word)}
    assert shown <= targets, f"no such targets: {sorted(shown - targets)}"


def test_subcommands_and_options_exist() -> None:
    for program, subcommand, *rest in (words for words in commands() if words[0] in PROGRAMS):
        text = help_text(PROGRAMS[program], subcommand)
        options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        unknown = sorted(option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text))
        assert not unknown, f"`{program} {subcommand}` has no {unknown}"


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README.read_text(encoding="utf-8"))
    missing = sorted({link for link in links if not (ROOT / link).exists()})
    assert not missing, f"README.md links to {missing}"


def test_python_examples_use_what_exists() -> None:
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{node.module} has no {missing}"
