"""The shape of the package: who may import whom, what is public, what `import igtl` loads."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import igtl
from interop.content import rows

# A module imports only from layers above its own, and within its own layer without a cycle. A name
# of a package stands for all its modules that are not named themselves.
LAYERS = [
    "errors options extras addresses notebook",
    "fields",
    "_core",
    "_stream _batch",
    "codec messages log",
    "geometry",
    "session",
    "net",
    "blocking aio tools.rate",
    "files video recording ros foxglove",
    "peers",
    "calibration",
    "simulate doctor devices",
    "tools testing",
    "view bridge",
    "gateway",
    "__init__",
    "cli",
    "__main__",
]
RANKS = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}
PACKAGE = Path(igtl.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def module_of(path: Path) -> str:
    """Name within the package: "cli" for cli/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}


def rank_of(module: str) -> int:
    """The layer of a module."""
    name = module
    while name not in RANKS and "." in name:
        name = name.rpartition(".")[0]
    assert name in RANKS, f"{module} has no place in LAYERS"
    return RANKS[name]


def loaded(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that are for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from loaded(node)


def imported(path: Path) -> set[str]:
    """Modules of the package that this one imports when it is loaded or run."""
    names: set[str] = set()
    for node in loaded(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # of a package: a module of it, or what it exports itself
                inner = f"{node.module}.{alias.name}"
                known = inner.removeprefix("igtl.") in {*MODULES, "_core", "_stream", "_batch"}
                names.add(inner if known else node.module)
    inner = {name.removeprefix("igtl").removeprefix(".") or "__init__" for name in names
             if name == "igtl" or name.startswith("igtl.")}  # fmt: skip
    return inner - {module_of(path)}


@pytest.mark.parametrize("module", MODULES)
def test_layers(module: str) -> None:
    for other in imported(MODULES[module]):
        assert rank_of(other) <= rank_of(module), f"{module} imports {other}"


def test_no_cycles() -> None:
    graph = {module: imported(path) & set(MODULES) for module, path in MODULES.items()}
    for path in FILES:  # what is imported inside a function waits until then
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.ImportFrom) and inner.module:
                        graph[module_of(path)].discard(inner.module.removeprefix("igtl."))
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " imports ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in graph[module] - {"__init__"}:
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_threads_wait_by_changes(module: str) -> None:
    """A condition of `threading` hides a Ctrl-C within its `wait`, and on Windows none comes there."""
    if module != "blocking.changes":
        assert "Condition(" not in ast.unparse(TREES[MODULES[module]])


def test_blocking_and_asyncio_do_not_import_each_other() -> None:
    """Except the server of many clients, which runs the one of asyncio in a thread."""
    for module, path in MODULES.items():
        others = imported(path)
        if module.startswith("blocking") and module not in ("blocking.server", "blocking.runner"):
            assert not {o for o in others if o.startswith("aio")}, module
        if module.startswith("aio"):
            assert not {o for o in others if o.startswith("blocking")}, module


def private_names_of_others(path: Path) -> set[str]:
    """Attributes with an underscore that this module takes from an object whose class it does not
    declare: no class, function or assignment to `self` in it has that name."""
    tree = TREES[path]
    own = set(COMPILED)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in ("self", "cls"):
                own.add(node.attr)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            own |= {t.id for t in targets if isinstance(t, ast.Name)}
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.endswith("__")
        and node.attr not in own
        and not (isinstance(node.value, ast.Name) and node.value.id in FOREIGN)
    }


FOREIGN = {"_core", "_stream", "_batch", "os", "sys"}
# what the compiled part shows to the package, and the standard library of enums and named tuples
COMPILED = {
    node.name
    for stub in PACKAGE.glob("_*.pyi")
    for node in ast.walk(ast.parse(stub.read_text()))
    if isinstance(node, ast.FunctionDef)
} | {"_core", "_asdict", "_replace", "_value2member_map_"}


@pytest.mark.parametrize("module", MODULES)
def test_no_private_name_of_another_module(module: str) -> None:
    assert private_names_of_others(MODULES[module]) == set()


