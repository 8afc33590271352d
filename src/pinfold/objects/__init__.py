"""What callers hold: handles with rights over objects.

Rights and arguments are checked here, once.
"""
