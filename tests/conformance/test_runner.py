"""The runner can fail: whatever a case expects, another outcome is found and told."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.dialects import zx
from pinfold.host import abi, calls
from pinfold.objects.process import Process
from pinfold.units import PAGE_SIZE

from . import __main__ as program
from .calls import LACKING, Calls
from .expressions import Unknown
from .known import EXCEPTIONS
from .machine import Mismatch
from .report import table
from .runner import CASES, Result, Verdict, check_case, run, take, takes_4k_pages
from .slips import MAPPED_INSIDE, MEANINGLESS, REGION, VMO, WRONG, Step, call, case, layout

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_all_the_cases_are_here() -> None:
    """Source: the totals that the cases came with."""
    assert Counter(made["area"] for made in CASES) == {
        "bti": 14,
        "pmt": 8,
        "vmo": 123,
        "vmar": 88,
        "handle": 18,
        "info": 25,
    }
    kinds = Counter(made["contentious"] and made["contentious"]["kind"] for made in CASES)
    assert kinds == {None: 177, "newer": 62, "changed": 32, "either": 5}
    assert sum(len(made["steps"]) for made in CASES) == 2042
    assert len({made["id"] for made in CASES}) == 276


def test_every_word_of_every_case_has_a_meaning() -> None:
    """Calls, arguments, keys and forms of checks: none is passed over."""
    for made in CASES:
        check_case(made)


@pytest.mark.parametrize("what", WRONG)
def test_another_outcome_is_told(what: str) -> None:
    """The expectation in the last step is false; the runner says at which step, and what it got."""
    steps, told = WRONG[what]

    result = run(case(*steps))

    assert result.verdict is Verdict.FAILED
    assert result.error is None
    assert result.wrong
    assert result.reason.startswith(f"step {len(steps)} of {len(steps)}, ")
    assert told in result.reason


@pytest.mark.parametrize("what", MEANINGLESS)
def test_what_has_no_meaning_is_an_error(what: str) -> None:
    """A step that is not understood is not taken for one that holds."""
    result = run(case(VMO, MEANINGLESS[what], kind="either"))

    assert isinstance(result.error, Unknown)
    assert result.wrong


def test_a_key_of_a_case_that_has_no_meaning_is_an_error() -> None:
    """The same of the cases themselves."""
    with pytest.raises(Unknown, match="colour"):
        check_case(case(VMO) | {"colour": 1})
    with pytest.raises(Unknown, match="perhaps"):
        check_case(case(VMO, kind="perhaps"))


def test_a_case_with_two_outcomes_may_differ() -> None:
    """Source: the cases' vocabulary: run it, and count neither outcome as wrong."""
    result = run(case(call("vmo_create", "INVALID_ARGS", size=0, options=[]), kind="either"))

    assert result.verdict is Verdict.FAILED
    assert not result.wrong
    assert "got OK" in result.reason


@pytest.mark.parametrize("name", LACKING)
def test_a_case_that_needs_what_is_lacking_is_skipped_with_the_reason(name: str) -> None:
    """Source: the cases' vocabulary: skip the cases that need one you lack."""
    result = run(case(VMO, call(name)))

    assert result.verdict is Verdict.SKIPPED
    assert result.reason == LACKING[name]


@pytest.mark.parametrize(
    ("status", "written"), [(0, None), (zx.ZX_ERR_INTERNAL, 5)], ids=["unwritten", "written"]
)
def test_an_output_parameter_is_written_exactly_on_success(
    monkeypatch: pytest.MonkeyPatch, status: int, written: int | None
) -> None:
    """Source: the calling convention: ``.value`` is written only on success."""

    def liar(number: int, out: Any) -> int:
        del number
        out.value = written
        return status

    monkeypatch.setattr(zx, "zx_vmo_get_size", liar)
    result = run(case(VMO, call("vmo_get_size", {"not": "BAD_STATE"}, vmo="$v")))

    assert result.wrong
    assert "an output parameter" in result.reason


