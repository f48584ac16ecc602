"""What a room is: the names that training, evaluation, keeping, federation and the command line use, and no others.

A room is a folder whose `__init__` offers these names (`Room`). What shared code must know of it beyond them, the room
declares in `ABOUT` and in methods of its `Data`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor, nn

    from lorgnette.images.file import Image
    from lorgnette.lora.config import LoRAConfig
    from lorgnette.train.batches import Batches, HeldOut
    from lorgnette.train.config import TrainConfig
    from lorgnette.train.task import Task


class Settings(Protocol):
    """A frozen dataclass: settings by name, each with a sentence under it."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class RoomModel(Settings, Protocol):
    """Which network."""

    @property
    def base(self) -> str:
        """The weights it starts from: 'shipped', 'none' (untrained), a file, or a folder that `save` wrote."""
        ...


class RoomData(Settings, Protocol):
    """Which data."""

    OWN: ClassVar[tuple[str, ...]]
    """Settings that name folders or files on the disk of whoever holds the data. They never leave the machine."""

    SHARED: ClassVar[tuple[str, ...]]
    """The other settings that take any text. All holders of data have them alike."""

    def all_held_out(self) -> Self | None:
        """The same data for one who trains on none of it: all of it is held out. None where no data is named."""
        ...

    def check_alike(self) -> None:
        """Refuse what several holders of data cannot have alike.

        Raises:
            ValueError: a setting that is left to each holder's own data, in one line.
        """
        ...


class RoomRecipe(Settings, Protocol):
    """Everything that makes one model of a room."""

    @property
    def model(self) -> RoomModel: ...
    @property
    def data(self) -> RoomData: ...
    @property
    def lora(self) -> LoRAConfig | None: ...
    @property
    def train(self) -> TrainConfig: ...


@dataclass(frozen=True)
class TestOption:
    """A setting of a room's `evaluation` that `lorgnette eval` offers as an option."""

    __test__ = False  # not a test case for pytest

    flag: str
    """As it is typed, without the dashes."""
    help: str
    read: Callable[[str], Any] = str
    """Makes a value of a word."""
    metavar: str = "FOLDER"
    several: bool = False
    """Takes several words."""
    alone: bool = False
    """With `several`: may stand without any word, which gives an empty list."""
    also: tuple[str, ...] = ()
    """Other ways to type it."""


@dataclass(frozen=True)
class About:
    """What a room says of itself."""

    name: str
    """As in the table of rooms."""
    verbs: Mapping[str, str] = field(default_factory=dict)
    """What a trained model is used for: a function of the room, which is a verb of the command line too, and what is
    typed after the verb, such as {"enhance": "IN OUT"}."""
    test_options: Mapping[str, TestOption] = field(default_factory=dict)
    """By the name of the argument of `evaluation`."""
    crop: str = ""
    """The data setting that says to which side pictures are cut when a training is scored; `evaluation` takes it as
    `crop`, where 0 means whole."""
    plots: bool = False
    """Whether `evaluation` takes `plot`, which is given the name of each plot of scores and (H, W, 3) uint8."""
    shipped: tuple[str, ...] = ()
    """Adapters in the room's folder `adapters`, beside `judge.safetensors`, which chooses among them by looking
    (`lorgnette.images.choosing`). Such a room offers `plain(image, scale, size)` too: what needs no network."""
    for_grey: tuple[str, ...] = ()
    """Those of `shipped` that learnt from grey pictures alone: they are not chosen for pictures with colours."""
    least: Mapping[str, float] = field(default_factory=dict)
    """dB that some of `shipped`, or `base`, must be expected to bring before looking chooses them."""
    usual_scale: float = 1
    """By which its `enhance` enlarges where nobody says."""
    cleans: bool = False
    """Whether its `enhance` takes damage away and leaves the size: what may be done before another room's."""
    option_files: bool = False
    """Whether it reads option files of its original program (`OptionFiles`)."""
    prepares: bool = False
    """Whether what training reads can be computed before (`Prepares`)."""
    prunes: bool = False
    """Whether its networks can be made narrower: `Model` has a setting `pruned`, and with it `base` is a folder of a
    whole network whose widths are those of its tensors."""
    extra: str = ""
    """What is installed for it beside the package: `pip install 'lorgnette[EXTRA]'`."""


@dataclass(frozen=True)
class OnPictures:
    """How a program is run on pictures of any size: in tiles, by whoever has its file."""

    tile: int
    """Side of the tiles, in input pixels."""
    halo: int
    """Input pixels that a tile sees beyond its own."""
    blend: int
    """Input pixels over which neighbours fade into each other."""
    align: int = 1
    """Crops begin at multiples of it, in input pixels: the program looks at windows of so many."""
    channels: int = 3
    """3, or 1 for each colour by itself."""
    factor: int | None = None
    """How many times larger the result is: the one input is `image`, (B, channels, h, w) in [0, 1]. None: any size, by
    the inputs `image`, `y` (H,) and `x` (W,), where the crop spans -1 to 1, and `cell` (2,), the size of an output
    pixel in these units."""
    usual_scale: float = 1.0
    """Where nobody says."""
    least_scale: float = 0.01
    """Of any size: the smallest factor that is taken; below 1 it is done by bicubic."""
    most_scale: float = 1.0
    """And the largest."""
    trained_scale: float = 1.0
    """Cells are not made finer than for this factor."""
    side: int | None = None
    """Every crop is a square of so many pixels, and comes alone. None: of any size, and several at a time."""
    out_side: int | None = None
    """With `side` and without `factor`: so many rows and columns are rendered each time, wanted or not."""


