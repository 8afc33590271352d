"""The platform room: the only one that enters the Linux kernel or loads a C library.

Nothing here decides anything. A call takes numbers, makes one system call through the seam in
`pinfold.host.calls`, and raises `OSError` when the kernel refuses. What a refusal means is for the
rooms above to say.
"""
