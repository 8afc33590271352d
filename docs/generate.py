# Writes the reference pages in docs/reference: errors.md, api.md, and zircon_calls.md,
# magenta_calls.md and aix_services.md.
#
# errors.md comes from the error catalogue of the tests: every case is provoked here, and what the
# error says is what the page prints. api.md comes from the docstrings of what `pinfold` exports,
# and of the attributes beside them, which only the source has; the other three from those of the
# dialects.
#
# The output is the same on every run. What differs between runs or machines is left out of the
# messages: addresses of this process, and the facts that a case declares to vary.
from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the catalogue is part of the tests, which are not installed

from tests.catalogue import ROWS  # noqa: E402 - needs the path above
from tests.stage import CannotHappen, Case, Stage  # noqa: E402 - needs the path above

import pinfold  # noqa: E402 - needs the path above
from pinfold import errors  # noqa: E402 - needs the path above
from pinfold.dialects import aix, mx, zx  # noqa: E402 - needs the path above
from pinfold.errors import PinfoldError  # noqa: E402 - needs the path above
from pinfold.objects.handle import Handle  # noqa: E402 - needs the path above

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CALLS: Final = {
    "zx_bti_pin": "`Bti.pin`",
    "zx_pmt_unpin": "`Pmt.unpin`",
    "zx_vmar_map": "`Vmar.map`",
}


def generate(target: Path) -> list[Path]:
    """Write the pages into the folder ``target``; their paths."""
    target.mkdir(parents=True, exist_ok=True)
    pages = {
        "errors.md": errors_page(),
        "api.md": api_page(),
        "zircon_calls.md": calls_page(zx, ZIRCON_HEAD),
        "magenta_calls.md": calls_page(mx, MAGENTA_HEAD),
        "aix_services.md": services_page(),
    }
    for name, text in pages.items():
        (target / name).write_text(text, encoding="utf-8")
    return [target / name for name in pages]


# The error catalogue ----------------------------------------------------------------------------

ERRORS_HEAD: Final = """\
---
hide-toc: true
---
# Errors

Every documented error of three calls, provoked while this page was made. The last column is what
the error said. Facts are attributes of the error too: `asked`, `available`, `limit`, `holder`,
`remedy`, and where they apply `missing` and `extent`. Addresses of the process that made the page,
and figures of its machine, are shown as `…`.

After every one of these failures nothing is granted, nothing is counted and nothing is open that
was not before; the tests that hold the errors to this table check that as well.
"""


def errors_page() -> str:
    """The whole of errors.md."""
    parts = [ERRORS_HEAD]
    for call, ours in CALLS.items():
        parts.append(f"## {call}: {ours}\n")
        rows = [row for row in ROWS if row.call == call]
        parts.append(
            table(
                ("documented status", "when", "raises", "is also a", "what it says"),
                [case_row(row) for row in rows if isinstance(row, Case)],
            )
        )
        cannot = [row for row in rows if isinstance(row, CannotHappen)]
        if cannot:
            parts.append("What a C caller can get wrong and a Python caller cannot:\n")
            parts.append(
                table(
                    ("documented status", "when", "why it cannot happen"),
                    [(f"`{row.status.value}`", row.when, row.why) for row in cannot],
                )
            )
    parts.append("## Every class\n\nAll of them are in `pinfold.errors`.\n")
    parts.append(
        table(
            ("class", "status", "is also a", "meaning"),
            [
                (f"`{kind.__name__}`", f"`{kind.status.value}`", built_ins(kind), first_line(kind))
                for kind in error_classes()
            ],
        )
    )
    return "\n".join(parts)


def case_row(case: Case) -> tuple[str, ...]:
    """One row of the table, from the error that the case really raises."""
    with Stage(case.max_pinned) as stage:
        act = case.arrange(stage)
        try:
            act()
        except PinfoldError as error:
            if type(error) is not case.error:
                raise AssertionError(f"{case}: raised {type(error).__name__}") from error
            said = in_public(case, error)
        else:
            raise AssertionError(f"{case}: nothing was raised")
    return (
        f"`{case.status.value}`",
        case.when,
        f"`{case.error.__name__}`",
        built_ins(case.error),
        f"`{said}`",
    )


def in_public(case: Case, error: PinfoldError) -> str:
    """The message without what differs from run to run."""
    text = str(error)
    for name, value in error.facts():
        if name in case.varies:
            shown = f"{value:#x}" if isinstance(value, int) else str(value)
            text = text.replace(f"{name} {shown}", f"{name} …")
    if "address" in case.varies:
        text = re.sub(r"0x[0-9a-f]{9,}", "…", text)
    return re.sub(r"(?:/[^/\s:,)]+)+/([^/\s:,)]+\.py)", r"\1", text)


def built_ins(kind: type[PinfoldError]) -> str:
    """The built-in exceptions that a class is, beside `Exception`."""
    found = [
        base.__name__
        for base in kind.__mro__
        if base.__module__ == "builtins" and base not in (Exception, BaseException, object)
    ]
    return ", ".join(f"`{name}`" for name in found[:1]) or "-"