@dataclass(frozen=True)
class Program:
    """A trained model as a function of tensors: what of a task can leave the package (`lorgnette.export`)."""

    module: nn.Module
    """Takes the inputs, in their order, and gives one tensor."""
    inputs: Mapping[str, Mapping[int, str]]
    """By name, the axes whose length is free: number -> name. Of one name, they are equally long."""
    output: str
    """Its name."""
    example: Callable[[int], tuple[Tensor, ...]]
    """Inputs like those it is for: number 0 to export by, others, of other sizes, to compare by."""
    answering: Callable[[Callable[..., Tensor]], Task]
    """The task with a function of the same inputs in place of the network, to be scored."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else must be known to use it, such as names of classes: plain containers."""
    pictures: OnPictures | None = None
    """How it is run on pictures; None: it is not for them."""


RecipeT = TypeVar("RecipeT", bound=RoomRecipe)
DataT = TypeVar("DataT", bound=RoomData, contravariant=True)
RecipeIn = TypeVar("RecipeIn", bound=RoomRecipe, contravariant=True)


class Room(Protocol[RecipeT, DataT]):
    """A room, as a module. What needs torch is imported when it is first used."""

    @property
    def ABOUT(self) -> About: ...

    @property
    def Recipe(self) -> type[RecipeT]:
        """The settings; `Recipe()` is a sensible default."""
        ...

    @property
    def Model(self) -> type[RoomModel]: ...

    @property
    def Data(self) -> type[RoomData]: ...

    def make_task(self, recipe: RecipeT, /) -> Task:
        """Network, loss and scores, with base weights and without adapters."""
        ...

    def loaders(self, data: DataT, train: TrainConfig | None = None, /) -> tuple[Batches, HeldOut]:
        """Training batches and held-out batches.

        A room whose `Batches.parts` are not None takes those of a run that goes on as a third argument, and then learns
        from the same and holds out the same.

        Raises:
            ValueError: no data is named, or it does not do.
            FileNotFoundError: it is not there.
        """
        ...

    def default_steps(self, n: int, recipe: RecipeT, /) -> int:
        """How long to train on `n` items where the recipe does not say."""
        ...

    @property
    def evaluation(self) -> Callable[..., dict[str, dict[str, float]]]:
        """A table of scores: `evaluation(tasks, folder, ..., progress=iter)` -> row -> metric -> value."""
        ...

    @property
    def from_upstream(self) -> Callable[..., nn.Module]:
        """A network with published weights: `from_upstream(path_or_state, **settings)`."""
        ...

    def program(self, task: Any, /) -> Program:
        """A task's trained model for export, adapters and all; `lorgnette.export` folds them in before it asks.

        Raises:
            ValueError: there is nothing to export, or the network cannot be, in one line.
        """
        ...

    def tiny(self) -> tuple[RecipeT, Sequence[Any], Sequence[Any]]:
        """A recipe, training batches and held-out batches that train in seconds, without a file."""
        ...


AnyRoom = Room[RoomRecipe, RoomData]
"""A room of which no more is known: that of a name or of a recipe."""


class Enhances(Protocol):
    """A room whose verbs have 'enhance'."""

    @property
    def enhance(self) -> Callable[..., Image]:
        """`enhance(task, image, scale, size, tile, precision, progress, halo, cache, stream)`: a picture."""
        ...


class RendersLess(Protocol):
    """A room whose verbs have 'cmsr': its `enhance` takes what tables give by `levels(max_loss)` as `cmsr`, and renders
    less by them. Printed, that says what it saved."""

    @property
    def cmsr(self) -> Callable[..., Any]:
        """`cmsr(task, folder, scales, crop, most, mse_threshold, progress)`: tables, made on pictures."""
        ...

    def read_tables(self, path: str | None = None, /) -> Any:
        """Those of a file or folder; None: of the weights that ship."""
        ...

    def write_tables(self, path: str, made: Any, /) -> Path:
        """Keep them; returns the file."""
        ...


class Prepares(Protocol):
    """A room that computes once what training reads again and again."""

    def prepare(self, data: Any, progress: Callable[[Any], Any], /) -> str:
        """Compute it for `data.root`, going through it by `progress`; a sentence says what there is now."""
        ...


class OptionFiles(Protocol[RecipeIn]):
    """A room that reads option files of its original program."""

    def read_options(self, path: str, /) -> tuple[dict[str, Any], list[str]]:
        """The settings of a training, and what of the file was not understood."""
        ...

    def read_test_options(self, path: str, /) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The settings for each data set that is to be scored, and what was not understood."""
        ...

    def tested_on(self, recipe: RecipeIn, /) -> dict[str, Any]:
        """The arguments of `evaluation` that score what these settings name."""
        ...


DataOf = TypeVar("DataOf", bound=RoomData)


def without_own(data: DataOf) -> DataOf:
    """The settings of data as others may see them: without folders and files of this machine's."""
    if unsaid := undeclared(type(data)):
        raise ValueError(f"{type(data).__name__}: {', '.join(unsaid)} would be sent; name it in SHARED, or in OWN")
    return replace(data, **{f.name: None for f in fields(data) if f.name in data.OWN})


def undeclared(data: type[RoomData]) -> list[str]:
    """Settings that take any text and stand in neither `OWN` nor `SHARED`: there must be none."""
    kinds = get_type_hints(data)
    return [f.name for f in fields(data) if _takes_text(kinds[f.name]) and f.name not in (*data.OWN, *data.SHARED)]


def _takes_text(kind: Any) -> bool:
    if kind in (str, Path) or PathLike in (kind, get_origin(kind)):
        return True
    return get_origin(kind) is not Literal and any(map(_takes_text, get_args(kind)))
