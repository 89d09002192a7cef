"""One intercepted attention kernel call: the call as a value, and the site that handles it."""

import copy
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from vidguide.attention.video_tokens import VideoTokens
from vidguide.transformer.cfg_batch import ALL_CONDITIONAL, Batch

SITE = "_vidguide_site"  # attribute of an intercepted attention module


class Rotary:
    """The rotary embedding of the query of one attention, as upstream applies it before the kernel call.

    Args:
        function, args, kwargs: upstream's function and its arguments after the query.
        layout: "BHLD", or "BLHD" of which the last two dimensions may be one, as upstream's query is.
        query: the query before it, of all tokens that are rotated.
    """

    def __init__(
        self, function: Callable[..., Tensor], layout: str, query: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.function, self.layout, self.query, self.args, self.kwargs = function, layout, query, args, kwargs

    def row(self, index: int) -> "Rotary":
        """Return it for one sample, `index` modulo the number of rows; of a rotation that is the same for all rows."""
        row = index % self.query.shape[0]
        return Rotary(self.function, self.layout, self.query[row : row + 1], self.args, self.kwargs)

    def unrotated(self, head_dim: int) -> Tensor:
        """Return the query before it as `(B, L, H, D)`."""
        if self.query.dim() == 3:
            return self.query.unflatten(2, (-1, head_dim))
        return self.query.transpose(1, 2) if self.layout == "BHLD" else self.query

    def __call__(self, query: Tensor) -> Tensor:
        """Rotate other queries `(B, L, H, D)` of the same tokens."""
        if self.layout == "BHLD":
            return self.function(query.transpose(1, 2), *self.args, **self.kwargs).transpose(1, 2)
        if self.query.dim() == 3:
            return self.function(query.flatten(2), *self.args, **self.kwargs).unflatten(2, query.shape[2:])
        return self.function(query, *self.args, **self.kwargs)


class KernelCall:
    """One attention kernel call as upstream would make it, on `(B, L, H, D)` tensors whatever the kernel's layout.

    Attributes:
        mask: the mask that upstream passes, or None.
        batch: which rows of this forward pass are conditional.
        index: number of this call at its site in this pass, for processors that call the kernel once per sample.
        rotary: the rotary embedding of the query, of the one sample where the kernel is called once per sample; None
            where upstream applies none.
        measured: statistics of an edit for the trace, set by the edit; None otherwise.
    """

    def __init__(self, function: Callable[..., Tensor], layout: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.function, self.layout = function, layout
        self.mask = args[0] if args else kwargs.get("attn_mask")
        self.batch: Batch = ALL_CONDITIONAL
        self.index = 0
        self.rotary: Rotary | None = None
        self.measured: Tensor | None = None
        self.args, self.kwargs = args[1:], {name: value for name, value in kwargs.items() if name != "attn_mask"}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Run upstream's kernel with its other arguments unchanged."""
        if self.layout == "BLHD":
            return self.function(query, key, value, mask, *self.args, **self.kwargs)
        transposed = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return self.function(*transposed, mask, *self.args, **self.kwargs).transpose(1, 2)

    def native(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Run torch's kernel, which takes any mask, in place of the backend that the model has; without an exchange
        between ranks."""
        from diffusers.models.attention_dispatch import AttentionBackendName

        kwargs = self.kwargs
        if "backend" in kwargs:
            kwargs = {**kwargs, "backend": AttentionBackendName.NATIVE, "parallel_config": None}
        return KernelCall(self.function, self.layout, (None, *self.args), kwargs)(query, key, value, mask)

    @property
    def shared(self) -> bool:
        """Whether the keys are this rank's shard, and the kernel exchanges them with other ranks."""
        return self.kwargs.get("parallel_config") is not None

    def local(self) -> "KernelCall":
        """Return the same call without an exchange between ranks, for keys that every rank has whole."""
        if not self.shared:
            return self
        kernel = copy.copy(self)
        kernel.kwargs = {**self.kwargs, "parallel_config": None}
        return kernel


class Edit(Protocol):
    """An attention that replaces a kernel call: `(B, L, H, D)` query, key and value to the output."""

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class Observer(Protocol):
    """Reads the query and key of a kernel call and changes nothing."""

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor) -> None: ...


class OutputChange(Protocol):
    """Changes the output of an attention, which may itself be edited; `query` and `key` are the kernel call's."""

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor, output: Tensor) -> Tensor: ...


class EditedAttention:
    """A kernel call with its edit applied, or the kernel call alone where there is no edit; then its output changed."""

    def __init__(self, kernel: KernelCall, edit: Edit | None, outputs: tuple[OutputChange, ...] = ()) -> None:
        self.kernel, self.edit, self.outputs = kernel, edit, outputs

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.edit is None:
            output = self.kernel(query, key, value, self.kernel.mask)
        else:
            output = self.edit(self.kernel, query, key, value)
        for change in self.outputs:
            output = change(self.kernel, query, key, output)
        return output


class Perturbation(Protocol):
    """What a perturbed pass does around an attention, which may itself be edited."""

    def __call__(self, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class AttentionSite:
    """An intercepted kernel call of one attention module. Only `guiding.installation` writes to its second group.

    Attributes:
        layer: block index as `layers` counts. attention: the module. kernel: which of its kernel calls, in source
            order. name: path of the module in its block. stream: whose tokens are the queries of a text attention,
            "video" or "audio"; "video" for a joint attention. execution_index: of its block, in the order in which
            blocks run. extent: what the video's self-attention spans here. per_sample: whether the processor calls the
            kernel once per sample. video: which tokens are the video's; None where no perturbed pass is run.
        edit, outputs, perturbation, observers, batch, recording: installed for one forward pass.
        rotary: of the query of the next kernel call, recorded where there is an observer or a perturbation.
        measured, recorded: results of that pass: statistics of the edit, and `(key, value, mask)` where recorded.
    """

    def __init__(self, layer: int, attention: Any, kernel: int, name: str = "", per_sample: bool = False) -> None:
        self.layer, self.attention, self.kernel, self.name = layer, attention, kernel, name
        self.per_sample = per_sample
        self.stream = "video"
        self.video: VideoTokens | None = None
        self.execution_index, self.extent = layer, "spatiotemporal"
        self.edit: Edit | None = None
        self.outputs: tuple[OutputChange, ...] = ()
        self.perturbation: Perturbation | None = None
        self.observers: tuple[Observer, ...] = ()
        self.batch = ALL_CONDITIONAL
        self.recording = False
        self.calls = 0
        self.rotary: Rotary | None = None
        self.measured: Tensor | None = None
        self.recorded: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return no_site, ()  # in copies and pickles of the attention module

    @property
    def idle(self) -> bool:
        """Whether nothing is installed here."""
        changes = self.edit is not None or self.perturbation is not None or len(self.outputs) > 0
        return not changes and len(self.observers) == 0 and not self.recording

    def grid_of(self, clip: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the token grid of one row: the clip's (F, H, W), or a frame's or a place's in factorised models."""
        frames, height, width = clip
        if self.extent == "spatial":
            return 1, height, width
        return (frames, 1, 1) if self.extent == "temporal" else clip

    @property
    def reads_queries(self) -> bool:
        """Whether something installed here may ask for the query before its rotary embedding."""
        return self.perturbation is not None or len(self.observers) > 0

    def attend(self, kernel: KernelCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Run the attention with its observers, edit and perturbation."""
        kernel.batch = self.batch
        if self.per_sample:
            kernel.index, self.calls = self.calls, self.calls + 1
        self.take_rotary(kernel)
        if self.recording:
            self.recorded = (key, value, kernel.mask)
        for observer in self.observers:
            observer(kernel, query, key)
        attention = EditedAttention(kernel, self.edit, self.outputs)
        if self.perturbation is not None:
            return self.perturbation(attention, query, key, value)
        output = attention(query, key, value)
        if kernel.measured is not None:
            self.measured = kernel.measured
        return output

    def take_rotary(self, kernel: KernelCall) -> None:
        """Move the recorded rotary embedding to the kernel call; of calls once per sample, with the last of them."""
        rotary = self.rotary
        if rotary is None:
            return
        kernel.rotary = rotary.row(kernel.index) if self.per_sample else rotary
        if not self.per_sample or (kernel.index + 1) % rotary.query.shape[0] == 0:
            self.rotary = None


def no_site() -> None:
    """Return what copies of an attention module have for a site."""


def route(
    attention: Any, index: int, layout: str, function: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> Any:
    """Replace one kernel call in a processor: run upstream's kernel, unless the module's site handles this call."""
    site = getattr(attention, SITE, None)
    if site is None or site.kernel != index or site.idle:
        return function(query, key, value, *args, **kwargs)
    kernel = KernelCall(function, layout, args, kwargs)
    if layout == "BLHD":
        return site.attend(kernel, query, key, value)
    return site.attend(kernel, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)


def rotate(attention: Any, layout: str, in_place: bool, function: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
    """Replace the rotary embedding of the query in a processor: apply upstream's, and record it where it is read.

    Args:
        in_place: whether upstream writes the result over the query, of which a copy is then recorded.
    """
    site = getattr(attention, SITE, None)
    if site is not None and site.reads_queries:
        site.rotary = Rotary(function, layout, query.clone() if in_place else query, args, kwargs)
    return function(query, *args, **kwargs)
