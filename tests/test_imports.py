"""Imports point inwards, and the quick things stay quick."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lorgnette.cli import VERBS
from lorgnette.cli.federate import SEVERAL_MACHINES
from lorgnette.systems import ROOMS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# Who may import whom at the top of the package, from the ground up: each line names parts of lines above it only.
# A new file or folder at the top gets a line here, or the test fails.
TOP = {
    "version": "",
    "common": "",
    "settings": "common",
    "lora": "common",
    "images": "common",
    "report": "common",
    "nn": "common lora",
    "train": "common lora report",
    "prune": "common lora train",
    "tiles": "common images",
    "peers": "common images",
    "systems": "common settings lora images report nn train tiles peers",
    "recipe": "common settings lora train systems",
    "video": "common images report train tiles systems",
    "checkpoint": "common settings lora train systems recipe",
    "shipped": "common lora images systems recipe checkpoint",
    "federate": "version common settings lora report train systems recipe checkpoint",
    "export": "version common settings lora images tiles train systems recipe checkpoint shipped",
    "enhancing": "version common lora images systems checkpoint shipped export",
    "sharing": "version common lora train systems checkpoint",
    "compat": "common settings lora images nn train systems recipe video checkpoint federate",
    "demo": "common settings lora images report train systems recipe checkpoint enhancing",
    "web": "version common settings lora images report train systems recipe checkpoint shipped enhancing",
    "cli": "version common settings lora images report train tiles systems recipe video checkpoint shipped federate"
    " enhancing export sharing prune demo web",
}

# The same inside folders whose parts have an order of their own. In every other folder there is no circle.
INSIDE = {
    "federate": {
        "settings": "",
        "aggregation": "",
        "wire": "settings aggregation",
        "rounds": "settings aggregation wire",
        "run": "settings aggregation wire rounds",
        "deploy": "settings wire rounds run",
        "flower": "settings aggregation wire rounds run deploy",
    },
    "lora": {
        "config": "",
        "kernels": "",
        "layers": "config kernels",
        "load_report": "layers",
        "record": "",
        "finite": "",
        "wrappers": "",
        "state": "layers load_report finite record wrappers",
        "resting": "layers state",
        "checks": "layers wrappers",
        "targets": "config layers",
        "selection": "config layers targets wrappers",
        "surgery": "config layers record state resting targets selection wrappers",
        "strength": "layers surgery",
        "planning": "config layers targets selection surgery wrappers",
        "merging": "layers finite record state surgery wrappers",
        "files": "config layers load_report finite record state targets selection surgery wrappers",
        "ranks": "checks layers wrappers",
        "several": "config layers state surgery files ranks wrappers",
    },
    "systems": {"protocol": "", **dict.fromkeys(ROOMS, "protocol")},
    "systems.mesh": {
        "volumes": "",
        "surface": "volumes",
        "files": "surface",
        "metrics": "surface",
        "picture": "surface files",
        "viewer": "surface",
        "report": "surface volumes picture viewer",
        "recipe": "",
        "keys": "",
        "cube_cases": "",
        "lattice": "keys cube_cases",
        "structure": "keys lattice",
        "convolution": "structure",
        "dual": "keys cube_cases",
        "flexicubes": "keys lattice dual",
        "model": "structure convolution",
        "trunk": "structure model",
        "weights": "recipe model",
        "samples": "cube_cases lattice flexicubes",
        "slices": "volumes lattice samples",
        "cases": "volumes recipe samples",
        "data": "recipe samples cases",
        "losses": "lattice flexicubes samples",
        "task": "recipe structure flexicubes model weights samples losses",
        "evaluate": "cases data task metrics",
        "predict": "flexicubes samples task surface",
        "exporting": "task samples trunk",
        "miniature": "recipe samples",
    },
    "train": {
        "config": "",
        "events": "",
        "task": "config",
        "batches": "",
        "optim": "config",
        "loop": "config events task batches optim",
        "budget": "config events task batches loop",
        "listeners": "events",
    },
}

# Libraries that only one part of the house knows.
ONLY = {
    "flwr": "federate.flower",
    "ray": "federate.flower",
    "httpx": "federate.flower",  # these three come with Flower
    "fastapi": "federate.flower web",
    "uvicorn": "federate.flower web",
    "starlette": "web",
    "gradio": "web.page",
    "prometheus_client": "web",
    "cryptography": "federate.deploy",
    "av": "video",
    "nibabel": "systems.mesh",
    "pydicom": "systems.mesh",
    "highdicom": "systems.mesh",
    "fast_simplification": "systems.mesh",
    "transformers": "systems.clip compat",
    "tokenizers": "systems.clip",
    "numba": "nn systems.superres.decoders systems.mesh.surface",
    "triton": "nn",
    "onnxruntime": "export systems.faceview",
    "onnx": "export systems.faceview",
    "onnxscript": "export",
    "torch_pruning": "prune",
    "executorch": "export",
    "torchao": "export",
    "accelerate": "train",
    "huggingface_hub": "common.hub systems.clip",
    "jsonargparse": "settings",
    "tifffile": "images",
}
LORA_NEEDS = {"lorgnette", "torch", "numpy", "safetensors", *sys.stdlib_module_names}


def drawn() -> ModuleType:
    """tools/imports.py, which reads the imports and draws them."""
    spec = importlib.util.spec_from_file_location("imports", ROOT / "tools" / "imports.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = drawn()
IMPORTS = TOOL.module_imports(SOURCE / "lorgnette")


@pytest.mark.parametrize("folder", ["", *INSIDE])
def test_each_part_imports_what_its_line_allows(folder: str):
    rules = INSIDE.get(folder, TOP)
    arrows = TOOL.arrows_between(IMPORTS, folder)
    assert sorted(arrows) == sorted(rules), "the table lists every part, and no other"
    for number, (part, allowed) in enumerate(rules.items()):
        assert set(allowed.split()) <= {*list(rules)[:number]}, f"{part}: only parts further down"
    wrong = [f"{a} imports {b}" for a, targets in arrows.items() for b in targets if b not in rules[a].split()]
    assert wrong == []


@pytest.mark.parametrize("folder", TOOL.folders(IMPORTS))
def test_no_folder_has_a_circle(folder: str):
    assert TOOL.circles(TOOL.arrows_between(IMPORTS, folder)) == []


def test_files_import_each_other_in_one_direction():
    """Across folders too; what a folder hands on counts as the folder."""
    assert TOOL.circles(IMPORTS) == []


def test_a_circle_is_found():
    around = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert TOOL.circles(around) == [["a", "b", "c"]]
    with pytest.raises(ValueError, match="import each other"):
        TOOL.drawing(around)


def test_the_table_of_rooms_imports_no_room():
    assert not {target for target in IMPORTS["systems"] if target.split(".")[1:2] and target.split(".")[1] in ROOMS}


def test_libraries_stay_where_they_are_known():
    wrong = []
    for file in sorted((SOURCE / "lorgnette").rglob("*.py")):
        name = TOOL.name_of(file, SOURCE / "lorgnette")
        for library in {target.partition(".")[0] for target in TOOL.imported_names(file)}:
            homes = ONLY.get(library, "").split()
            if homes and not any(f"{name}.".startswith(f"{home}.") for home in homes):
                wrong.append(f"{name} imports {library}")
            if name.startswith("lora") and library not in LORA_NEEDS:
                wrong.append(f"{name} imports {library}")
    assert wrong == []


def test_the_drawing_is_of_today():
    """Made again by: python tools/imports.py --svg docs/images/imports.svg"""
    expected = TOOL.drawing(TOOL.arrows_between(IMPORTS))
    assert (ROOT / "docs" / "images" / "imports.svg").read_text(encoding="utf-8") == expected


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
        "prepare mesh --help",
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
