"""`lorgnette federate keys FOLDER`: certificates and keys of a federation on several machines."""

from __future__ import annotations

from pathlib import Path

from lorgnette.cli.arguments import Arguments
from lorgnette.common.values import whole


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "federate keys",
        "lorgnette federate keys study --sites north,south --host fed.example.org",
        "Makes an authority, a certificate for the server and a key pair for each site. Called again with new sites "
        "it adds those; nothing that exists is overwritten. Private files can be read by their owner alone.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the federation's, as `lorgnette federate init` makes it")
    parser.add_argument("--sites", required=True, metavar="NAMES", help="how many, or their names: 3, or north,south")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="name or address of the server; may be given several times",
    )
    parser.add_argument(
        "--days", type=whole(1, 3650), default=365, metavar="N", help="how long certificates hold (365)"
    )
    options = parser.read(words)

    from lorgnette.federate.deploy.deployment import SETTINGS_FILE, copy_settings_to_sites, read_deployment
    from lorgnette.federate.deploy.keys import make_keys, site_names

    hosts = list(options.host)
    has_settings = (Path(options.folder) / SETTINGS_FILE).is_file()
    if has_settings:
        own = read_deployment(options.folder).host
        hosts = list(dict.fromkeys([own, *hosts]))
    if not hosts:
        raise ValueError("--host: not given, and there is no deployment.yaml to take it from; fed.example.org is one")
    made = make_keys(options.folder, site_names(options.sites), hosts, options.days)
    if has_settings:
        copy_settings_to_sites(options.folder)
    print(f"server     {made.server} (certificate until {made.expires})")
    for name, path in made.sites.items():
        print(f"{name:<10} {path}: hand it to this site, to nobody else")
    print(f"authority  {made.authority}: needed only to make new certificates; keep it off the server")
    return 0