def test_all_is_complete() -> None:
    assert len(set(igtl.__all__)) == len(igtl.__all__)
    assert dir(igtl) == sorted(igtl.__all__)  # public names, and nothing else
    for name in igtl.__all__:
        assert getattr(igtl, name) is not None
    assert set(igtl.aio.__all__) <= {name for name in dir(igtl.aio) if not name.startswith("_")}
    for cls in igtl.message_types().values():
        if cls.__module__.startswith("igtl."):
            assert getattr(igtl, cls.__name__) is cls


def test_docstrings() -> None:
    for name in igtl.__all__:
        value = getattr(igtl, name)
        if isinstance(value, type):
            assert value.__doc__, name
    for cls in {*igtl.message_types().values()}:
        if cls.__module__.startswith("igtl."):
            assert cls.__doc__, cls


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.processes
def test_import_loads_numpy_only() -> None:
    loaded = set(
        run(
            "import sys; before = set(sys.modules); import igtl; print(*(set(sys.modules) - before))"
        ).split()
    )
    roots = {name.partition(".")[0] for name in loaded}
    third_party = roots - set(sys.stdlib_module_names) - {"igtl"}
    assert {
        r for r in third_party if not r.startswith(("numpy", "_cython", "cython_runtime"))
    } == set()
    assert not roots & {"asyncio", "ssl", "click", "rich", "scipy"}


@pytest.mark.processes
def test_no_leaks() -> None:
    """Memory and descriptors stay where they are over many messages and links."""
    out = run(LEAKS)
    assert out.split() == ["ok"], out


LEAKS = """
import gc, os, sys, numpy as np, igtl
from pathlib import Path
wires = [p.read_bytes() for p in sorted(Path('tests/vectors').glob('*.bin')) if p.stat().st_size < 20000]
def work():
    for wire in wires:
        m = igtl.unpack(wire)
        m.pack(); m.pack_parts(); m.to_dict(); repr(m)
        try:
            igtl.unpack(wire[:-1])
        except igtl.ProtocolError:
            pass
    p = igtl.Protocol()
    p.receive_data(b''.join(wires))
    list(p.messages())
    with igtl.listen(port=0) as s, igtl.connect(port=s.port) as a, s.accept() as b:
        a.send(igtl.Image(np.zeros((1, 300, 300), np.uint8)))
        b.recv(timeout=5)
def state():
    gc.collect()
    fds = len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 0
    return sys.getallocatedblocks(), fds
for _ in range(5):
    work()
before = state()
for _ in range(15):
    work()
after = state()
assert after[1] == before[1], (before, after)
assert after[0] - before[0] < 500, (before, after)
print('ok')
"""


ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {
    "links.md": ["websockets"],
    "tour.md": ["mcap"],
    "media.md": ["av"],
    "devices.md": ["av"],
    "foxglove.md": ["foxglove", "mcap"],
    "ros.md": ["rosbags", "mcap"],
    "data.md": ["nibabel", "SimpleITK"],
    "tools.md": ["mcap"],
    "view.md": ["nicegui", "simplejpeg"],
    "bridge.md": ["zenoh"],
}
documents = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="installed without the documents"
)


@documents
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.is_file() and "```python\n" in p.read_text()],
    ids=lambda p: p.name,
)
def test_examples_of_the_documents_run(page: Path) -> None:
    for module in NEEDS.get(page.name, []):
        pytest.importorskip(module, reason=f"{module} is not installed")
    blocks = page.read_text().split("```python\n")[1:]
    code = "\n".join(block.split("```")[0] for block in blocks)
    exec(compile(code, str(page), "exec", dont_inherit=True), {"__name__": "page"})


def test_every_package_is_shipped() -> None:
    """A folder without `__init__.py` is not found when the wheel is built."""
    assert {p.parent for p in FILES} == {p.parent for p in FILES if p.name == "__init__.py"}


