"""What was learnt goes to the Hugging Face Hub, with a model card; `lorgnette.load` brings it back."""

from __future__ import annotations

from lorgnette.sharing.parcel import Parcel as Parcel, Terms as Terms, pack as pack
from lorgnette.sharing.push import push as push, push_parcel as push_parcel
