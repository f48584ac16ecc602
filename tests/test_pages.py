"""The script that runs the command blocks of README and the tutorials: what it finds, skips, and calls a failure."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "run_pages.py"
PAGE = """\
# A page

```text
lorgnette this is no command
```

```bash
lorgnette train superres --data.root photos --lora.r 2 \\
    --model.encoder edsr-tiny --model.base none --out runs/a   # over two lines
ls runs/NAME/adapter/recipe.yaml && cp runs/NAME/adapter/recipe.yaml mine.yaml
```

<!-- not run: needs a GPU -->
```bash
false
```

<!-- run -->
```python
from pathlib import Path

seen = Path("mine.yaml").read_text()
```

```python
assert "steps: 2" in seen and "batch_size: 2" in seen
```
"""


def run(page: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, TOOL, page, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def page():
    """A file within the checkout, as pages are."""
    path = ROOT / "docs" / "tutorials" / ".page-of-a-test.md"
    yield path
    path.unlink()


def test_blocks_run_in_turn_and_what_is_not_run_is_listed(page: Path):
    page.write_text(PAGE)
    status, told = run(page, "--short")
    assert status == 0, told
    assert len(re.findall(r"\.md:\d+  [\d.]+ s", told)) == 3
    assert "3 blocks of 1 pages were run" in told
    assert re.search(r"1 were not:\n  docs/tutorials/\.page-of-a-test\.md:15  needs a GPU\n", told)


def test_a_block_that_fails_is_named_and_the_others_are_tried(page: Path):
    page.write_text(
        "```bash\nlorgnette info nothing\n```\n\n```python\nassert False, 'as said'\n```\n\n```bash\ntrue\n```\n"
    )
    status, told = run(page)
    assert status == 1
    assert re.search(r"\.md:2  FAILED: status 2 of: lorgnette info nothing\n.*no such file or folder", told)
    assert re.search(r"\.md:6  FAILED: as said", told)
    assert re.search(r"\.md:10  [\d.]+ s", told)
    assert "FAILED: docs/tutorials/.page-of-a-test.md" in told


def test_every_command_block_of_the_pages_is_found():
    """None is passed over by a fence that is written in another way."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        fences = len(re.findall(r"^\s*(?:```|~~~)\s*(?:bash|sh|shell|console|python|py)\b", text, re.MULTILINE))
        found = subprocess.run(
            [sys.executable, "-c", f"import run_pages as r; print(len(r.blocks(r.Path({str(page)!r}))))"],
            capture_output=True, text=True, check=True, cwd=TOOL.parent,
        )  # fmt: skip
        assert int(found.stdout) == fences, page
        assert len(re.findall(r"<!-- not run", text)) == len(re.findall(r"<!-- not run: [^\n]+ -->\n```", text)), page
