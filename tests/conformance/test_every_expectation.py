"""Every expectation of every case counts: turned into its contrary, it is found not to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .calls import LACKING
from .runner import CASES, Verdict, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .slips import Step


pytestmark = pytest.mark.slow


def other_status(expect: Any) -> Any:
    """What holds exactly when ``expect`` does not."""
    match expect:
        case str():
            return {"not": expect}
        case {"not": str(status)}:
            return status
    return "SHOULD_WAIT"  # none of several: no call here gives it


def other_data(word: dict[str, Any]) -> dict[str, Any]:
    """As many bytes, of which the last is another."""
    if "ascii" in word:
        return {"ascii": word["ascii"][:-1] + "~"}
    kind = "fill" if "fill" in word else next(iter(word))
    return {**word, kind: word[kind] ^ 1}


def other_field(name: str, wanted: Any) -> Iterator[Any]:
    """What a field cannot be if it is as ``wanted``, for each thing that is wanted of it."""
    contrary = {"has": "lacks", "lacks": "has"}
    match wanted:
        case {"le": _}:
            return  # a number below it may well be 0
        case {"from": base, "add": add, "remove": remove}:
            yield {"from": base, "add": [*add, "MANAGE_JOB"], "remove": remove}
            yield {"from": base, "add": add, "remove": [*remove, "READ"]}
        case {"exactly": flags}:
            yield {"exactly": flags[1:]}
        case dict():
            for key, flags in wanted.items():
                for flag in flags:
                    yield {contrary[key]: [flag]}
        case _ if name in ("type", "cache_policy"):
            yield "JOB" if name == "type" else "UNCACHED_DEVICE"
        case _:
            yield f"({wanted}) + 1"


def other_checks(step: Step) -> Iterator[Step]:
    """The contraries of a check."""
    if "expr" in step:
        yield {**step, "expr": f"({step['expr']}) == (PAGE == 0)"}
    for at, flag in enumerate(step.get("mapped", [])):
        yield {**step, "mapped": [*step["mapped"][:at], 1 - flag, *step["mapped"][at + 1 :]]}
    for at, part in enumerate(step.get("layout", [])):
        for prot in (None, [], ["PERM_READ"], ["PERM_READ", "PERM_WRITE"]):
            if prot != part["prot"]:
                changed = {**part, "prot": prot}
                yield {**step, "layout": [*step["layout"][:at], changed, *step["layout"][at + 1 :]]}


def others(step: Step) -> Iterator[Step]:
    """The contraries of what a step expects, one expectation after another."""
    if "check" in step:
        yield from other_checks(step)
        return
    status = other_status(step["expect"])
    yield {"call": step["call"], "args": step["args"], "expect": status}
    if "data" in step and step["args"]["length"] != 0:
        yield {**step, "data": other_data(step["data"])}
    if "value" in step:
        named = step["args"].get("property") == "NAME"
        yield {**step, "value": f"{step['value']}~" if named else f"({step['value']}) + 1"}
    if "actual" in step:
        yield {**step, "actual": f"({step['actual']}) - 1"}
    for name, wanted in step.get("fields", {}).items():
        for contrary in other_field(name, wanted):
            yield {**step, "fields": {name: contrary}}


RUNNABLE = [
    made
    for made in CASES
    if not any(step.get("call") in LACKING for step in made["steps"])
    and (made["contentious"] or {}).get("kind") != "either"
]


@pytest.mark.parametrize("area", list(dict.fromkeys(made["area"] for made in RUNNABLE)))
def test_the_contrary_of_each_expectation_is_found_not_to_hold(area: str) -> None:
    """A key that the runner overlooks, or a comparison that is always true, ends here."""
    held = []
    for made in RUNNABLE:
        if made["area"] != area:
            continue
        for at, step in enumerate(made["steps"]):
            for contrary in others(step):
                result = run({**made, "steps": [*made["steps"][:at], contrary]})
                if result.verdict is not Verdict.FAILED or result.error is not None:
                    held.append((made["id"], at + 1, contrary, result.reason))
                    continue
                assert result.reason.startswith(f"step {at + 1} of {at + 1}")
    assert held == []
