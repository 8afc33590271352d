"""What tests of drivers, of buses and of pinfold itself share. Public: bus authors use it too."""

from pinfold.testing.bus_contract import check_bus
from pinfold.testing.checks import check_books, check_extents
from pinfold.testing.faults import FailFrom, FailNth, HostCalls
from pinfold.testing.leaks import HostState

__all__ = [
    "FailFrom",
    "FailNth",
    "HostCalls",
    "HostState",
    "check_books",
    "check_bus",
    "check_extents",
]
