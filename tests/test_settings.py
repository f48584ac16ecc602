"""Settings from command lines and YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_origin, get_type_hints

import pytest

from lorgnette.recipe import recipe_to_dict
from lorgnette.settings import from_mapping, from_options, groups_of, make_recipe, override, read_yaml, settings_of
from lorgnette.systems import ROOMS, room
from lorgnette.systems.superres.recipe import Recipe


def by_options(*options: tuple[str, ...]) -> Recipe:
    given = from_options(Recipe, [(name, words) for name, *words in options])
    return make_recipe(Recipe, given)


def by_mapping(mapping: dict) -> Recipe:
    return make_recipe(Recipe, from_mapping(Recipe, mapping, "my.yaml"))


def test_a_value_leaves_the_other_settings_of_its_group_alone():
    recipe = by_options(("lora.r", "8"))
    assert recipe.lora is not None
    assert recipe.lora.r == 8
    assert recipe.lora.target_modules == Recipe().lora.target_modules  # type: ignore[union-attr]
    assert recipe.data == Recipe().data


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (("train.lr", "1e-4"), 1e-4),
        (("train.steps", "null"), None),
        (("data.scales", "1", "3"), (1.0, 3.0)),
        (("data.scales", "[1, 3]"), (1.0, 3.0)),
        (("data.test_scales", "3.3"), (3.3,)),
        (("data.augment", "false"), False),
        (("data.root", "2024"), "2024"),
        (("data.root", "2024", "2025"), ["2024", "2025"]),
        (("data.root", "my photos: best"), "my photos: best"),
        (("lora.target_modules", "to_q", "to_v"), ["to_q", "to_v"]),
        (("lora.target_modules", "to_q"), "to_q"),
        (("lora.modules_to_save", "head"), ["head"]),
        (("lora.modules_to_save", "null"), None),
        (("lora.target_modules", r"[ab].*\d"), r"[ab].*\d"),
        (("lora.rank_pattern", r"{enc.*\.0: 4}"), {r"enc.*\.0": 4}),
        (("lora.init_lora_weights", "gaussian"), "gaussian"),
    ],
)
def test_words_become_values(option: tuple[str, ...], value: object):
    group, name = option[0].split(".")
    assert getattr(getattr(by_options(option), group), name) == value


def test_a_group_is_switched_off_and_on():
    assert by_options(("lora", "null")).lora is None
    assert by_mapping({"lora": None}).lora is None
    assert by_options(("lora.r", "4"), ("lora", "null")).lora is None
    switched_on = make_recipe(Recipe, override({"lora": None}, from_options(Recipe, [("lora.r", ["4"])])))
    assert switched_on.lora.r == 4
    assert switched_on.lora.target_modules == Recipe().lora.target_modules  # type: ignore[union-attr]


@pytest.mark.parametrize("recipe", [Recipe(), by_options(("lora", "null"), ("data.scales", "1", "2"))])
def test_a_saved_recipe_comes_back(recipe: Recipe):
    saved = recipe_to_dict(recipe)
    assert by_mapping({k: v for k, v in saved.items() if k not in ("format_version", "room")}) == recipe


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("lora.rnak", "3"), "unknown setting --lora.rnak (did you mean '--lora.r'?)"),
        (("lr", "3"), "unknown setting --lr (did you mean '--data.lr' or '--train.lr'?)"),
        (("train", "3"), "--train is a group of settings: give one of them, such as --train.steps"),
        (("train", "null"), "--train is a group of settings: give one of them, such as --train.steps"),
        (("train.lr",), "--train.lr needs a value: a number"),
        (("train.lr", "1", "2"), "--train.lr takes one value; '2' is too much"),
        (("train.lr", "nan"), "--train.lr: 'nan' does not work; a number does"),
        (("train.steps", "2.5"), "--train.steps: '2.5' does not work; a whole number or null does"),
        (("train.optimizer", "adm"), "--train.optimizer: 'adm' does not work; adam or adamw or sgd does"),
        (("data.scales", "1"), "--data.scales: '1' does not work; a list of 2 values does"),
        (("lora.r", "null"), "--lora.r: 'null' does not work; a whole number does"),
        (("lora.r", "-3"), "lora.r: -3 is not a whole number of at least 1; 8 is usual"),
        (("train.lr", "0"), "train.lr: 0.0 is not a positive number; 0.001 is usual"),
        (("train.lora_plus_ratio", "-1"), "train.lora_plus_ratio: -1.0 is not a positive number; 16 is usual"),
    ],
)
def test_wrong_options(option: tuple[str, ...], says: str):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the whole text is compared
        by_options(option)
    assert str(error.value) == says


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"lora": {"rnak": 3}}, "my.yaml: unknown setting lora.rnak (did you mean 'lora.r'?)"),
        ({"trian": {"lr": 3}}, "my.yaml: unknown setting trian (did you mean 'train'?)"),
        ({"steps": 3}, "my.yaml: unknown setting steps (did you mean 'train.steps'?)"),
        ({"train": None}, "my.yaml: train: None is not a table of settings"),
        ({"train": {"lr": None}}, "my.yaml: train.lr: None does not work; a number does"),
        ({"train": {"steps": [1]}}, "my.yaml: train.steps: [1] does not work; a whole number or null does"),
        ({"data": {"root": 7}}, "my.yaml: data.root: 7 does not work; text or a list or null does"),
    ],
)
def test_wrong_mappings(mapping: dict, says: str):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        by_mapping(mapping)
    assert str(error.value) == says


def test_every_setting_says_what_it_is_for():
    assert [name for name, setting in settings_of(Recipe).items() if not setting.about] == []


@pytest.mark.parametrize("text", ["lora: [1", "- a\n- b", "", "!!python/object/apply:os.system [echo]", "\x00"])
def test_a_file_that_is_no_table_is_refused_in_one_line(text: str, tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml") as error:
        read_yaml(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ROOMS)
def test_a_word_that_no_setting_takes_is_refused_in_python_as_on_the_command_line(name: str):
    for group, group_class in groups_of(room(name).Recipe).items():
        if group == "lora":
            continue
        for setting, kind in get_type_hints(group_class).items():
            if get_origin(kind) is Literal:
                with pytest.raises(ValueError, match=f"^{group}.{setting}: 'nonsense' does not work"):
                    group_class(**{setting: "nonsense"})
