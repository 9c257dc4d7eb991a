"""What is written in more than one place about the package: versions, dependencies, Pythons."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import igtl
from tests.conftest import pytest_terminal_summary

ROOT = Path(__file__).parent.parent
if not (ROOT / "conda").is_dir():
    pytest.skip("installed without the sources", allow_module_level=True)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
PYTHONS = [
    line.rpartition(" ")[2]
    for line in PROJECT["classifiers"]
    if re.search(r"Python :: 3\.\d+$", line)
]


def recipe() -> dict[str, Any]:
    yaml = pytest.importorskip("ruamel.yaml").YAML(typ="safe")
    found: dict[str, Any] = yaml.load((ROOT / "conda" / "recipe.yaml").read_text("utf-8"))
    return found


def plain(requirements: list[str]) -> set[str]:
    return {each.replace(" ", "") for each in requirements}


def test_one_version() -> None:
    assert PROJECT["version"] == igtl.__version__
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.M) == [igtl.__version__]
    assert recipe()["context"]["version"] == igtl.__version__
    newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest is not None
    assert newest[1] in ("Unreleased", igtl.__version__)


def test_the_conda_recipe_says_what_pyproject_says() -> None:
    conda = recipe()
    required = conda["requirements"]
    build = set(PYPROJECT["build-system"]["requires"])
    assert plain(required["host"]) == build | {"python", "pip"}
    assert plain(required["run"]) == set(PROJECT["dependencies"]) | {"python"}
    (script,) = PROJECT["scripts"].items()
    assert conda["build"]["python"]["entry_points"] == [" = ".join(script)]
    assert conda["about"]["license"] == PROJECT["license"]
    assert conda["about"]["summary"] == PROJECT["description"]
    assert (ROOT / conda["about"]["license_file"]).is_file()


def test_the_same_pythons_everywhere() -> None:
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    minors = [int(each.partition(".")[2]) for each in PYTHONS]
    assert minors == list(range(minors[0], minors[0] + len(minors)))
    wheels = PYPROJECT["tool"]["cibuildwheel"]["build"].split()
    assert wheels == [f"cp3{minor}-*" for minor in minors]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert f"python: {json.dumps(PYTHONS)}" in workflow
    variants = (ROOT / "conda" / "variants.yaml").read_text("utf-8")
    assert re.findall(r"- (3\.\d+)\.", variants) == PYTHONS


def test_the_source_distribution_has_the_tests_that_wheels_are_tested_with() -> None:
    grafted = re.findall(r"^graft (.+)$", (ROOT / "MANIFEST.in").read_text("utf-8"), re.M)
    wheels = PYPROJECT["tool"]["cibuildwheel"]["test-sources"]
    assert {*grafted, "pyproject.toml"} == set(wheels)


def test_what_releasing_tells_to_run_is_there() -> None:
    text = (ROOT / "RELEASING.md").read_text("utf-8")
    scripts = set(re.findall(r"^ +((?:\.ci|ci|interop)/[\w-]+)", text, re.M))
    assert len(scripts) > 4
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o111, script


def told(*reasons: str) -> list[str]:
    """What stands at the end of a run whose tests were skipped for these reasons."""
    lines: list[str] = []
    reports = [SimpleNamespace(longrepr=("file.py", 1, f"Skipped: {each}")) for each in reasons]
    reporter = SimpleNamespace(
        stats={"skipped": reports}, write_line=lambda text, **style: lines.append(text)
    )
    list(pytest_terminal_summary(reporter))
    return lines


def test_the_last_line_of_a_run_names_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    slicer, library = "slicer-core is not installed", "Debian's libopenigtlink-dev is not installed"
    reasons = (slicer, library, slicer, "cmake is not installed", "no multicast")
    for user, peers in ((0, "ci/peers"), (1000, "sudo ci/peers")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user, raising=False)
        assert told(*reasons) == [
            (
                "4 skipped for want of Debian's libopenigtlink-dev (1), cmake (1), slicer-core (2); "
                f"to install what is missing: {peers} && ci/slicer"
            )
        ]
    (line,) = told("could not import 'mcap': No module named 'mcap'")
    assert line.startswith(
        "1 skipped for want of mcap (1); to install what is missing: .venv/bin/pip"
    )
    assert told("no multicast") == []
