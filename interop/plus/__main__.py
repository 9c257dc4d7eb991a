"""`python -m interop.plus`: the scenarios against the PlusServer on the PATH, or the one that
IGTL_PLUS_SERVER names; with --simulated against igtl's own. Installs nothing; half a minute."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

import igtl
from interop.plus.scenarios import SCENARIOS
from interop.plus.server import missing, running


@contextlib.contextmanager
def simulated() -> Iterator[int]:
    """The simulated server; gives its port."""
    with igtl.simulate.plus(port=0) as server:
        yield server.port


def main(arguments: list[str]) -> int:
    """Exit status: 0 when all work or there is no PlusServer, 1 when one does not."""
    if arguments == ["--simulated"]:
        opened = simulated
    elif arguments:
        print(__doc__)
        return 0 if arguments == ["--help"] else 2
    elif why := missing():
        print(f"skipped: {why}")
        return 0
    else:
        opened = running
    failed = 0
    with opened() as port:
        for scenario in SCENARIOS:
            try:
                scenario(port)
            except Exception:
                failed += 1
                print(f"FAILED  {scenario.__name__}: {scenario.__doc__}")
                traceback.print_exc()
            else:
                print(f"ok      {scenario.__name__}: {scenario.__doc__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