def error_classes() -> list[type[PinfoldError]]:
    """Every error class of pinfold, in the order of its module."""
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, PinfoldError)
    ]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    titles = list(head)
    return "\n".join([line(titles), line("---" for _ in titles), *map(line, rows)]) + "\n"


# The API ----------------------------------------------------------------------------------------

API_HEAD: Final = """\
# API

What `import pinfold` gives, from the docstrings. Offsets and sizes are bytes, ranges are half-open,
and the errors are described in [](errors.md).
"""

SECTION: Final = re.compile(
    r"^(Args|Returns|Raises|Attributes|Yields|Errors(?:, in this order)?|"
    r"Of [^:]+, then|Last, of all|Returns \w.*):$"
)
ITEM: Final = re.compile(r"^ {2}(\S[^:]*): (.*)$")


def api_page() -> str:
    """The whole of api.md."""
    classes, functions, values = [], [], []
    for name in sorted(pinfold.__all__, key=str.lower):
        value = getattr(pinfold, name)
        if inspect.isclass(value):
            classes.append(class_part(name, value))
        elif inspect.isfunction(value):
            functions.append(f"### {name}\n\n{signed(name, value)}\n{document(value.__doc__)}")
        else:
            values.append(value_part(name, value))
    handle = class_part("Handle", Handle, about="What every handle can do, of whatever kind.")
    parts = [
        API_HEAD,
        "## Functions\n",
        *functions,
        "## Handles in general\n",
        handle,
        "## Classes\n",
        *classes,
        "## Types and values\n",
        *values,
    ]
    return "\n".join(parts)


def class_part(name: str, kind: type[Any], *, about: str = "") -> str:
    """A class: signature, docstring, attributes, then its own public methods."""
    parts = [f"### {name}\n"]
    if about:
        parts.append(f"{about}\n")
    if is_made_by_callers(kind):
        parts.append(signed(name, kind))
    if bases := ours_among(kind.__bases__):
        parts.append(f"A {bases}.\n")
    if not is_generated(kind):
        parts.append(document(kind.__doc__))
    noted = attribute_notes(kind)
    names = [member.name for member in kind] if issubclass(kind, enum.Enum) else list(noted)
    prefix = f"{name}." if issubclass(kind, enum.Enum) else ""
    for attribute in names:
        note = noted.get(attribute, "")
        if note or prefix:
            parts.append(f"- `{prefix}{attribute}`" + (f": {note}" if note else ""))
    parts.append("")
    parts.extend(member_part(name, *member) for member in public_members(kind))
    return "\n".join(parts)


def is_made_by_callers(kind: type[Any]) -> bool:
    """True when the signature says something: others are found by their names, or made for you."""
    if issubclass(kind, enum.Enum | BaseException) or getattr(kind, "_is_protocol", False):
        return False
    return kind is not Handle and kind.__init__ not in (object.__init__, Handle.__init__)


def ours_among(bases: Iterable[type]) -> str:
    """The public bases of a class, as words."""
    names = [base.__name__ for base in bases if base in (Handle, PinfoldError)]
    return ", ".join(f"`{name}`" for name in names)


def is_generated(kind: type[Any]) -> bool:
    """True when the docstring is the signature that `dataclass` writes in its absence."""
    return (kind.__doc__ or "").startswith(f"{kind.__name__}(")


