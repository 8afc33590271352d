"""The ``pinfold`` command."""
