# Runs a case: step after step against the dialect alone, each result held to what the case expects.
#
# zircon_cases.json restates what the kernel's public tests assert, as data: a case is a few calls,
# and the status or the result of each; ``source`` names the test, with its repository and revision.
# What its words mean is in the modules beside this one: expressions, words, records, calls.
#
# The first step that differs ends the case; what comes after it would be about another machine. A
# word, a key or a form without a meaning here is an error, never passed over.
#
# A case of two allowed outcomes (``contentious.kind`` "either") is run like any other, and what
# differs from it is reported and not wrong. Where the kernels' generations differ ("changed"),
# ``expect`` is the newest, which is the one that pinfold follows.
from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pinfold.testing import check_books
from pinfold.units import PAGE_SIZE

from . import memory, words
from .calls import LACKING, SAYS, Calls, check_arguments, method
from .expressions import Record, Unknown, truth
from .machine import Done, Mismatch
from .records import PROTECTIONS

CASES: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "zircon_cases.json").read_text()
)

_CASE_KEYS: Final = {
    "id", "area", "source", "title", "basis", "tags", "contentious", "steps", "note",
}  # fmt: skip
_CALL_KEYS: Final = {"call", "args", "expect", "out", "older"}
_CHECK_KEYS: Final = {
    "pages mapped": {"check", "addr", "mapped"},
    "protection layout": {"check", "base", "layout"},
}
"""The checks with a shape of their own; any other has an expression, and says in prose why."""

_FLAGS: Final = {
    ("HANDLE_BASIC", "rights"): "ZX_RIGHT_",
    ("VMO", "flags"): "ZX_INFO_VMO_",
}
"""The prefix of the flags in a field."""
_NAMES: Final = {
    ("HANDLE_BASIC", "type"): "ZX_OBJ_TYPE_",
    ("VMO", "cache_policy"): "ZX_CACHE_POLICY_",
}
"""The prefix of a name in a field."""