def public_members(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """The methods and properties that a class itself defines, in the order of the source.

    With those of the classes that it is made of and that nobody is meant to name.
    """
    parts = [kind, *(base for base in kind.__mro__[1:] if is_part(base))]
    members = {name: value for part in parts for name, value in vars(part).items()}
    for attribute, value in members.items():
        if attribute.startswith("_") or (kind is Handle and attribute == "wrap"):
            continue  # wrap is how pinfold itself makes one
        if isinstance(value, property | classmethod | staticmethod) or inspect.isfunction(value):
            yield attribute, value


def is_part(kind: type[Any]) -> bool:
    """True for a class of pinfold's handles that is not public: a part of one that is."""
    return issubclass(kind, Handle) and kind is not Handle and kind.__name__ not in pinfold.__all__


def member_part(owner: str, name: str, value: Any) -> str:
    """One method or property."""
    if isinstance(value, property):
        return f"#### {owner}.{name}\n\n{document(value.__doc__)}"
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    return f"#### {owner}.{name}()\n\n{signed(f'{owner}.{name}', function)}\n" + document(
        function.__doc__
    )


def value_part(name: str, value: object) -> str:
    """A type alias or a constant; its docstring stands after it in the source."""
    module = next(
        node.module
        for node in ast.walk(tree_of("pinfold"))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and name in (alias.name for alias in node.names)
    )
    return f"### {name}\n\n{document(notes_in(tree_of(module).body).get(name, ''))}"


class Bare:
    """An annotation that `inspect` prints as it stands in the source, without quotes."""

    def __init__(self, annotation: object) -> None:
        self.text = (
            annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        )

    def __repr__(self) -> str:
        return self.text


# The dialects' calls -----------------------------------------------------------------------------

ZIRCON_HEAD: Final = """\
# Zircon's calls, one by one

What `pinfold.dialects.zx` has, from the docstrings. [](../zircon.md) says how calls are typed.
Errors are listed in the order in which they are found: the first one is returned.
"""


MAGENTA_HEAD: Final = """\
# Magenta's calls, one by one

What `pinfold.dialects.mx` has, from the docstrings. [](../magenta.md) says how calls are typed.
Errors are listed in the order in which they are found: the first one is returned.
"""


def calls_page(dialect: Any, head: str) -> str:
    """The whole of a dialect's page."""
    prefix = dialect.__name__.rpartition(".")[2] + "_"
    calls = {
        name: value
        for name, value in vars(dialect).items()
        if name in dialect.__all__ and inspect.isfunction(value)
    }
    parts = [head]
    for title, chosen in (
        ("## Calls\n", sorted(name for name in calls if name.startswith(prefix))),
        ("## Beside them\n", sorted(name for name in calls if not name.startswith(prefix))),
    ):
        parts.append(title)
        for name in chosen:
            text = document(calls[name].__doc__)
            parts.append(f"### {name}\n\n{signed(name, calls[name])}\n{text}")
    return "\n".join(parts)


AIX_HEAD: Final = """\
# AIX's services, one by one

What `pinfold.dialects.aix` has, from the docstrings. [](../aix.md) says how services are called.
Results are listed in the order in which they are found: the first one is returned.
"""

AIX_GROUPS: Final = {
    "Pins by address": "pins",
    "Cross memory": "xmem",
    "Descriptors": "descriptor",
    "Pretranslation": "xlate",
    "DMA": "dma",
    "Beside them": "services",
}
"""Titles, and the module of the dialect that has what is under each."""


def services_page() -> str:
    """The whole of aix_services.md."""
    parts = [AIX_HEAD]
    for title, module in AIX_GROUPS.items():
        parts.append(f"## {title}\n")
        for name in aix.__all__:
            value = getattr(aix, name)
            here = getattr(value, "__module__", "") == f"pinfold.dialects.aix.{module}"
            if not here or not callable(value):
                continue
            if inspect.isclass(value):
                parts.append(f"### {name}\n\n{document(value.__doc__)}")
            elif name != value.__name__:  # xmattach64
                parts.append(f"### {name}\n\nThe same as `{value.__name__}` here.\n")
            else:
                parts.append(f"### {name}\n\n{signed(name, value)}\n{document(value.__doc__)}")
    return "\n".join(parts)


def signed(name: str, function: Any) -> str:
    """The signature as a code block; one argument a line when it is long."""
    signature = inspect.signature(function)
    kept = [
        parameter.replace(annotation=Bare(parameter.annotation))
        if parameter.annotation is not parameter.empty
        else parameter
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    result = signature.return_annotation
    making = inspect.isclass(function) or result is signature.empty
    text = str(
        signature.replace(
            parameters=kept, return_annotation=signature.empty if making else Bare(result)
        )
    )
    text = re.sub(r"<(\w+\.\w+): [^>]+>", r"\1", text)  # the repr of an enum member
    text = re.sub(rf"= {pinfold.PAGE_SIZE}\b", "= PAGE_SIZE", text)
    if len(name) + len(text) > 92:
        head, _, tail = text.rpartition(")")
        inner = ",\n    ".join(split_arguments(head[1:]))
        text = f"(\n    {inner},\n){tail}"
    return f"```python\n{name}{text}\n```\n"


def split_arguments(text: str) -> list[str]:
    """The arguments of a signature, at the commas that stand outside brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def document(text: str | None) -> str:
    """A docstring as Markdown: its sections become lists."""
    lines: list[str] = []
    listing = False
    for line in inspect.cleandoc(text or "").splitlines():
        if section := SECTION.match(line.strip()) if not line.startswith("  ") else None:
            lines += [*([] if not lines or not lines[-1] else [""]), f"*{section[1]}:*", ""]
            listing = True
        elif listing and (item := ITEM.match(line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif listing and line.startswith("    "):
            lines.append("  " + line.strip())
        elif listing and line.startswith("  ") and lines[-1] == "":
            lines.append("- " + line.strip())
        elif listing and line.startswith("  "):
            lines.append("  " + line.strip())
        else:
            listing = listing and not line
            lines.append(line.strip() if listing or line.startswith("  ") else line)
    return "\n".join(lines).replace("``", "`").strip() + "\n"


def first_line(kind: type[Any]) -> str:
    """The first sentence of a class's docstring."""
    return (
        inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
    )


def attribute_notes(kind: type[Any]) -> dict[str, str]:
    """The strings after the attributes of a class, by attribute."""
    for node in tree_of(kind.__module__).body:
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            return notes_in(node.body)
    return {}


def notes_in(body: list[ast.stmt]) -> dict[str, str]:
    """Name to the string that follows its assignment; without one, an empty string."""
    found: dict[str, str] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or target.id.startswith("_"):
            continue
        note = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            note = " ".join(str(after.value.value).split()).replace("``", "`")
        found[target.id] = note
    return found


def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(inspect.getsource(importlib.import_module(module)))


if __name__ == "__main__":
    for page in generate(ROOT / "docs" / "reference"):
        print(page.relative_to(ROOT))
