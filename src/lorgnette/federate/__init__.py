"""Federation: clients train one adapter on data that stays with them. Only adapters travel.

Settings import no torch; the rest is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.federate.settings import FederateConfig as FederateConfig

if TYPE_CHECKING:
    from lorgnette.federate.aggregate import Aggregated as Aggregated, Global as Global, Update as Update
    from lorgnette.federate.client import LocalClient as LocalClient, Places as Places
    from lorgnette.federate.codec import Refused as Refused
    from lorgnette.federate.journal import Journal as Journal
    from lorgnette.federate.rounds import Outcome as Outcome, Rounds as Rounds
    from lorgnette.federate.schemes import SCHEMES as SCHEMES
    from lorgnette.federate.state import Adapter as Adapter, AdapterState as AdapterState
    from lorgnette.federate.transport import (
        Client as Client,
        InProcess as InProcess,
        Reply as Reply,
        Transport as Transport,
    )

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
