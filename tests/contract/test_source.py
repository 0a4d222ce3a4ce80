"""Rules of the house that source text can show: sizes, words, and where certain things may stand."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

from tests.contract.source import CLIENT, ROOT, SERVICE, native_files, parse, python_files, relative

PYTHON_LINES = 300
NATIVE_LINES = 400
TEST_LINES = 400

STATUS_CODE_HOMES = {
    "service/legato/errors.py",
    "service/legato/rpc/interceptors.py",
    "clients/python/legato_client/errors.py",
}
ENVIRONMENT_HOMES = {"service/legato/config.py"}

BRITISH = re.compile(
    r"(?:synthesi|normali|optimi|initiali|regulari|equali|quanti|visuali|serialis|coloris|locali)s(?:e|ed|er|es|ing|ation)"
    r"|colour|behaviour|neighbour|favour|centre|grey|licence|metre(?!s?_)|labell|modell",
    re.IGNORECASE,
)


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_modules_stay_small() -> None:
    """A file that outgrows its budget is two ideas."""
    tests = ROOT / "tests"
    budgets = [(path, TEST_LINES if path.is_relative_to(tests) else PYTHON_LINES) for path in python_files()]
    budgets += [(path, NATIVE_LINES) for path in native_files()]
    large = [
        f"{relative(path)}: {count_lines(path)} > {budget}" for path, budget in budgets if count_lines(path) > budget
    ]
    assert not large, "\n".join(large)


def attribute_uses(path: Path, names: set[str]) -> list[str]:
    """Where a file uses an attribute or imports a name out of `names`."""
    found = []
    for node in ast.walk(parse(path)):
        used = (isinstance(node, ast.Attribute) and node.attr in names) or (
            isinstance(node, ast.ImportFrom) and any(alias.name in names for alias in node.names)
        )
        if used:
            assert isinstance(node, ast.Attribute | ast.ImportFrom)
            found.append(f"{relative(path)}:{node.lineno}")
    return found


def test_status_codes_live_with_the_errors() -> None:
    """Everything else raises a LegatoError; which code that is on the wire is decided in one place a side."""
    files = [path for path in python_files(SERVICE, CLIENT) if relative(path) not in STATUS_CODE_HOMES]
    uses = [use for path in files for use in attribute_uses(path, {"StatusCode"})]
    assert not uses, "\n".join(uses)


def test_only_config_reads_the_environment() -> None:
    files = [path for path in python_files(SERVICE, CLIENT) if relative(path) not in ENVIRONMENT_HOMES]
    uses = [use for path in files for use in attribute_uses(path, {"environ", "getenv"})]
    assert not uses, "\n".join(uses)


def is_number(node: ast.expr) -> bool:
    """A literal, signed or computed from literals: `1e-5`, `-1`, `2 * 1e-6`."""
    if isinstance(node, ast.UnaryOp):
        return is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def literal_tolerances(path: Path) -> list[str]:
    found = []
    for call in (node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = {"rel", "abs", "rel_tol", "abs_tol"} if name in {"approx", "isclose"} else {"atol", "rtol"}
        for keyword in call.keywords:
            if keyword.arg in words and is_number(keyword.value):
                found.append(f"{relative(path)}:{call.lineno}: {keyword.arg}={ast.unparse(keyword.value)}")
    return found


def test_tolerances_stand_in_one_table() -> None:
    tests = [path for path in python_files(ROOT / "tests") if path.name != "tolerances.py"]
    found = [use for path in tests for use in literal_tolerances(path)]
    assert not found, "give it a name and a reason in tests/tolerances.py:\n" + "\n".join(found)


def identifiers(path: Path) -> set[str]:
    """Names in a source file, comments and texts left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return {
            token.string
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.NAME
        }
    code = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.DOTALL)
    return set(re.findall(r"[A-Za-z_]\w*", code))


def test_identifiers_are_american() -> None:
    files = [*python_files(), *native_files(), *sorted((ROOT / "protos").rglob("*.proto"))]
    found = [
        f"{relative(path)}: {name}" for path in files for name in sorted(identifiers(path)) if BRITISH.search(name)
    ]
    assert not found, "American spelling, please:\n" + "\n".join(found)
