"""The changes that guidances make to one forward pass, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from vidguide.attention.site import AttentionSite, Edit, Observer, OutputChange, Perturbation
from vidguide.transformer.block_replay import InputChange
from vidguide.transformer.lists import has_graph
from vidguide.transformer.text_stream import TextStream


@dataclass(frozen=True)
class AttentionPlan:
    """Changes to one forward pass of a transformer. A plan does nothing until it is installed; plans combine by `|`.

    Attributes:
        edits: by site, the attention that replaces the kernel call; also in reruns of the call.
        outputs: by site, what changes the output of the attention, edited or not; also in reruns of the call.
        perturbations: by site, what a rerun does around the edited attention.
        observers: by site, what reads query and key; in the unperturbed pass only.
        recorded: sites whose keys, values and mask an auxiliary forward returns.
        second_text: second text stream: a negative's text that passes through joint blocks together with the prompt's.
        block_inputs: by block, in execution order, other video tokens that its update is computed from.
        skipped_blocks: blocks, in execution order, that return their input.
        rerun_from: blocks, in execution order, at which a rerun may begin: the input it needs is recorded.
        notes: for the trace, what the plan leaves out.
    """

    edits: Mapping[AttentionSite, Edit] = field(default_factory=dict)
    outputs: Mapping[AttentionSite, tuple[OutputChange, ...]] = field(default_factory=dict)
    perturbations: Mapping[AttentionSite, Perturbation] = field(default_factory=dict)
    observers: Mapping[AttentionSite, tuple[Observer, ...]] = field(default_factory=dict)
    recorded: frozenset[AttentionSite] = frozenset()
    second_text: TextStream | None = None
    block_inputs: Mapping[int, InputChange] = field(default_factory=dict)
    skipped_blocks: frozenset[int] = frozenset()
    rerun_from: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def __or__(self, other: "AttentionPlan") -> "AttentionPlan":
        """Return both plans in one.

        Raises:
            ValueError: both replace or perturb the same attention, change the same block's input, or have a second
                text.
        """
        if self.edits.keys() & other.edits.keys() or self.perturbations.keys() & other.perturbations.keys():
            raise ValueError("two guidances change the same attention: keep one of them")
        if self.block_inputs.keys() & other.block_inputs.keys():
            raise ValueError("two guidances change the input of the same block: keep one of them")
        if self.second_text is not None and other.second_text is not None:
            raise ValueError("two guidances have a second text stream in the blocks: keep one of them")
        return AttentionPlan(
            edits={**self.edits, **other.edits},
            perturbations={**self.perturbations, **other.perturbations},
            outputs=_joined(self.outputs, other.outputs),
            observers=_joined(self.observers, other.observers),
            recorded=self.recorded | other.recorded,
            second_text=other.second_text if self.second_text is None else self.second_text,
            block_inputs={**self.block_inputs, **other.block_inputs},
            skipped_blocks=self.skipped_blocks | other.skipped_blocks,
            rerun_from=self.rerun_from | other.rerun_from,
            notes=self.notes + other.notes,
        )

    @property
    def requires_grad(self) -> bool:
        """Whether a tensor of the edits or of the second text has a graph."""
        holders = [*self.edits.values(), self.second_text]
        return has_graph([getattr(holder, "__dict__", {}) for holder in holders])

    @property
    def first_block(self) -> int:
        """The first block, in execution order, that differs from the unperturbed pass; a rerun may begin there."""
        perturbed = (site.execution_index for site in self.perturbations)
        return min([*self.skipped_blocks, *self.block_inputs, *perturbed], default=0)


Item = TypeVar("Item")


def _joined(
    first: Mapping[AttentionSite, tuple[Item, ...]], second: Mapping[AttentionSite, tuple[Item, ...]]
) -> dict[AttentionSite, tuple[Item, ...]]:
    """Concatenate the values of both at each site."""
    return {site: (*first.get(site, ()), *second.get(site, ())) for site in {**first, **second}}


EMPTY = AttentionPlan()
