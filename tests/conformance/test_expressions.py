"""The cases' expressions are worked out as written, and nothing else is."""

from __future__ import annotations

from typing import Any, Final

import pytest

from pinfold.units import PAGE_SIZE

from .expressions import UINT64_MAX, Record, Unknown, number, truth

SYMBOLS: Final[dict[str, Any]] = {
    "a": 7,
    "addrs": [PAGE_SIZE, 2 * PAGE_SIZE],
    "buf": b"\2\2",
    "info": Record(base=3, kind="VMAR"),
    "maps": [
        Record(type="VMAR", base=1, prot=[]),
        Record(type="MAPPING", base=2, prot=["PERM_READ", "PERM_WRITE"]),
    ],
}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (0, 0),
        (UINT64_MAX, UINT64_MAX),
        ("PAGE", PAGE_SIZE),
        ("4*PAGE - 1", 4 * PAGE_SIZE - 1),
        ("0xdeadbeef", 0xDEADBEEF),
        ("1<<20", 1 << 20),
        ("2**64 - PAGE", (1 << 64) - PAGE_SIZE),
        ("UINT64_MAX", (1 << 64) - 1),
        ("512*1024//PAGE - 1", 512 * 1024 // PAGE_SIZE - 1),
        ("PAGE % 7", PAGE_SIZE % 7),
        ("$a + (-1)*3", 4),
        ("$info.base*2", 6),
        ("round_up(min($a, 100), 4)", 8),
    ],
)
def test_a_number_is_what_is_written(word: int | str, value: int) -> None:
    """Source: the cases' vocabulary."""
    assert number(word, SYMBOLS) == value


@pytest.mark.parametrize(
    "word",
    [
        "2**64",
        "0 - 1",
        "-1",
        "2**65 - 2**65",
        "1<<65",
        "1.0",
        "1/2",
        "'text'",
        "True",
        "$a if PAGE else 1",
        "$unbound",
        "unknown",
        "_symbol_a",
        "$info",
        "$info.missing",
        "$info.__class__",
        "$addrs[0]",
        "$addrs*2",
        "$a.base",
        "max(1, 2)",
        "min(1, key=2)",
        "__import__('os')",
        "().__class__",
        "lambda: 1",
        "1 +",
        "",
        1.0,
        True,
        -1,
        None,
    ],
)
def test_what_is_no_number_is_refused(word: Any) -> None:
    """Source: the cases' vocabulary: unsigned, 64 bits wide, no wrapping."""
    with pytest.raises(Unknown):
        number(word, SYMBOLS)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("$a == 7", True),
        ("$a == 7 and $a != 8", True),
        ("$a == 8 or $a < 7", False),
        ("$a == 7 == $a", True),
        ("$a == 7 == 8", False),
        ("1 <= $a <= 7 and $a >= 7 and $a > 6", True),
        ("$addrs[0] % PAGE == 0", True),
        ("$addrs[1] == PAGE", False),
        ('bytes($buf) in (b"\\x02"*2, b"\\x05"*2)', True),
        ('bytes($buf) in (b"\\x03"*2, b"\\x05"*2)', False),
        ("$maps[0].type == 'VMAR'", True),
        ("[(m.base, 1) for m in $maps if m.type=='MAPPING'] == [(2, 1)]", True),
        ("[set(m.prot) for m in $maps] == [set([]), {'PERM_WRITE','PERM_READ'}]", True),
        ("[m.base for m in $maps] == [1, 1]", False),
    ],
)
def test_a_check_is_true_or_false(text: str, holds: bool) -> None:  # noqa: FBT001 - a table's column
    """Source: the cases' vocabulary: a boolean in Python's syntax."""
    assert truth(text, SYMBOLS) is holds


@pytest.mark.parametrize(
    "text",
    [
        "$a",
        "not $a == 7",
        "$a and $a",
        "$a is 7",
        "$a not in [7]",
        "$info[0] == 1",
        "$addrs[$addrs] == 1",
        "[x for x in $addrs for y in $addrs] == []",
        "[$a for PAGE in $addrs] == []",
        "{m for m in $addrs} == 1",
        "print($a) == 1",
        "'a' + 'b' == 'ab'",
        "$maps[0].__class__ == 1",
    ],
)
def test_a_check_of_another_form_is_refused(text: str) -> None:
    """What cannot be worked out has not been checked."""
    with pytest.raises(Unknown):
        truth(text, SYMBOLS)


def test_an_element_that_is_not_there_is_the_results_fault() -> None:
    """A check of the second of one address fails; it does not go unchecked."""
    with pytest.raises(IndexError):
        truth("$addrs[2] == 0", SYMBOLS)
