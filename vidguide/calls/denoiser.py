"""A guided transformer as guidances see it: where they act, what they keep, what they may ask it for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vidguide.attention.interception import Site
from vidguide.attention.sites import blocks_in_order, find_self_sites, find_text_sites
from vidguide.tracing.run import Run
from vidguide.transformer.block_replay import Blocks
from vidguide.transformer.cache_context import Contexts
from vidguide.transformer.caches import OWN, Caches
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.cfg_branch import Branches
from vidguide.transformer.compile import eager
from vidguide.transformer.context_parallel import Ranks
from vidguide.transformer.family import Family, Inputs, family_of
from vidguide.transformer.negative_text import ready_text, repeat_rows, text_shape
from vidguide.transformer.text_stream import TEXT, Stream, carrying
from vidguide.transformer.token_grid import grid

if TYPE_CHECKING:
    from vidguide.guidances.base import Guidance

Kept = TypeVar("Kept")


class Denoiser:
    """One transformer under `guide`.

    Attributes:
        original: the transformer itself, where `transformer` is a compiled module around it.
        depth: number of its blocks.
        text_sites, self_sites: where video attends to text, numbered; where to itself, by extent and layer.
        batch: which rows of the call at work are conditional.
        inputs: the arguments of the call at work, by name; empty between calls.
        call: the transformer's own, while a guided call is at work.
        stream: a second text that this call carries, in joint attention.
        beside: what the call predicted besides the video: its audio.
    """

    def __init__(self, transformer: Any, pipe: Any, guidances: tuple["Guidance", ...], run: Run) -> None:
        self.transformer, self.pipe, self.guidances, self.run = transformer, pipe, guidances, run
        self.original = getattr(transformer, "_orig_mod", transformer)  # under torch.compile
        self.family: Family = family_of(self.original)
        self.contexts, self.caches, self.ranks = Contexts(self.original), Caches(self.original), Ranks(self.original)
        self.branches = Branches(pipe, self.family, self.contexts, run)
        self.batch = Batch()
        self.depth = sum(len(self.original.get_submodule(path)) for path in self.family.blocks)
        self.text_sites = find_text_sites(self.family, self.original)
        self.blocks = Blocks([], (), False)
        self.self_sites: dict[str, dict[int, Site]] = {}
        if any(guidance.weak for guidance in guidances):
            outputs = self.family.block_output + ((TEXT,) if self.family.joint else ())
            self.blocks = Blocks(blocks_in_order(self.family, self.original), outputs, self.family.joint is not None)
            self.self_sites = find_self_sites(self.family, self.blocks, self.text_sites, self.batch, self.ranks)
        every = [*self.text_sites.values(), *(site for sites in self.self_sites.values() for site in sites.values())]
        self.sites = list(dict.fromkeys(every))  # in joint attention a site is the text's and the video's
        self.inputs: Inputs = {}
        self.call: Callable[..., Any] | None = None
        self.stream: Stream | None = None
        self.beside: list[Any] = []
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._texts: dict[Any, Inputs] = {}

    @contextmanager
    def at_work(self, call: Callable[..., Any] | None, inputs: Inputs) -> Iterator[None]:
        """For the length of a guided call, or before it without `call`; nothing of it stays."""
        try:
            self.call, self.inputs = call, inputs
            yield
        finally:
            self.clear()
            self.blocks.forget()
            self.call, self.inputs, self.beside = None, {}, []

    def clear(self) -> None:
        """Take away all that guidances have set at the sites."""
        self.stream = None
        for site in self.sites:
            site.edit = site.weak = None
            site.watchers.clear()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Without the edits that guidances have set so far, which are set again afterwards."""
        edits, stream = [(site, site.edit, [*site.watchers]) for site in self.sites], self.stream
        self.clear()
        try:
            yield
        finally:
            self.stream = stream
            for site, edit, watchers in edits:
                site.edit, site.watchers = edit, watchers

    def kept(self, owner: "Guidance", make: Callable[[], Kept], text_varies: bool = False) -> Kept:
        """What `make` returns, kept for the run, and made again when a shape changes, or the prompt's dtype or device;
        at each step, when it is of a text that the model makes anew at each step."""
        step = self.run.step if text_varies and self.family.text_varies(self.original.config) else None
        # Not every dtype: HunyuanVideo's pipeline gives its first step's time in another one than the others'.
        shapes = [tuple(value.shape) for value in self.inputs.values() if isinstance(value, Tensor)]
        key = (self.run.number, step, shapes, text_shape(self.family, self.inputs))
        if self._kept.get(id(owner), (None,))[0] != key:
            self._kept[id(owner)] = (key, make())
        kept: Kept = self._kept[id(owner)][1]
        return kept

    def negative_text(self, prompt: str | list[str] | None, embeds: Any) -> Inputs:
        """The text inputs of a negative, encoded as the pipeline encodes its prompt and kept while in `guide`.

        Raises:
            ValueError: embeddings of another width, or a number of negatives that does not divide the batch.
        """
        if embeds is not None:
            return ready_text(self.family, embeds, self.inputs, self.conditional)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [""])
        shape, dtype, device = text_shape(self.family, self.inputs)
        key = (*prompts, shape[1:], dtype, device)
        if key not in self._texts:
            with torch.no_grad():
                self._texts[key] = self.family.encode(self.pipe, prompts, self.inputs)
        return ready_text(self.family, self._texts[key], self.inputs, self.conditional)

    def aside(self, inputs: Inputs) -> None:
        """Let the model see other inputs, for what its parts are given. Eager: a call of its own shape would cost a
        compiled model a compilation of its own, or turn it dynamic."""
        with torch.no_grad(), eager(), self.caches.bypassed(), self.ranks.bypassed():
            self._original_call(inputs)

    def weak(self, first: int, name: str) -> Tensor:
        """The conditional prediction once more, perturbed as sites and blocks now are; blocks whose place is before
        `first` are not run again.

        A cache runs all blocks: it decides at the first of them, and what it left out in the clean pass is no record
        to begin from. It keeps a state for each `name`.
        """
        inputs = self.batch.inputs(self.inputs)
        with ExitStack() as stack:
            if not self.caches.hooks:
                stack.enter_context(self.blocks.skipped_before(first, self.batch))
            stack.enter_context(self.batch.alone())
            stack.enter_context(carrying(self.stream))
            stack.enter_context(self.contexts.aside(f"{OWN}{name}"))
            return prediction_of(self._original_call(inputs))

    def grid(self) -> tuple[int, int, int]:
        """The video's token grid (F, H, W) in the call at work."""
        return grid(self.family, self.original, self.inputs)

    def uncond(self, text: Inputs) -> list[Any]:
        """What the model predicts unconditionally, the video first: with a text for the prompt's, without our edits."""
        other = self.family.uncond(self.inputs) if self.family.uncond is not None else {}
        with self.contexts.aside("uncond"):
            return predictions_of(self._original_call({**self.inputs, **other, **self.of_every_row(text)}))

    def of_every_row(self, text: Inputs) -> Inputs:
        """A text for every conditional row of the batch."""
        return {name: repeat_rows(value, self.conditional) for name, value in text.items()}

    def _original_call(self, inputs: Inputs) -> Any:
        if self.call is None:
            raise RuntimeError("the model can be asked for a prediction only during a guided call")
        return self.call(**inputs)

    @property
    def device(self) -> torch.device:
        """Where the video of the call at work is."""
        device: torch.device = self.inputs["hidden_states"].device
        return device

    @property
    def conditional(self) -> int:
        """Rows of the batch that are conditional."""
        rows: int = self.inputs[self.family.text_inputs[0]].shape[0]
        return rows - self.batch.start(rows)


def prediction_of(output: Any) -> Tensor:
    """The prediction in a transformer's output, in whichever form it comes."""
    prediction = predictions_of(output)[0]
    if not isinstance(prediction, Tensor):
        raise TypeError(f"the transformer returned {type(prediction).__name__} where a tensor was expected")
    return prediction


def predictions_of(output: Any) -> list[Any]:
    """All that is in a transformer's output: of the video, and of the audio where there is any."""
    if isinstance(output, Tensor):
        return [output]
    return list(output.values() if isinstance(output, dict) else output)
