"""Who imports whom in the package, and a drawing of it.

    python tools/imports.py                        # counts: parts, arrows, circles, at the top and in each folder
    python tools/imports.py --svg docs/images/imports.svg
    python tools/imports.py --source OTHER/src/lorgnette

A *part* of a folder is a file or a folder in it. An arrow leads from a part to another that it imports at run time,
anywhere in its files, inside functions too; imports for type checkers alone do not count.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "lorgnette"

Arrows = dict[str, set[str]]
"""For each part the parts it imports."""


def imported_names(file: Path) -> Iterator[str]:
    """The dotted name of everything that a file imports at run time."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    for_types = {node for guard in guards for node in ast.walk(guard)}
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{file}: imports are written in full, not with leading dots")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_imports(source: Path) -> dict[str, set[str]]:
    """For each file below `source`, as a dotted name without the package's, which of the others it imports.

    A name that a folder hands on (`lorgnette.lora.inject_lora`) is an import of the folder.
    """
    files = {name_of(file, source): file for file in sorted(source.rglob("*.py"))}
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        found[name] = set()
        for target in imported_names(file):
            package, _, rest = target.partition(".")
            if package != source.name:
                continue
            while rest and rest not in files:
                rest = rest.rpartition(".")[0]
            if rest and rest != name:
                found[name].add(rest)
    return found


def name_of(file: Path, source: Path) -> str:
    """`source/lora/config.py` -> 'lora.config', `source/lora/__init__.py` -> 'lora'."""
    parts = list(file.relative_to(source).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def arrows_between(imports: Mapping[str, set[str]], folder: str = "") -> Arrows:
    """The arrows between the parts of a folder, '' for the whole package.

    A folder's `__init__` hands names on and is no part of it.
    """
    start = f"{folder}." if folder else ""

    def part(name: str) -> str:
        return name.removeprefix(start).split(".")[0] if name.startswith(start) else ""

    arrows: Arrows = {part(name): set() for name in imports if part(name) and not part(name).startswith("__")}
    for name, targets in imports.items():
        for target in targets:
            if part(name) in arrows and part(target) in arrows and part(name) != part(target):
                arrows[part(name)].add(part(target))
    return arrows


def circles(arrows: Arrows) -> list[list[str]]:
    """Parts that import each other, directly or around several corners: the strongly connected groups."""
    reach: Arrows = {}
    for start in arrows:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for target in arrows.get(ahead.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    ahead.append(target)
        reach[start] = seen
    groups = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in arrows if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def folders(imports: Mapping[str, set[str]]) -> list[str]:
    """All folders that have parts, the whole package ('') first."""
    return sorted({"", *(name.rpartition(".")[0] for name in imports)})


def floors(arrows: Arrows) -> list[list[str]]:
    """The parts by the longest way down from them: what imports nothing is last."""
    height: dict[str, int] = {}

    def measure(part: str) -> int:
        if part not in height:
            height[part] = 1 + max((measure(below) for below in arrows[part]), default=-1)
        return height[part]

    for part in arrows:
        measure(part)
    return [sorted(p for p in arrows if height[p] == level) for level in range(max(height.values()), -1, -1)]


def drawing(arrows: Arrows) -> str:
    """An SVG in which every arrow leads downwards.

    Raises:
        ValueError: there is a circle.
    """
    if found := circles(arrows):
        raise ValueError(f"these parts import each other: {found}")
    rows, box, row_height, width = floors(arrows), 104, 92, 1180
    place = {}
    for number, row in enumerate(rows):
        for index, part in enumerate(row):
            place[part] = (width * (index + 1) / (len(row) + 1), 40 + number * row_height)
    height = 80 + (len(rows) - 1) * row_height
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="14">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for part in sorted(arrows):
        x, y = place[part]
        for target in sorted(arrows[part]):
            to_x, to_y = place[target]
            bend = (to_y - y) / 2
            path = (
                f"M{x:.0f} {y + 15:.0f} C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y - 15:.0f}"
            )
            near = to_y - y <= row_height
            style = 'stroke="#4a6a8a" stroke-width="1.4"' if near else 'stroke="#9db2c6" stroke-width="1"'
            lines.append(f'<path d="{path}" fill="none" {style}><title>{part} imports {target}</title></path>')
    for part in sorted(arrows):
        x, y = place[part]
        lines.append(
            f'<rect x="{x - box / 2:.0f}" y="{y - 15}" width="{box}" height="30" rx="5" fill="#eef3f8" '
            f'stroke="#4a6a8a"/><text x="{x:.0f}" y="{y + 5}" text-anchor="middle" fill="#1d2b3a">{part}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SOURCE, help="the package's folder")
    parser.add_argument("--svg", type=Path, help="write the drawing of the top to this file")
    options = parser.parse_args()
    imports = module_imports(options.source.resolve())
    print(f"{'folder':<24}{'parts':>6}{'arrows':>8}{'circles':>9}")
    for folder in folders(imports):
        arrows = arrows_between(imports, folder)
        found = circles(arrows)
        print(f"{folder or '(top)':<24}{len(arrows):>6}{sum(map(len, arrows.values())):>8}{len(found):>9}", *found)
    if options.svg:
        options.svg.write_text(drawing(arrows_between(imports)), encoding="utf-8")


if __name__ == "__main__":
    main()
