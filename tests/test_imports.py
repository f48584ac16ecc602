"""Imports point inwards, and the quick things stay quick."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lorgnette.cli import VERBS
from lorgnette.cli.federate import SEVERAL_MACHINES
from lorgnette.systems import ROOMS

SOURCE = Path(__file__).parents[1] / "src"
EDGES = ("cli", "web", "compat", "demo")  # may import everything; nothing but cli imports them
ABOVE_ROOMS = ("checkpoint", "federate", "export")


def imports(file: Path) -> Iterator[str]:
    """Every module a file imports at run time, inner imports included."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    for_types = {node for guard in guards for node in ast.walk(guard)}
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(importer: list[str], imported: list[str]) -> bool:
    """Whether `lorgnette.<importer>` may import `lorgnette.<imported>`; both as dotted parts."""
    home, target = importer[0], imported[0]
    if target in EDGES:
        return home in (*EDGES, "__main__") and (home == target or target != "compat")
    if home in EDGES:
        return True
    if home == "lora":
        return target in ("lora", "files")
    if home == "nn":
        return target in ("nn", "lora")  # blocks read their parameters through the adapters
    if target == "systems" and len(imported) > 1 and imported[1] in ROOMS:  # a room, not the table of rooms
        return importer[:2] == imported[:2]
    if target in ABOVE_ROOMS:
        return home in ABOVE_ROOMS
    return True


def test_imports_point_inwards():
    wrong = []
    for file in sorted((SOURCE / "lorgnette").rglob("*.py")):
        parts = list(file.relative_to(SOURCE / "lorgnette").with_suffix("").parts)
        if parts == ["__init__"]:  # the lazy names
            continue
        for module in imports(file):
            root, *path = module.split(".")
            if root == "lorgnette" and path and not allowed(parts, path):
                wrong.append(f"{'.'.join(parts)} imports {module}")
            if parts[0] == "lora" and root not in {
                "lorgnette",
                "torch",
                "numpy",
                "safetensors",
                *sys.stdlib_module_names,
            }:
                wrong.append(f"{'.'.join(parts)} imports {root}")
    assert wrong == []


def cpu_seconds(code: str) -> tuple[str, float]:
    """Output of Python code in a process of its own, and the processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


VERBS_OF_ROOMS = ("train", "federate")


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        *(f"{verb} --help" for verb in VERBS),
        *(f"{v} {room} --help" for v in VERBS_OF_ROOMS for room in ROOMS),
        *(f"federate {name} --help" for name in SEVERAL_MACHINES),
    ],
)
def test_help_is_quick_and_imports_no_torch(words: str):
    run = f"from lorgnette.cli import main; status = main({words.split()})"
    tries = [cpu_seconds(f"import sys; {run}; print(status, 'torch' in sys.modules)") for _ in range(2)]
    assert all(output.endswith("\n0 False\n") for output, _ in tries)
    assert min(seconds for _, seconds in tries) < 0.3


def test_the_package_and_its_settings_import_no_torch():
    settings = "; ".join(f"from lorgnette.systems.{room} import Recipe; Recipe()" for room in ROOMS)
    ours = "import lorgnette; lorgnette.LoRAConfig(r=2); lorgnette.TrainConfig()"
    assert cpu_seconds(f"{ours}; {settings}; import sys; print('torch' in sys.modules)")[0] == "False\n"


def test_every_public_name_is_there():
    import lorgnette

    assert set(lorgnette.__all__) == set(dir(lorgnette))
    for name in lorgnette.__all__:
        assert getattr(lorgnette, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'bulid'"):
        lorgnette.bulid  # noqa: B018


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_s_names_are_not_hidden_by_its_modules(name: str):
    """Importing `room.x` makes the module an attribute `x` of the room: no public name may be called so."""
    room = importlib.import_module(ROOMS[name])
    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
        importlib.import_module(module.name)
    assert [public for public in room.__all__ if isinstance(getattr(room, public), ModuleType)] == []
