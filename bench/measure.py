# Measuring a subject against a floor on a machine that is shared with others.
#
# A number taken now and a number taken a minute ago do not compare: the clock speed, the neighbours
# and the state of the caches have changed. So subject and floor take turns in short rounds, each
# round starts with another of them, and what is compared is:
#
#   best     the minimum over the rounds: what the code costs when nobody disturbs it
#   median   the middle of the rounds: what it cost here, today
#   paired   the ratio within each round, whose two halves ran within milliseconds
#
# A goal is judged on the best; the median and the middle half of the paired ratios are printed
# beside it, so that a reader sees how much of the answer is the machine.
#
# The garbage collector: a benchmark's set-up is collected and frozen (gc.collect, gc.freeze) and
# the collector is off inside the rounds, as in timeit, so that no round pays for what another left.
# That hides a real cost of holding a million objects, so the pin benchmark has rows with the
# collector on and nothing frozen as well.
from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

Subject = Callable[[int], object]
"""Does the thing so many times; the loop is its own, so that both sides of a ratio have one."""

ROUND_SECONDS = 0.004
ROUNDS = 60
_FEWEST_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to do: a full run, or one that only shows that everything works."""

    once: bool

    def pick(self, full: int, tiny: int) -> int:
        """``full``, or ``tiny`` with --once."""
        return tiny if self.once else full


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for one operation, a number for each round."""

    rounds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The minimum."""
        return min(self.rounds)

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.rounds)

    def quartiles(self) -> tuple[float, float]:
        """Where the middle half of the rounds lies."""
        return _middle_half(self.rounds)

    def over(self, floor: Timing) -> tuple[float, ...]:
        """The ratio to ``floor`` within each round."""
        return tuple(mine / theirs for mine, theirs in zip(self.rounds, floor.rounds, strict=True))


def _middle_half(values: tuple[float, ...]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


@contextmanager
def collector_off() -> Iterator[None]:
    """Collect, freeze what is left, and keep the collector off for the block."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def _seconds(subject: Subject, count: int) -> float:
    start = perf_counter()
    subject(count)
    return perf_counter() - start


def _calibrated(subject: Subject) -> int:
    """How many operations make a round.

    The faster of two tries counts: the first call of anything pays for faults and empty caches, and
    a round cut short by that would be made of nothing else.
    """
    count = 1
    while (took := min(_seconds(subject, count), _seconds(subject, count))) < ROUND_SECONDS:
        count = max(count * 2, int(count * ROUND_SECONDS / took)) if took > 1e-5 else count * 8
    return count


def interleave(
    subjects: Mapping[str, Subject], scale: Scale, *, seconds: float = 4.0, collect: bool = False
) -> dict[str, Timing]:
    """Let the subjects take turns.

    Args:
      subjects: by name; two or more of them, the floors included.
      seconds: about how long all of it may take; fewer rounds are made where one takes long.
      collect: leave the garbage collector on and nothing frozen.
    """
    if scale.once:
        return {
            name: Timing(tuple(max(_seconds(subject, 1), 1e-9) for _ in range(2)))
            for name, subject in subjects.items()
        }
    names = list(subjects)
    rounds: dict[str, list[float]] = {name: [] for name in names}
    if collect:
        _rounds(subjects, names, rounds, seconds)
    else:
        with collector_off():
            _rounds(subjects, names, rounds, seconds)
    return {name: Timing(tuple(taken)) for name, taken in rounds.items()}


def _rounds(
    subjects: Mapping[str, Subject],
    names: list[str],
    rounds: dict[str, list[float]],
    seconds: float,
) -> None:
    counts = {name: _calibrated(subject) for name, subject in subjects.items()}
    began = perf_counter()
    for turn in range(ROUNDS):
        if turn >= _FEWEST_ROUNDS and perf_counter() - began > seconds:
            return
        first = turn % len(names)
        for name in names[first:] + names[:first]:  # nobody is always the one that comes second
            count = counts[name]
            rounds[name].append(_seconds(subjects[name], count) / count)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    claim: str
    """Which benchmark; the name that --only takes."""
    subject: str
    floor: str
    """What it is held against; empty for an absolute number."""
    value: str
    """The subject's own cost, for people."""
    ratio: float | None
    """Subject over floor, of the minima; None for an absolute number."""
    result: str
    """The ratio or the absolute number that the goal is about, with its spread."""
    goal: str
    """Empty where the row is for information."""
    met: bool | None
    """None where there is no goal, and with --once, which asserts nothing about time."""
    why: str = ""
    """One line about a goal that was missed."""


def time_text(seconds: float) -> str:
    """``812 ns``, ``6.42 us``, ``1.31 ms``."""
    for unit, name in ((1e-6, "ns"), (1e-3, "us"), (1.0, "ms")):
        if seconds < unit:
            return f"{seconds / unit * 1e3:.3g} {name}"
    return f"{seconds:.3g} s"


def absolute(
    claim: str,
    subject: str,
    timing: Timing,
    scale: Scale,
    *,
    below: float | None = None,
    why: str = "",
) -> Row:
    """A row about time itself; ``below`` is the goal in seconds."""
    low, high = timing.quartiles()
    missed = below is not None and timing.best >= below
    return Row(
        claim=claim,
        subject=subject,
        floor="",
        value=time_text(timing.best),
        ratio=None,
        result=(
            f"{time_text(timing.best)} (median {time_text(timing.median)}, "
            f"{time_text(low)} to {time_text(high)})"
        ),
        goal=f"< {time_text(below)}" if below is not None else "",
        met=None if below is None or scale.once else not missed,
        why=why if missed else "",
    )


def against(
    claim: str,
    subject: str,
    timing: Timing,
    floor_name: str,
    floor: Timing,
    scale: Scale,
    *,
    at_most: float | None = None,
    share: float | None = None,
    why: str = "",
) -> Row:
    """A row about a ratio: ``at_most`` times the floor's time, or a ``share`` of its speed."""
    ratio = timing.best / floor.best
    paired = timing.over(floor)
    low, high = _middle_half(paired)
    if share is not None:
        result = (
            f"{1 / ratio:.0%} (median {1 / median(paired):.0%}, {1 / high:.0%} to {1 / low:.0%})"
        )
        missed = 1 / ratio < share
        goal = f">= {share:.0%}"
    else:
        result = f"{ratio:.2f}x (median {median(paired):.2f}, {low:.2f} to {high:.2f})"
        missed = at_most is not None and ratio > at_most
        goal = f"<= {at_most:g}x" if at_most is not None else ""
    return Row(
        claim=claim,
        subject=subject,
        floor=f"{floor_name}: {time_text(floor.best)}",
        value=time_text(timing.best),
        ratio=ratio,
        result=result,
        goal=goal,
        met=None if not goal or scale.once else not missed,
        why=why if missed else "",
    )
