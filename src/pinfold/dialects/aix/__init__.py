"""AIX's kernel services for pinned memory: ``from pinfold.dialects import aix``.

Names, order of parameters and results are AIX's. An address is a number; system space is what is
mapped in the root region of the current process, and user space is every other address. A
descriptor is an `Xmem`. At interrupt level, ``with aix.interrupt_environment():``, what might wait
raises `KernelAssertion`, where AIX would have stopped.
"""

from __future__ import annotations

from pinfold.dialects.aix import numbers
from pinfold.dialects.aix.descriptor import Xmem, xmem_global
from pinfold.dialects.aix.dma import (
    Dio,
    Iovec,
    d_handle_t,
    d_map_clear,
    d_map_disable,
    d_map_enable,
    d_map_init,
    d_map_list,
    d_map_page,
    d_unmap_list,
    d_unmap_page,
)
from pinfold.dialects.aix.numbers import *  # noqa: F403 - all of the numbers, by their names
from pinfold.dialects.aix.pins import (
    ltpin,
    ltunpin,
    pin,
    pincode,
    pinu,
    unpin,
    unpincode,
    unpinu,
)
from pinfold.dialects.aix.services import (
    DriverBug,
    KernelAssertion,
    WouldWait,
    interrupt_environment,
)
from pinfold.dialects.aix.xlate import xlate_create, xlate_pin, xlate_remove, xlate_unpin
from pinfold.dialects.aix.xmem import (
    xmattach,
    xmattach64,
    xmdetach,
    xmemdma,
    xmemdma64,
    xmemin,
    xmemout,
    xmempin,
    xmempsize,
    xmemunpin,
)
from pinfold.dialects.calling import Out
from pinfold.objects.process import Process
from pinfold.units import PAGE_SIZE

__all__ = [
    "PAGE_SIZE",
    "Dio",
    "DriverBug",
    "Iovec",
    "KernelAssertion",
    "Out",
    "Process",
    "WouldWait",
    "Xmem",
    "d_handle_t",
    "d_map_clear",
    "d_map_disable",
    "d_map_enable",
    "d_map_init",
    "d_map_list",
    "d_map_page",
    "d_unmap_list",
    "d_unmap_page",
    "interrupt_environment",
    "ltpin",
    "ltunpin",
    "numbers",
    "pin",
    "pincode",
    "pinu",
    "unpin",
    "unpincode",
    "unpinu",
    "xlate_create",
    "xlate_pin",
    "xlate_remove",
    "xlate_unpin",
    "xmattach",
    "xmattach64",
    "xmdetach",
    "xmem_global",
    "xmemdma",
    "xmemdma64",
    "xmemin",
    "xmemout",
    "xmempin",
    "xmempsize",
    "xmemunpin",
]
