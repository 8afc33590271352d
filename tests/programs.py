"""Programs that tests start as a process of their own.

For what cannot be tried in the test's process: less privilege, lower limits, a forked child, an
address space that is full. A program prints what it found as one JSON value; the test asserts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

_IMPORTS = """
import ctypes, gc, json, os, resource, signal, sys, threading, warnings
import pinfold as pf
from pinfold.errors import *
from pinfold.host import abi, calls, mm, pagemap, probe
from pinfold.memory.residency import RESIDENCY, Residency
from pinfold.units import PAGE_SIZE

def area(pages, prot=abi.PROT_READ | abi.PROT_WRITE):
    return calls.mmap(0, pages * PAGE_SIZE, prot, abi.MAP_PRIVATE | abi.MAP_ANONYMOUS, -1, 0)

def locked():
    return probe.process_memory().locked

def give_up_privileges(memlock=None):
    '''Become nobody, who is bound by limits; whoever is not root already is.'''
    if memlock is not None:
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, hard))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

def told(error):
    '''What the test asserts about an error.'''
    return {
        "class": type(error).__name__,
        "text": str(error),
        **dict(error.facts()),
        "notes": getattr(error, "__notes__", []),
    }
"""


def run(program: str, *arguments: str) -> Any:
    """Run ``program`` after the imports above, warnings shown; the JSON it prints.

    A program that fails, or prints anything on stderr, fails the test.
    """
    text = _IMPORTS + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", text, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)
