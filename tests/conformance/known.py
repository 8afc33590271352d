# Cases that fail and are to fail, each with the reason. A case that is listed here and passes is a
# failure of the tests: strike it out.
from __future__ import annotations

from typing import Final

EXCEPTIONS: Final[dict[str, str]] = {}