@documents
def test_figures_beside_others() -> None:
    """Those of the benchmarks, and the counts of the matrix."""
    subprocess.run([sys.executable, "-m", "benchmarks.beside", "--check"], check=True, cwd=ROOT)
    from benchmarks import report  # not in an installed copy

    assert report.published().exists()
    assert f"<!-- kinds -->\n{report.side_by_side()}\n" in report.PAGE.read_text()
    text = (ROOT / "docs" / "compatibility.md").read_text()
    matrix = text.partition("written by interop/run --write -->")[2].partition("<!-- interop: end")[
        0
    ]
    head, _, *lines = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in matrix.splitlines() if line.startswith("|")
    ]  # fmt: skip
    # a line lists the rows that it stands for, by semicolons if a name has a comma in it
    names = [
        [line[0]] if line[0] in rows() else line[0].split("; " if ";" in line[0] else ", ")
        for line in lines
    ]
    assert sorted(name for some in names for name in some) == sorted(rows())
    agree = [
        sum(
            len(some)
            for some, line in zip(names, lines, strict=True)
            if line[head.index(name)][0] in "=≈"
        )
        for name in (
            "golden vectors (C++ 3.1)",
            "C++ 1.11 reads",
            "Rust 0.4.1 reads",
            "pyigtl 0.3.4 reads",
        )
    ]
    assert f"of the {len(rows())} in" in text
    assert f"| {' | '.join(map(str, agree))} |" in text


@documents
def test_what_is_said_of_others() -> None:
    """Where they are installed."""
    looked = False
    found = importlib.util.find_spec("pyigtl")
    if found is not None and found.submodule_search_locations:
        looked = True
        source = "".join(
            p.read_text() for p in Path(found.submodule_search_locations[0]).glob("*.py")
        )
        for word in ("import asyncio", "import ssl", "recvfrom"):
            assert word not in source
        assert source.count("CRC64(") == 1  # in pack; unpack does not look
    headers = Path("/usr/include/openigtlink")
    if headers.is_dir():
        looked = True
        names = {p.name for p in headers.glob("igtl*.h")}
        assert not {n for n in names if "UDP" in n or "TLS" in n or "SSL" in n}
        assert "SetMetaDataElement" not in (headers / "igtlMessageBase.h").read_text()
    if not looked:
        pytest.skip("neither pyigtl nor the C++ library is installed")


@documents
def test_links_within_the_documents_lead_somewhere() -> None:
    pages = [*PAGES, *ROOT.glob("*.md"), *ROOT.glob("*/README.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.processes
def test_types_as_an_editor_sees_them() -> None:
    """tests/typing_cases.py under mypy --strict: right uses pass, wrong ones are reported."""
    api = importlib.import_module("mypy.api")
    root = ROOT
    out, errors, status = api.run(
        ["--config-file", str(root / "pyproject.toml"), str(root / "tests" / "typing_cases.py")]
    )
    assert status == 0, out + errors


BENCHMARKS = sorted(
    f"benchmarks.{path.stem}".removesuffix(".__main__")
    for path in (ROOT / "benchmarks").glob("*.py")
    if "command_line(" in path.read_text() and path.stem != "measure"
)


@documents
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_each_benchmark_names_its_rows(benchmark: str) -> None:
    """All take --rows and --list, whatever is installed, and measure nothing by them."""

    def said(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", benchmark, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return done.returncode, done.stdout, done.stderr

    status, names, _ = said("--list")
    assert status == 0
    first = names.splitlines()[0]
    assert first in said("--list", "--rows", first)[1].splitlines()
    assert said("--rows", "no such row") == (
        1, "", "no row begins with 'no such row'; --list names them\n",
    )  # fmt: skip
    assert "--quick" in said("--help")[1]


@documents
def test_every_benchmark_that_can_be_run_takes_the_same_options() -> None:
    programs = {
        f"benchmarks.{path.stem}".removesuffix(".__main__")
        for path in (ROOT / "benchmarks").glob("*.py")
        if "__main__" in path.read_text()
    }
    assert programs - set(BENCHMARKS) == {"benchmarks.beside"}  # which measures nothing


@documents
def test_benchmarks_name_and_compare_their_rows(tmp_path: Path) -> None:
    def said(*arguments: str) -> list[str]:
        command = [sys.executable, "-m", "benchmarks", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return done.stdout.splitlines()

    names = said("--list")
    assert len(names) == len(set(names)) > 90
    chosen = said("--list", "--rows", "TRANSFORM")
    assert chosen == [name for name in names if name.startswith("TRANSFORM")]
    earlier = str(min((ROOT / "docs" / "performance").glob("benchmarks-*.json")))
    tables = said("--from", earlier, "--compare", earlier, "--json", str(tmp_path / "new.json"))
    compared = next(
        line for line in tables if line.startswith("| TRANSFORM pack") and "1.00" in line
    )
    assert compared.endswith("| 1.00 | C++ | 1.00 |")
