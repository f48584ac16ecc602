"""`lorgnette push FOLDER hub:user/name`: share an adapter or a model on the Hugging Face Hub."""

from __future__ import annotations

from lorgnette.cli.arguments import Arguments
from lorgnette.common.text import size


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "push",
        "lorgnette push runs/NAME/adapter hub:user/name",
        "Shares an adapter or a whole model on the Hugging Face Hub, with a model card. Where data lies on this machine"
        " is left out, and what is sent is loaded once before, as others will. The token is that of HF_TOKEN or of "
        "`hf auth login`. Whoever has the name uses it in place of a folder: --adapter hub:user/name@COMMIT.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="of an adapter, a whole model or a run")
    parser.add_argument("name", metavar="hub:user/name", help="how it is called there")
    parser.add_argument("--license", metavar="ID", help="of what is shared, such as apache-2.0; unset: unknown")
    parser.add_argument("--data-license", metavar="TEXT", help="of the data it learnt from; unset: unknown")
    about = "where others find the base, if that is a file here: hub:user/name"
    parser.add_argument("--base", metavar="NAME", help=about)
    parser.add_argument("--private", action="store_true", help="only you see it")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, the card too; send nothing")
    options = parser.read(words)

    from lorgnette.common.hub import hub_name
    from lorgnette.sharing import Terms, pack, push_parcel
    from lorgnette.sharing.card import CARD

    target = hub_name(options.name)
    with pack(options.folder, options.name, Terms(options.license, options.data_license), options.base) as parcel:
        for file in parcel.files:
            print(f"{file:<28} {size((parcel.folder / file).stat().st_size):>10}")
        print("\n".join(parcel.notes), end="\n" if parcel.notes else "")
        if options.dry_run:
            print(f"\n{(parcel.folder / CARD).read_text(encoding='utf-8')}\nnothing was sent (--dry-run)")
            return 0
        print(f"shared   {push_parcel(parcel, target, options.private)}")
    return 0
