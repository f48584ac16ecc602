"""What a method of making an update from two factors has to say and to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from lorgnette.lora.config import LoRAConfig

if TYPE_CHECKING:
    from lorgnette.lora.layers.base import LowRank


class Sizes(NamedTuple):
    """Of an adapter to be."""

    A: tuple[int, ...]
    """Shape of `lora_A`."""
    B: tuple[int, ...]
    """Shape of `lora_B`."""
    r: int
    """Rank."""
    outputs: int
    """How many outputs the adapted weight has: output channels of a layer, rows of a matrix or of a stack of them."""


class Method:
    """How an adapter makes an update of its two factors. Abstract: the methods there are stand in `tables.METHODS`.

    A method has no state. What it needs beside the factors are tensors of the adapter, made by `start`. It says where
    it acts, and overrides the one function that belongs to that place; what can be done with its adapters (merge, add
    up, mix) follows from it.
    """

    name: ClassVar[str]
    """In the table, and for `LoRAConfig.method`."""
    acts_on: ClassVar[Literal["factors", "activations", "weight"]] = "factors"
    """Where it acts: on the `factors` before they are applied, on the activations `between` them, or on the `weight`
    with the update added."""
    tensors: ClassVar[tuple[str, ...]] = ()
    """Names of its tensors; each begins with 'lora_'."""
    frozen: ClassVar[tuple[str, ...]] = ()
    """Those of them that are not trained."""
    fixed_rank: ClassVar[str | None] = None
    """Why an adapter cannot be given another rank; None: it can."""
    peft: ClassVar[Mapping[str, Any] | None] = None
    """The settings that make PEFT apply this method; None: PEFT does not have it."""
    peft_names: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Its vectors' names in PEFT's files, where they have as many axes as the layer's weight."""
    peft_rank: ClassVar[int] = 1
    """By how much the rank of the `packed` factors is larger."""

    @property
    def title(self) -> str:
        """How messages call it: its setting."""
        setting, value = next(iter(self.settings().items()), ("method", self.name))
        return f"lora.{setting}" if value is True else f"lora.{setting} {value!r}"

    @property
    def linear(self) -> bool:
        """Whether the update is `s B A`, with the factors of `factors`: then adapters can be added up and mixed."""
        return self.acts_on == "factors"

    @property
    def merges(self) -> bool:
        """Whether a weight can hold the update, as it does not depend on the input."""
        return self.acts_on != "activations"

    def settings(self) -> dict[str, Any]:
        """The settings of `LoRAConfig` that ask for it; a file names the method by them."""
        return {"method": self.name}

    def asked_by(self, config: LoRAConfig) -> Method | None:
        """This method, if the settings ask for it."""
        own = self.settings()
        asked = own and all(getattr(config, setting) == value for setting, value in own.items())
        return self if asked or config.method == self.name else None

    def why_not(self, sizes: Sizes, full_rank: int) -> str | None:
        """Why an adapter of these sizes cannot be made, or None; `full_rank` is the highest its weight can have."""
        return None

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors by name."""
        return {}

    def start(self, adapter: LowRank, weight: Tensor, config: LoRAConfig) -> None:
        """Make its tensors; both factors are there, B zero. The output must be the base's (or differ by rounding)."""

    def factors(self, adapter: LowRank, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """The factors to apply, from `lora_A` (while training perhaps after dropout) and `lora_B`.

        Asked of methods with tensors of their own; otherwise these are the ones.
        """
        return A, B

    def product(self, adapter: LowRank, A: Tensor, B: Tensor) -> Tensor:
        """`B A` as a matrix, or a stack of them, of the factors to apply."""
        A, B = self.factors(adapter, A, B)
        return adapter.matrices(B).to(A.dtype) @ adapter.matrices(A)

    def between(self, adapter: LowRank, h: Tensor) -> Tensor:
        """What B is applied to, from `h = A x` of shape `(..., r)`."""
        return h

    def weight(self, adapter: LowRank, total: Tensor, undropped: Tensor) -> Tensor:
        """The weight to apply, from `weight + s B A`; `undropped` is the same without dropout."""
        return total

    def packed(self, adapter: LowRank) -> dict[str, Tensor]:
        """The adapter's tensors as a file holds them, by name."""
        return dict(adapter.lora_tensors)

    def unpacked(self, factor: str, value: Tensor, axis: int) -> dict[str, Tensor]:
        """What `packed` made one factor of, by name; `axis` is that of the rank."""
        return {factor: value}


class Plain(Method):
    """LoRA itself: `W x + s B A x` (Hu et al., arXiv 2106.09685)."""

    name = "lora"
    peft = MappingProxyType({})

    def settings(self) -> dict[str, Any]:
        return {}


PLAIN = Plain()
