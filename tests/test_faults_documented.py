"""docs/reliability.md names tests; every one of them exists."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
DEFINED = {
    node.name
    for path in TESTS.glob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}


def test_every_test_that_the_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 40
    assert named <= DEFINED, sorted(named - DEFINED)


def test_every_file_that_the_page_names_exists():
    named = set(re.findall(r"`((?:tests|bench)/[\w/]+\.py)", PAGE)) | {
        f"tests/{name}" for name in re.findall(r"`(test_\w+\.py)`", PAGE)
    }
    assert len(named) > 5
    assert all((TESTS.parent / name).is_file() for name in named)


def test_every_fault_names_what_shows_it():
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not set(line) <= set("|- ")]
    assert len(rows) > 30
    for row in rows:
        *_, shown = row.strip("|").split("|")
        assert shown.strip() == "test" or "test" in shown or "search" in shown or "audit" in shown, row


def test_every_fault_test_is_on_the_page():
    """A behaviour that is tested and not written down would be found by nobody."""
    written = set(re.findall(r"`(test_\w+)`", PAGE))
    for path in TESTS.glob("test_faults_*.py"):
        if path != Path(__file__):
            names = [
                n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")
            ]
            assert len(written.intersection(names)) >= len(names) / 2, path
