"""`lorgnette federate check FOLDER`: a site's dry run."""

from __future__ import annotations

from typing import Any

from lorgnette.cli.arguments import Arguments, add_strict


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    folder, given, strict = site_words(
        words,
        "federate check",
        "lorgnette federate check north --data.root /data/north",
        "Tries what a site needs before the rounds: keys, server, clock, data, the same base model and adapter. "
        "Nothing is sent. Exit status 2 where something has to be put right.",
    )
    from lorgnette.federate.flower.check import check_site

    good = True
    for finding in check_site(folder, given, strict):
        print(f"{'ok  ' if finding.good else 'NOT '} {finding.what:<15} {finding.says}", flush=True)
        good = good and finding.good
    if good:
        print(f"\nready: lorgnette federate node {folder} ...")
    return 0 if good else 2


def site_words(words: list[str], verb: str, example: str, about: str) -> tuple[str, dict[str, Any], bool]:
    """A site's folder, its own settings by flat name, and whether it refuses data of which something is left out."""
    from lorgnette import settings
    from lorgnette.federate.deploy.deployment import read_deployment, with_own_settings

    parser = Arguments(verb, example, about)
    parser.add_argument("folder", metavar="FOLDER", help="the site's, as the server's operator handed it out")
    add_strict(parser)
    parser.epilog = "Settings of a site's own: --data.* of the room, --train.device, --train.workers"
    deployment = read_deployment(parser.read(words[:1]).folder)
    parser.add_settings(type(deployment.recipe))
    options = parser.read(words)
    values = settings.from_options(type(deployment.recipe), options.settings)
    with_own_settings(deployment, values)
    return options.folder, values, options.strict
