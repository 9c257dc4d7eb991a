"""Run a script, or a module, that imports pyigtl, with igtl in its place.

python -m igtl.peers.pyigtl script.py [ARGUMENTS...]
python -m igtl.peers.pyigtl -m module [ARGUMENTS...]
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import igtl.peers.pyigtl
from igtl.peers.pyigtl import comm, messages


def main() -> None:
    """Take pyigtl's place in `sys.modules`, and run what the arguments name."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        sys.exit(__doc__.strip() if arguments[:1] != ["-m"] else "-m needs the name of a module")
    sys.modules["pyigtl"] = igtl.peers.pyigtl
    sys.modules["pyigtl.comm"] = comm
    sys.modules["pyigtl.messages"] = messages
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, "")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
