"""Bugs that were found, a file each: what went wrong, what could have come of it, and the proof.

Each of these tests failed before its bug was fixed.
"""
