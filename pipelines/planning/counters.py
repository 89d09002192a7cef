"""Dispatch modes that count what fake tensors would need: memory, bytes moved, and values that are read from them."""

import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop

from vidguide.functional.distinct_keys import checksum_factors

aten = torch.ops.aten
# torch's formulas, with that of its attention kernel for the CPU, which they lack.
FORMULAS: dict[Any, Any] = {**flop_registry, aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop}
SCALAR_EQUALITIES = (aten.eq.Tensor, aten.eq.Scalar)
UNREAD = (aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.detach.default)


@dataclass(frozen=True)
class Cost:
    """Cost of a computation.

    Attributes:
        flops: floating point operations of matrix products, convolutions and attention, as `FlopCounterMode` counts.
        moved: bytes that the operations read and write, each operation by itself.
        peak: largest memory of intermediate results at a time, in bytes, without weights.
    """

    flops: int
    moved: int
    peak: int


class Counter(TorchDispatchMode):
    """Count the cost of what runs within the context.

    Storages are the unit of memory: views allocate nothing. Workspaces within an operation are not seen, except for the
    columns of 3D convolutions on the CPU, for which PyTorch unfolds its input.

    Args:
        columns: whether to count the columns of 3D convolutions, as for a run on the CPU.

    Attributes:
        current: bytes allocated now. flops, moved, peak: as those of :class:`Cost`.
    """

    def __init__(self, columns: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.columns = columns
        self.current = self.peak = self.moved = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        inputs, outputs = tensors((args, kwargs)), tensors(result)
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        new = {each._cdata: each for tensor in outputs if (each := tensor.untyped_storage())._cdata not in known}
        for storage in new.values():
            self._allocate(storage)
        if self.columns and func is aten.convolution.default:
            self.peak = max(self.peak, self.current + columns_of(args, result))
        if func not in UNREAD and (new or func._schema.is_mutable):
            self.moved += sum(extent(tensor) for tensor in (*inputs, *outputs))
        return result

    def _allocate(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.current -= size

    @property
    def cost(self) -> Cost:
        """What was counted so far."""
        return Cost(self.flops, self.moved, self.peak)


class AssumedValues(TorchDispatchMode):
    """Answer code that reads values of fake tensors: conditions hold, tensors are equal, counts are the largest.

    Single numbers, such as the timesteps of two steps, differ.

    So all tokens of a negative prompt count as distinct, which is an upper bound.
    """

    def __init__(self, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = count
        self.differing: set[int] = set()  # results of comparisons of single numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is aten.equal.default:
            return True
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return id(args[0]) not in self.differing and assumed(args[0].dtype, self.count)
        result = func(*args, **(kwargs or {}))
        if func in SCALAR_EQUALITIES and not result.ndim:
            self.differing.add(id(result))
            weakref.finalize(result, self.differing.discard, id(result))
        return result


def columns_of(arguments: Any, output: Tensor) -> int:
    """Return the bytes of the columns of a convolution on the CPU: of `slow_conv3d`, a value per weight and position.

    Args:
        arguments: of `aten.convolution`. output: its result `(B, C, F, H, W)`.
    """
    image, weight, bias, stride, padding, dilation, transposed, extra, groups = arguments
    lists = [[int(each) for each in one] for one in (stride, padding, dilation)]
    chosen = torch._C._select_conv_backend(image, weight, bias, *lists, transposed, list(extra), groups)
    if chosen != torch._C._ConvBackend.Slow3d:  # type: ignore[attr-defined]
        return 0
    return int(weight[0].numel() * output[:, 0].numel() * output.element_size())


def assumed(dtype: torch.dtype, count: int) -> bool | int | float:
    """Return the value that is assumed for an element of a fake tensor."""
    if dtype == torch.bool:
        return True
    return 0.5 if dtype.is_floating_point else count


def tensors(values: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dictionaries."""
    return list(leaves(values))


def leaves(values: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from leaves(tuple(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from leaves(value)


def extent(tensor: Tensor) -> int:
    """Return the bytes of a tensor's elements; of an expanded one those in memory."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@contextmanager
def fake(count: int) -> Iterator[None]:
    """Make all tensors in the context fake, without memory, on the CPU; see :class:`AssumedValues` for `count`."""
    checksum_factors.cache_clear()  # a cache of tensors, which must not outlast the context
    modes: Iterable[Any] = (FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), AssumedValues(count))
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # The state of random generators, which a guidance compares, is fake as well.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        for mode in modes:
            stack.enter_context(mode)
        stack.callback(checksum_factors.cache_clear)
        yield