def test_what_a_call_raises_is_told_and_not_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception out of a flat call is nothing that a case can expect, of whatever kind it is."""

    def broken(number: int, out: Any) -> int:
        raise ZeroDivisionError(f"{number:#x} {out}")

    monkeypatch.setattr(zx, "zx_vmo_get_size", broken)
    result = run(case(VMO, call("vmo_get_size", {"not": "OK"}, vmo="$v"), kind="either"))

    assert result.wrong
    assert "step 2 of 2" in result.reason
    assert "ZeroDivisionError" in result.reason


def test_a_process_that_does_not_end_well_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its end finds wrong is a failure of the case, and of no other."""
    end = Process.exit

    def ends_badly(process: Process) -> None:
        end(process)
        raise ZeroDivisionError("books")

    monkeypatch.setattr(Process, "exit", ends_badly)
    result = run(case(VMO))

    assert result.wrong
    assert "ZeroDivisionError: books" in result.reason


@contextmanager
def after(*steps: Step) -> Iterator[Calls]:
    """A machine on which steps have been taken."""
    machine = Calls()
    try:
        with machine.process:
            machine.furnish()
            for step in steps:
                take(machine, step)
            yield machine
    finally:
        machine.process.exit()


def test_a_layout_that_is_listed_has_to_be_in_force() -> None:
    """Books that say more than the host allows are found out."""
    with after(REGION, VMO, MAPPED_INSIDE) as machine:
        right = layout((0, 2, ["PERM_READ"]), (2, 4, None))
        take(machine, right)
        calls.mprotect(machine.symbols["base"] + PAGE_SIZE, PAGE_SIZE, abi.PROT_NONE)
        with pytest.raises(Mismatch, match=r"in force: got 0: .*PERM_READ.*, 1: "):
            take(machine, right)


def test_pages_that_can_be_read_have_to_be_listed() -> None:
    """A page that a load reaches and no mapping covers is found out."""
    with after(REGION, VMO, MAPPED_INSIDE) as machine:
        calls.mprotect(machine.symbols["base"] + 2 * PAGE_SIZE, PAGE_SIZE, abi.PROT_READ)
        with pytest.raises(Mismatch, match="pages that are listed"):
            take(machine, {"check": "pages mapped", "addr": "$base", "mapped": [1, 1, 1, 0]})


def test_cases_for_pages_of_4_kib_are_known() -> None:
    """Source: the cases' vocabulary: some sizes take a page to be 4 KiB."""
    written = {made["id"]: made for made in CASES}

    assert not takes_4k_pages(written["vmo-001"])
    assert takes_4k_pages(case(call("vmo_create", size=16384, options=[])))


def result_of(name: str, verdict: Verdict, *, either: bool = False, reason: str = "") -> Result:
    """A result of a test's own."""
    return Result(name, "vmo", either, verdict, reason)


def test_the_table_counts_each_case_once() -> None:
    """Whatever is no pass has a line with its reason."""
    lines = table(
        [
            result_of("a", Verdict.PASSED),
            result_of("b", Verdict.FAILED, reason="step 1"),
            result_of("c", Verdict.SKIPPED, reason="not here"),
            result_of("d", Verdict.FAILED, either=True, reason="step 2"),
            result_of("e", Verdict.PASSED, either=True),
        ]
    )

    assert lines[0].split() == ["area", "cases", "passed", "failed", "known", "skipped", "either"]
    assert [line.split() for line in lines[1:3]] == [
        ["vmo", "5", "1", "1", "0", "1", "2"],
        ["all", "5", "1", "1", "0", "1", "2"],
    ]
    assert lines[3:] == [
        "failed b: step 1",
        "skipped c: not here",
        "either d: step 2",
        "either e: as written",
    ]


@pytest.mark.parametrize(("expect", "status"), [("OK", 0), ("INVALID_ARGS", 1)])
def test_the_program_says_by_its_exit_status_whether_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], expect: str, status: int
) -> None:
    """0 if no case is wrong, 1 if one is, 2 if it was asked for a case that is not there."""
    made = case(call("vmo_create", expect, size=0, options=[]))
    monkeypatch.setattr(program, "CASES", [made])

    assert program.main([]) == program.main(["made-up"]) == status
    assert ("failed made-up" in capsys.readouterr().out) is bool(status)
    assert program.main(["vmo-000"]) == 2


def test_a_known_exception_that_passes_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list of exceptions is kept short, and true."""
    monkeypatch.setattr(program, "CASES", [case(VMO)])
    monkeypatch.setitem(EXCEPTIONS, "made-up", "because")

    assert program.main([]) == 1
    assert "strike it out" in capsys.readouterr().out
