"""Build of the extensions. Everything static stands in pyproject.toml.

Switches (environment; `make clean` between them):
  IGTL_SANITIZE=1   AddressSanitizer and UBSan (run with ci/sanitize)
  IGTL_TRACE=1      line tracing, for coverage of the .pyx
  IGTL_ANNOTATE=1   the HTML that shows which lines touch Python
  IGTL_PORTABLE=1   only the portable CRC, as on a compiler without the intrinsics
  IGTL_LIMITED_API=1  extensions for CPython 3.11 and later (abi3); slower calls
"""

import os
import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup


def switch(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


directives = {"language_level": "3"}
macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
# -fno-wrapv: Python's -fwrapv hides overflows from UBSan, and costs small messages a tenth
# -g0: debug information would make up four fifths of a wheel
compile_args = ["-O3", "-g0", "-fno-strict-aliasing", "-fno-wrapv"]
jobs = os.cpu_count()
if sys.platform == "win32":
    compile_args = []
    jobs = 1  # setuptools prepares Microsoft's compiler once, and not for several threads
link_args = []
if switch("IGTL_TRACE"):
    directives["linetrace"] = True
    macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
if switch("IGTL_LIMITED_API"):
    macros.append(("Py_LIMITED_API", "0x030B0000"))
if switch("IGTL_PORTABLE"):
    macros.append(("IGTL_CRC64_PORTABLE_ONLY", "1"))
if switch("IGTL_SANITIZE"):
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", *sanitizers]
    link_args += sanitizers


def part(name: str) -> Extension:
    """A compiled part of the package."""
    return Extension(
        f"igtl.{name}",
        [f"igtl/{name}.pyx"],
        include_dirs=[numpy.get_include(), "igtl"],
        depends=["igtl/_crc64.h", "igtl/_sockets.h", "igtl/_wire.h", "igtl/igtl_capi.h"],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        py_limited_api=switch("IGTL_LIMITED_API"),
    )


setup(
    ext_modules=cythonize(
        [part(name) for name in ("_core", "_stream", "_batch")],
        compiler_directives=directives,
        annotate=switch("IGTL_ANNOTATE"),
    ),
    options={"build_ext": {"parallel": jobs}},
)