class Verdict(enum.Enum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One case, run.

    Attributes:
      case: which.
      area: of the dialect.
      either: more than one outcome is allowed; FAILED means that it differs from the one written.
      verdict: how it ended.
      reason: why it was skipped, or where and how it differs.
      error: what was raised that is no matter of two outcomes: a call that is missing, say.
    """

    case: str
    area: str
    either: bool
    verdict: Verdict
    reason: str = ""
    error: Exception | None = None

    @property
    def wrong(self) -> bool:
        """True if the dialect, or the runner, is at fault."""
        return self.verdict is Verdict.FAILED and (not self.either or self.error is not None)


def run(case: dict[str, Any]) -> Result:
    """Run a case in a process and a kernel of its own, which are gone afterwards."""
    contentious = case["contentious"]
    either = contentious is not None and contentious["kind"] == "either"
    known = case["id"], case["area"], either
    why_not = reason_to_skip(case)
    if why_not is not None:
        return Result(*known, Verdict.SKIPPED, why_not)
    machine = Calls()
    taken = 0
    try:
        try:
            with machine.process:
                machine.furnish()
                for step in case["steps"]:
                    taken += 1
                    take(machine, step)
                check_books(machine.kernel)
        finally:
            machine.process.exit()
    except Mismatch as difference:
        return Result(*known, Verdict.FAILED, _told(case, taken, difference))
    except Exception as error:  # told with the case and the step, never passed over
        return Result(*known, Verdict.FAILED, _told(case, taken, error), error)
    return Result(*known, Verdict.PASSED)


def _told(case: dict[str, Any], number: int, error: Exception) -> str:
    """Where a case ended, and why."""
    steps = case["steps"]
    what = str(error) if isinstance(error, Mismatch) else f"{type(error).__name__}: {error}"
    if not number:
        return f"before the first step: {what}"
    step = dict(steps[number - 1])
    name = step.pop("call", None) or step.pop("check", "a step")
    return f"step {number} of {len(steps)}, {name} {json.dumps(step.get('args', step))}: {what}"


def reason_to_skip(case: dict[str, Any]) -> str | None:
    """Why a case cannot be run here, or None."""
    for step in case["steps"]:
        if step.get("call") in LACKING:
            return LACKING[step["call"]]
    if PAGE_SIZE != 1 << 12 and takes_4k_pages(case):
        return f"its numbers take a page to be 4 KiB; here it is {PAGE_SIZE >> 10} KiB"
    return None


def takes_4k_pages(case: dict[str, Any]) -> bool:
    """True if sizes or places are written as bare numbers that are no small ones."""
    return any(
        isinstance(step["args"].get(name), int) and step["args"][name] > 2048
        for step in case["steps"]
        if "call" in step
        for name in ("size", "offset", "length", "len")
    )


# Steps --------------------------------------------------------------------------------------------


def take(machine: Calls, step: dict[str, Any]) -> None:
    """Make a step.

    Raises:
      Mismatch: its result is not what the step expects.
      Unknown: the step says something without a meaning here.
    """
    check_step(step)
    if "check" in step:
        _check(machine, step)
        return
    name, expect = step["call"], step["expect"]
    done = method(name)(machine, **step["args"])
    if not expected(done.status, expect):
        raise Mismatch("the status", got="|".join(sorted(done.status)), expected=expect)
    if "OK" not in done.status:
        return
    says = SAYS.get(name)
    if says is not None and says in step:
        _HOLD[says](machine, done, step)
    _bind(machine, done, step.get("out"))


def check_step(step: dict[str, Any]) -> None:
    """Raise `Unknown` unless each key of a step has a meaning here."""
    if "call" in step:
        name = step["call"]
        extra = step.keys() - _CALL_KEYS - {SAYS.get(name)}
        if extra:
            raise Unknown(f"{name}: no meaning of {', '.join(sorted(extra))}")
        if not {"args", "expect"} <= step.keys():
            raise Unknown(f"{name}: no arguments, or nothing is expected")
        returns = step.keys() - {"call", "args", "expect", "older"}
        if returns and not expected(frozenset({"OK"}), step["expect"]):
            raise Unknown(f"{name}: a call that is to fail has no result")
        check_arguments(name, step["args"])
    elif "check" in step:
        keys = _CHECK_KEYS.get(step["check"], {"check", "expr"})
        if step.keys() != keys:
            raise Unknown(f"a check has {', '.join(sorted(keys))}, not {', '.join(sorted(step))}")
    else:
        raise Unknown(f"neither a call nor a check: {', '.join(sorted(step))}")


def check_case(case: dict[str, Any]) -> None:
    """Raise `Unknown` unless each key of a case has a meaning here."""
    if case.keys() - _CASE_KEYS:
        raise Unknown(f"no meaning of {', '.join(sorted(case.keys() - _CASE_KEYS))}")
    contentious = case["contentious"]
    if contentious is not None and contentious["kind"] not in ("newer", "changed", "either"):
        raise Unknown(f"no meaning of contentious {contentious['kind']!r}")
    for step in case["steps"]:
        check_step(step)


def expected(status: frozenset[str], expect: Any) -> bool:
    """True if a status is one that is expected: one, one of several, or any but one."""
    match expect:
        case str():
            wanted = {expect}
        case [str(), *_] as several:
            wanted = set(several)
        case {"not": str(unwanted), **rest} if not rest:
            words.status(unwanted)
            return unwanted not in status
        case _:
            raise Unknown(f"{expect!r} is no expectation")
    for name in wanted:
        words.status(name)
    return not status.isdisjoint(wanted)


def _bind(machine: Calls, done: Done, out: Any) -> None:
    """Bind what a call has returned."""
    match out:
        case None:
            return
        case str() if done.result is not None:
            machine.symbols[out] = done.result
        case dict() if done.parts is not None and out.keys() <= done.parts.keys():
            for part, symbol in out.items():
                machine.symbols[symbol] = done.parts[part]
        case _:
            raise Unknown(f"the call returned nothing to bind {out!r} to")


# What a result has to be --------------------------------------------------------------------------


def _hold_data(machine: Calls, done: Done, step: dict[str, Any]) -> None:
    wanted = words.data(step["data"], machine.symbols)
    if len(wanted) != machine.number(step["args"]["length"]):
        raise Unknown(f"{len(wanted)} bytes of data for {step['args']['length']} bytes to read")
    if done.result != wanted:
        at = next(i for i, (a, b) in enumerate(zip(done.result, wanted, strict=True)) if a != b)
        raise Mismatch(
            f"the data from byte {at} on",
            got=done.result[at : at + 8].hex(" "),
            expected=wanted[at : at + 8].hex(" "),
        )


def _hold_value(machine: Calls, done: Done, step: dict[str, Any]) -> None:
    named = step["args"].get("property") == "NAME"
    wanted = step["value"] if named else machine.number(step["value"])
    if done.result != wanted:
        raise Mismatch("the value", got=repr(done.result), expected=repr(wanted))


def _hold_actual(machine: Calls, done: Done, step: dict[str, Any]) -> None:
    wanted = machine.number(step["actual"])
    if done.result != wanted:
        raise Mismatch("the bytes done", got=done.result, expected=wanted)


def _hold_fields(machine: Calls, done: Done, step: dict[str, Any]) -> None:
    record, topic = done.result, step["args"]["topic"]
    if not isinstance(record, Record):
        raise Unknown(f"topic {topic} fills in no record")
    for field, wanted in step["fields"].items():
        found = record[field]
        flags, names = _FLAGS.get((topic, field)), _NAMES.get((topic, field))
        if flags is not None:
            _hold_flags(machine, field, found, wanted, flags)
            continue
        if names is not None:
            holds = found == words.constant(names + wanted)
        elif isinstance(wanted, dict):
            if wanted.keys() != {"le"}:
                raise Unknown(f"{wanted!r} says nothing of a number")
            holds = found <= machine.number(wanted["le"])
        else:
            holds = found == machine.number(wanted)
        if not holds:
            raise Mismatch(f"the field {field}", got=found, expected=wanted)


def _hold_flags(machine: Calls, field: str, found: int, wanted: Any, prefix: str) -> None:
    """Hold a field of flags to what it has, lacks, is exactly, or is beside those of a handle."""
    if not isinstance(wanted, dict) or not wanted:
        raise Unknown(f"{wanted!r} says nothing of flags")
    if "from" in wanted:
        if wanted.keys() != {"from", "add", "remove"} or prefix != "ZX_RIGHT_":
            raise Unknown(f"{wanted!r} says nothing of {field}")
        base = machine.rights_of(wanted["from"]) | words.union(wanted["add"], prefix)
        holds = found == base & ~words.union(wanted["remove"], prefix)
    else:
        if wanted.keys() - {"has", "lacks", "exactly"}:
            raise Unknown(f"{wanted!r} says nothing of flags")
        has = words.union(wanted.get("has", []), prefix)
        lacks = words.union(wanted.get("lacks", []), prefix)
        holds = found & has == has and not found & lacks
        if "exactly" in wanted:
            holds = holds and found == words.union(wanted["exactly"], prefix)
    if not holds:
        raise Mismatch(f"the field {field}", got=f"{found:#x}", expected=wanted)


_HOLD: Final = {
    "data": _hold_data,
    "value": _hold_value,
    "actual": _hold_actual,
    "fields": _hold_fields,
}


# Checks -------------------------------------------------------------------------------------------


def _check(machine: Calls, step: dict[str, Any]) -> None:
    match step["check"]:
        case "pages mapped":
            _check_mapped(machine, machine.number(step["addr"]), step["mapped"])
        case "protection layout":
            _check_layout(machine, machine.number(step["base"]), step["layout"])
        case prose:
            try:
                holds = truth(step["expr"], machine.symbols)
            except IndexError as error:
                raise Mismatch(prose, got=error, expected=step["expr"]) from error
            if not holds:
                raise Mismatch(prose, got="false", expected=step["expr"])


def _check_mapped(machine: Calls, address: int, mapped: Any) -> None:
    """Hold pages to being readable, or not: by loads, and by what the root region lists."""
    if not isinstance(mapped, list) or not mapped or set(mapped) - {0, 1}:
        raise Unknown(f"{mapped!r} says nothing of pages")
    pages = range(address, address + len(mapped) * PAGE_SIZE, PAGE_SIZE)
    loaded = [len(memory.peek(page, 1)) for page in pages]
    if loaded != mapped:
        raise Mismatch("the pages that can be read", got=loaded, expected=mapped)
    listed = machine.listed_protections(address, len(mapped))
    shown = [int(page is not None and "PERM_READ" in page) for page in listed]
    if shown != mapped:
        raise Mismatch("the pages that are listed", got=shown, expected=mapped)


def _check_layout(machine: Calls, base: int, layout: Any) -> None:
    """Hold pages to their protections: by what the root region lists, and by what the host does."""
    wanted: list[list[str] | None] = []
    for run_of_pages in layout:
        if run_of_pages.keys() != {"from", "to", "prot"} or run_of_pages["from"] != len(wanted):
            raise Unknown(f"{run_of_pages!r} does not go on where the one before it ends")
        prot = run_of_pages["prot"]
        if prot is not None and set(prot) - set(PROTECTIONS):
            raise Unknown(f"{prot!r} is no protection")
        ordered = None if prot is None else [word for word in PROTECTIONS if word in prot]
        wanted += [ordered] * (run_of_pages["to"] - run_of_pages["from"])
    listed = machine.listed_protections(base, len(wanted))
    if listed != wanted:
        raise Mismatch("the protections listed", got=_runs(listed), expected=_runs(wanted))
    in_force = memory.host_protections(base, len(wanted))
    if in_force != [prot or [] for prot in wanted]:
        raise Mismatch("the protections in force", got=_runs(in_force), expected=_runs(wanted))


def _runs(pages: Any) -> str:
    """A layout in few words: where each protection begins."""
    starts = [at for at, prot in enumerate(pages) if at == 0 or prot != pages[at - 1]]
    return ", ".join(f"{at}: {'-' if pages[at] is None else pages[at]}" for at in starts)
