"""The scenarios of interop/plus: against the simulated PlusServer, and a real one where there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import igtl
from interop.plus import __main__ as runner
from interop.plus.scenarios import SCENARIOS
from interop.plus.server import missing, running

scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)


@pytest.fixture(scope="module")
def simulated() -> Iterator[int]:
    with igtl.simulate.plus(port=0, size=(64, 48)) as server:
        yield server.port


@pytest.fixture(scope="module")
def real() -> Iterator[int]:
    if why := missing():
        pytest.skip(why)
    with running() as port:
        yield port


@scenarios
def test_simulated(scenario: Callable[[int], None], simulated: int) -> None:
    scenario(simulated)


@scenarios
def test_real(scenario: Callable[[int], None], real: int) -> None:
    scenario(real)


def test_the_runner_says_why_it_skips(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IGTL_PLUS_SERVER", "/no/such/PlusServer")
    assert runner.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: IGTL_PLUS_SERVER is '/no/such/PlusServer'")
    monkeypatch.delenv("IGTL_PLUS_SERVER")
    monkeypatch.setenv("PATH", "")
    assert missing().startswith("there is no PlusServer on the PATH")
