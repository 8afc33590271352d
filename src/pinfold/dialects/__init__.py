"""Other systems' calls over pinfold's objects: flat functions, integer handles, statuses."""

from pinfold.dialects.calling import Out

__all__ = ["Out"]
