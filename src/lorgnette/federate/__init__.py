"""Federation: clients train one adapter on data that stays with them. Only adapters travel.

Settings import no torch; the rest is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.federate.settings import FederateConfig as FederateConfig

if TYPE_CHECKING:
    from lorgnette.federate.aggregation.adapter_state import Adapter as Adapter, AdapterState as AdapterState
    from lorgnette.federate.aggregation.aggregate import (
        Aggregated as Aggregated,
        ClientUpdate as ClientUpdate,
        Global as Global,
    )
    from lorgnette.federate.aggregation.schemes import SCHEMES as SCHEMES
    from lorgnette.federate.rounds.client import LocalClient as LocalClient, Places as Places
    from lorgnette.federate.rounds.loop import Outcome as Outcome, Rounds as Rounds
    from lorgnette.federate.rounds.round_journal import RoundJournal as RoundJournal
    from lorgnette.federate.rounds.transport import (
        Client as Client,
        InProcess as InProcess,
        Reply as Reply,
        Transport as Transport,
    )
    from lorgnette.federate.wire.codec import Refused as Refused

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
