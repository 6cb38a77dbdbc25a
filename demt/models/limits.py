"""A limit on the size of networks: configurations come from files, and a few bytes can ask for millions of modules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_module_registration_hook

#: The largest models of demt and of timm have about 1,800; this many are built in a second or two.
MAX_MODULES = 4096


@contextmanager
def limited_modules() -> Iterator[None]:
    """Within it, this thread builds networks of at most `MAX_MODULES` modules.

    Raises:
        ValueError: as soon as there are more, before they take time and memory.
    """
    thread, count = threading.get_ident(), 0

    def on_registration(*_: Any) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            if count > MAX_MODULES:
                raise ValueError(f"Expected a network of at most {MAX_MODULES:,} modules: use fewer or smaller blocks")

    hook = register_module_module_registration_hook(on_registration)
    try:
        yield
    finally:
        hook.remove()
