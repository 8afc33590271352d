"""Every number in host/abi.py, and every struct in host/calls.py, against the machine's headers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from pinfold.host import abi, calls, process_vm

COMPILER: Final = shutil.which("cc") or shutil.which("gcc")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")

INCLUDES: Final = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <linux/capability.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#if __has_include(<linux/memfd.h>)
#include <linux/memfd.h>
#endif
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#if __has_include(<linux/vfio.h>)
#include <linux/vfio.h>
#endif
#if __has_include(<sys/syscall.h>)
#include <sys/syscall.h>
#endif
"""

OTHER_NAMES: Final = {"STAT_BLOCK_BYTES": "S_BLKSIZE"}
"""Where the header has the number under another name."""

NO_HEADER: Final = {
    "PM_PFN_MASK",
    "PM_SWAPPED",
    "PM_PRESENT",
    "PM_ENTRY_BYTES",
    "PROCMAP_QUERY_COVERING_OR_NEXT_VMA",
}
"""In the kernel's documentation, or an enumeration, alone; tests/host/test_pagemap.py and
test_procmap.py try what they mean."""

CONSTANTS: Final = {
    name: value for name, value in vars(abi).items() if name.isupper() and isinstance(value, int)
}


def compiled(source: str, folder: Path, *options: str) -> dict[str, str]:
    """Compile and run a program that prints ``name value`` lines."""
    path = folder / "program.c"
    path.write_text(source)
    assert COMPILER is not None
    done = subprocess.run(
        [COMPILER, "-o", folder / "program", path, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = subprocess.run([folder / "program"], capture_output=True, text=True, check=True)
    return dict(line.split() for line in output.stdout.splitlines())


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the headers say of each constant; ``-`` where they lack it."""
    lines = []
    for name in sorted(CONSTANTS.keys() - NO_HEADER):
        macro = OTHER_NAMES.get(name, name)
        lines.append(
            f"#ifdef {macro}\n"
            f'    printf("{name} %llu\\n", (unsigned long long)({macro}));\n'
            f"#else\n"
            f'    puts("{name} -");\n'
            f"#endif"
        )
    body = "\n".join(lines)
    source = f"{INCLUDES}\nint main(void)\n{{\n{body}\n    return 0;\n}}\n"
    return compiled(source, tmp_path_factory.mktemp("abi"))


@pytest.mark.parametrize("name", sorted(CONSTANTS.keys() - NO_HEADER))
def test_a_constant_is_what_the_header_says(name: str, headers: dict[str, str]) -> None:
    """Source: the header named above the constant."""
    if headers[name] == "-":
        pytest.skip(f"the headers of this machine are too old for {name}")
    assert int(headers[name]) == CONSTANTS[name]


def test_constants_without_a_header_are_the_known_ones() -> None:
    assert CONSTANTS.keys() >= NO_HEADER | OTHER_NAMES.keys()


def test_c_types_are_as_wide_as_the_calls_declare(tmp_path: Path) -> None:
    """An argument declared narrower than the C type is cut without a word."""
    types: dict[str, Any] = {
        "size_t": ctypes.c_size_t,
        "ssize_t": ctypes.c_ssize_t,
        "off_t": ctypes.c_int64,
        "pid_t": ctypes.c_int,
        "void*": ctypes.c_void_p,
        "int": ctypes.c_int,
        "struct_iovec": structure("_IoVec", process_vm),
    }
    lines = "".join(
        f'    printf("{name} %zu\\n", sizeof({name.replace("_i", " i")}));\n' for name in types
    )
    source = f"{INCLUDES}\nint main(void)\n{{\n{lines}    return 0;\n}}\n"
    found = compiled(source, tmp_path)
    assert {name: int(size) for name, size in found.items()} == {
        name: ctypes.sizeof(kind) for name, kind in types.items()
    }


def structure(name: str, module: ModuleType = calls) -> type[ctypes.Structure]:
    """A struct that a file of the host room declares for itself."""
    found: type[ctypes.Structure] = vars(module)[name]
    assert issubclass(found, ctypes.Structure)
    return found


def test_the_python_buffer_struct_has_its_fields_where_python_has_them(tmp_path: Path) -> None:
    """Source: <pybuffer.h>; its flags as well, of which we use the read-only set."""
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").exists():
        pytest.skip("the headers of this Python are not installed")
    ours = structure("_PyBuffer")
    fields = [name for name, *_ in ours._fields_]
    lines = "".join(
        f'    printf("{name} %zu\\n", offsetof(Py_buffer, {name}));\n' for name in fields
    )
    source = (
        "#include <Python.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{\n"
        f'{lines}    printf("sizeof %zu\\n", sizeof(Py_buffer));\n'
        '    printf("flags %d\\n", PyBUF_FULL_RO);\n    return 0;\n}\n'
    )
    found = compiled(source, tmp_path, f"-I{include}")
    expected = {name: getattr(ours, name).offset for name in fields}
    expected |= {"sizeof": ctypes.sizeof(ours), "flags": vars(calls)["_PYBUF_FULL_RO"]}
    assert {name: int(value) for name, value in found.items()} == expected
