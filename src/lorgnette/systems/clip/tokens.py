"""Words as the text tower takes them: a `tokenizer.json`, and the small vocabulary of the shipped CLIP."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lorgnette.systems.clip import glyphs

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
COMMON_WORDS = "a an the of on in photo picture drawing image sketch digit number shape thing background".split()


class Tokenizer:
    """Text as whole numbers, by the rules of a `tokenizer.json` of the library tokenizers.

    Args:
        rules: the content of that file.
        max_length: of the text tower, start and end included.
    """

    def __init__(self, rules: str, max_length: int):
        self.rules, self.max_length = rules, max_length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, L) int64, L that of the longest text; shorter ones end in more end tokens, which CLIP passes over."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        rows = [row if len(row) <= self.max_length else [*row[: self.max_length - 1], row[-1]] for row in rows]
        longest = max(map(len, rows))
        return torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """The texts that hold a word which is in no vocabulary; CLIP's own can spell any word."""
        return [text for text in texts if UNKNOWN in self._tokenizer.encode(text).tokens]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer as Rules

        try:
            tokenizer = Rules.from_str(self.rules)
        except Exception as error:  # the library knows no other
            raise ValueError(f"tokenizer.json is damaged ({str(error).splitlines()[0]})") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:  # copies make their own
        return {"rules": self.rules, "max_length": self.max_length}


def small_vocabulary() -> list[str]:
    """Every word of the captions of `glyphs`, after the three marks."""
    words = [*COMMON_WORDS, *glyphs.COLOURS, *glyphs.THINGS]
    return [START, UNKNOWN, *dict.fromkeys(words), END]  # the end has the highest number, as in CLIP


def small_rules() -> str:
    """A `tokenizer.json` that takes whole words of `small_vocabulary`."""
    vocabulary = {word: number for number, word in enumerate(small_vocabulary())}
    special = [
        {"id": vocabulary[mark], "content": mark, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for mark in (START, UNKNOWN, END)
    ]  # fmt: skip
    marks = {mark: {"id": mark, "ids": [vocabulary[mark]], "tokens": [mark]} for mark in (START, END)}
    ends = [{"SpecialToken": {"id": mark, "type_id": 0}} for mark in (START, END)]
    rules = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]],
            "pair": [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": marks,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    }
    return json.dumps(rules, indent=1)
