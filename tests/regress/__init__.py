"""Bugs that were found, a file each: what went wrong, what could have come of it, and the proof.

Each file has a test that failed before its bug was fixed.
"""
