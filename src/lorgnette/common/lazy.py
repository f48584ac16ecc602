"""Names that are imported when they are first used: public ones of a folder (PEP 562), and packages that may lack."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def needed(module: str, package: str, what: str) -> Any:
    """A module of another package.

    Raises:
        ValueError: it is not installed, in one line that says for what it is needed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(f"{what} needs {package}, which is not installed: pip install {package}") from None


def lazy(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, read from the imports of its own `__init__.py`.

    Those under `if TYPE_CHECKING:` (`from house.room import name as name`) tell editors and type checkers what there
    is; here they tell where a name lives, so that `import lorgnette` costs no import of torch. Names that the file
    imports outright are listed in `__all__` too. Call it as `lazy(__name__, __file__)`.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    homes: dict[str, tuple[str, str]] = {}
    outright: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for node in statement.body:
                if isinstance(node, ast.ImportFrom):
                    homes |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
        elif isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("lorgnette."):
            # `name as name` says that the name is handed on, as type checkers understand it.
            outright |= {alias.name for alias in statement.names if alias.asname == alias.name}
    names = sorted({*homes, *outright})

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, there = homes[name]
        return import_module(f"{home}.{there}") if home == package else getattr(import_module(home), there)

    return __getattr__, lambda: names, names
