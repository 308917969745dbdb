"""The part of ``eckart eval`` that looks at items: images, sounds, questions, pairs of texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eckart.data.context import length_for
from eckart.data.encoder import Encoder
from eckart.data.sampling import DEFAULT_LENGTH, draw
from eckart.errors import EckartError
from eckart.evaluate import ItemScore, measure_items, measure_options, measure_pairs, read_pairs, read_questions
from eckart.evaluate.items import choose_measures

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ItemOptions:
    """What is asked of items on the command line.

    Attributes:
        sources: of items.
        pairs: files of pairs of texts.
        measures: by their names; None for those of the model's kind.
        options: answers to choose from.
        question: what is asked of items that ask nothing themselves.
        samples: items to draw of each source.
        seed: of the draw.
        length: tokens after which text is cut.
        chat: write questions by the model's chat template.
        pooling: of hidden states to vectors.
    """

    sources: list[str]
    pairs: list[Path]
    measures: list[str] | None
    options: list[str]
    question: str | None
    samples: int
    seed: int
    length: int | None
    chat: bool
    pooling: str

    @property
    def any(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self.sources or self.pairs)

    def measure(
        self, model: PreTrainedModel, baseline: PreTrainedModel | None, processor: Any, advance: Advance
    ) -> list[dict[str, Any]]:
        """Return the rows of the table: where items are from, and what was measured on them.

        Raises:
            EckartError: something of it cannot be read or measured.
        """
        if processor is None:
            raise EckartError(
                "Items need the model's processor or tokenizer, and none was found: its folder lacks "
                "preprocessor_config.json or tokenizer.json. Copy them from the original model."
            )
        models = [model] if baseline is None else [model, baseline]
        length = self.length or length_for(*models, default=DEFAULT_LENGTH)
        encoder = replace(Encoder.of(model, processor, length, chat=self.chat), question=self.question)
        rows = [(source, self._items(source, encoder, model, baseline, advance)) for source in self.sources]
        for path in self.pairs:
            score = measure_pairs(
                model,
                encoder,
                read_pairs(path),
                baseline=baseline,
                pooling=self.pooling,
                on_item=lambda done, total: advance(done, total, "pairs"),
            )
            rows.append((str(path), [score]))
        return [{"source": source, "scores": [score.model_dump() for score in scores]} for source, scores in rows]

    def _items(
        self,
        source: str,
        encoder: Encoder,
        model: PreTrainedModel,
        baseline: PreTrainedModel | None,
        advance: Advance,
    ) -> list[ItemScore]:
        def on_item(done: int, total: int) -> None:
            advance(done, total, "items")

        if self.options:
            questions = read_questions(source, encoder, self.options, self.samples, self.seed)
            return [measure_options(model, questions, baseline=baseline, on_item=on_item)]
        measures = choose_measures(model, self.measures, compared=baseline is not None)
        return measure_items(
            model,
            draw(source, encoder, self.samples, self.seed),
            measures,
            baseline=baseline,
            tokenizer=encoder.processor.tokenizer,
            pooling=self.pooling,
            on_item=on_item,
        )
