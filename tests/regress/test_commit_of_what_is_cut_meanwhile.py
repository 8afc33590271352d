"""A commit in Magenta's words trims its range; what another thread cuts meanwhile is trimmed too.

It was an I/O error, from the pages that were not there any more.
"""

from __future__ import annotations

import pytest

import pinfold as pf
from pinfold.dialects import Out, mx
from pinfold.host import calls

PAGE = pf.PAGE_SIZE


@pytest.mark.parametrize("left", [0, 3])
def test_a_commit_while_the_object_shrinks(left: int) -> None:
    with mx.Process(pf.Kernel()) as process:
        out, size = Out(), Out()
        assert mx.mx_vmo_create(8 * PAGE, 0, out) == mx.MX_OK
        names: list[str] = []

        def interceptor(name: str) -> None:
            names.append(name)
            if name == "madvise" and names.count("madvise") == 1:
                assert mx.mx_vmo_set_size(out.value, left * PAGE) == mx.MX_OK

        calls.set_interceptor(interceptor)
        try:
            commit = mx.MX_VMO_OP_COMMIT
            found = mx.mx_vmo_op_range(out.value, commit, 0, 8 * PAGE, None, 0)
        finally:
            calls.set_interceptor(None)
        assert found == mx.MX_OK
        assert names.count("madvise") == (2 if left else 1)
        assert mx.mx_vmo_get_size(out.value, size) == mx.MX_OK
        assert size.value == left * PAGE
        assert mx.mx_handle_close(out.value) == mx.MX_OK
        process.exit()
