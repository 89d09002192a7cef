"""The seam: attention processors whose kernel calls come to us, and whose every other line stays upstream's.

A processor of diffusers computes projections, norms and rotary embedding, then calls one of two attention kernels,
then projects back. :func:`rebound` gives a processor of the same class whose `__call__` is upstream's own source,
compiled again with those calls routed through :func:`route`, which knows the attention module it was called for.
The function keeps upstream's globals and signature, so that whatever version of diffusers is installed runs as it
is written, `inspect.signature` sees the same arguments, and torch.compile traces it like the original: nothing is
looked up by name in a patched module, where Dynamo would find the unpatched one.
"""

import ast
import copy
import functools
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol

from torch import Tensor

from vidguide.attention.video_tokens import Video
from vidguide.transformer.class_swap import subclass

LAYOUTS = {"dispatch_attention_fn": "BLHD", "scaled_dot_product_attention": "BHLD"}
SITE = "_vidguide_site"  # attribute of a guided attention module


class Kernel:
    """One attention kernel call as upstream would make it, on `(B, L, H, D)` tensors whatever its own layout."""

    def __init__(self, function: Callable[..., Tensor], layout: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.function, self.layout = function, layout
        self.mask = args[0] if args else kwargs.get("attn_mask")
        self.call = 0  # which call of its site this is, where there is one for each sample
        self.args, self.kwargs = args[1:], {name: value for name, value in kwargs.items() if name != "attn_mask"}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if self.layout == "BLHD":
            return self.function(query, key, value, mask, *self.args, **self.kwargs)
        swapped = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return self.function(*swapped, mask, *self.args, **self.kwargs).transpose(1, 2)

    @property
    def shared(self) -> bool:
        """Whether the keys are this rank's share, and the kernel exchanges them with other ranks."""
        return self.kwargs.get("parallel_config") is not None

    def alone(self) -> "Kernel":
        """The same call without an exchange between ranks: for keys that are there whole."""
        if not self.shared:
            return self
        kernel = copy.copy(self)
        kernel.kwargs = {**self.kwargs, "parallel_config": None}
        return kernel


class Edit(Protocol):
    """What a guidance does at an attention: the kernel and its `(B, L, H, D)` query, key and value to the output."""

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class Watcher(Protocol):
    """What looks at the query and key of an attention's kernel call, and changes nothing."""

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor) -> None: ...


class Attention:
    """An attention as edited, which is its kernel where it is not."""

    def __init__(self, kernel: Kernel, edit: Edit | None) -> None:
        self.kernel, self.edit = kernel, edit

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.edit is None:
            return self.kernel(query, key, value, self.kernel.mask)
        return self.edit(self.kernel, query, key, value)


class Perturbation(Protocol):
    """What a weak pass does to an attention, which may be edited for a text that shares it."""

    def __call__(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class Site:
    """A guided attention module: which of its kernel calls is meant (in source order), and what to do there.

    Attributes:
        edit: what the attention does in all passes. weak: what a weak pass does around it.
        watchers: what looks on in the clean pass.
        video: where the video's tokens lie in it; None where no weak pass is run.
        place: of its block, in the order in which blocks run.
        extent: what the video's attention to itself spans here.
        ragged: whether the kernel is called once per sample.
    """

    def __init__(self, layer: int, attention: Any, kernel: int, name: str = "", ragged: bool = False) -> None:
        self.layer, self.attention, self.kernel, self.name, self.ragged = layer, attention, kernel, name, ragged
        self.calls = 0
        self.edit: Edit | None = None
        self.weak: Perturbation | None = None
        self.watchers: list[Watcher] = []
        self.video: Video | None = None
        self.place, self.extent = layer, "spatiotemporal"
        self.own: Any = None  # the module's processor, and the one that stands in for it
        self.routed: Any = None
        self.pairs: list[tuple[Any, Any]] = []  # of both kinds, all that there were within this guide

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done here."""
        return self.edit is None and self.weak is None and not self.watchers

    def attend(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The attention as edited and perturbed."""
        if self.ragged:
            kernel.call, self.calls = self.calls, self.calls + 1
            if self.video is not None:
                self.video.call = kernel.call
        for watcher in self.watchers:
            watcher(kernel, query, key)
        attention = Attention(kernel, self.edit)
        if self.weak is not None:
            return self.weak(attention, query, key, value)
        return attention(query, key, value)


def route(
    attention: Any, index: int, layout: str, function: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> Any:
    """Stand in for a kernel call: upstream's own, unless the module has a site with an edit for this very call."""
    site = getattr(attention, SITE, None)
    if site is None or site.kernel != index or site.idle:
        return function(query, key, value, *args, **kwargs)
    kernel = Kernel(function, layout, args, kwargs)
    if layout == "BLHD":
        return site.attend(kernel, query, key, value)
    return site.attend(kernel, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)


class _Reroute(ast.NodeTransformer):
    """Turn each `kernel(q, k, v, ...)` into `_vidguide_route(attn, index, layout, kernel, q, k, v, ...)`."""

    def __init__(self, attention: str) -> None:
        self.attention, self.count = attention, 0

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if name not in LAYOUTS:
            return node
        leading = [ast.Name(self.attention, ast.Load()), ast.Constant(self.count), ast.Constant(LAYOUTS[name])]
        self.count += 1
        return ast.copy_location(
            ast.Call(ast.Name("_vidguide_route", ast.Load()), [*leading, function, *node.args], node.keywords), node
        )


def _parse(call: Callable[..., Any]) -> ast.FunctionDef:
    """Upstream's `__call__` as syntax, with its own line numbers; annotations dropped, as their names may not exist."""
    try:
        lines, first = inspect.getsourcelines(call)
    except OSError as error:
        raise LookupError(f"{call.__qualname__}: its source is needed to guide it: {error}") from error
    tree = ast.increment_lineno(ast.parse(textwrap.dedent("".join(lines))), first - 1)
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        raise LookupError(f"{call.__qualname__}: not a plain function; only plain processors can be guided")
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    function.returns = None
    return function


@functools.cache
def rebound_class(processor_class: Any) -> tuple[Any, int]:
    """A subclass whose kernel calls are routed, and how many there are. Made once per class, as compiled graphs are.

    Raises:
        LookupError: the class's source cannot be read, or it calls no kernel we know.
    """
    call = inspect.unwrap(processor_class.__call__)
    function = _parse(call)
    reroute = _Reroute(function.args.args[1].arg)
    function = reroute.visit(function)
    if not reroute.count:
        raise LookupError(f"{processor_class.__name__}: calls none of {', '.join(LAYOUTS)}, so it cannot be guided")
    cells = call.__code__.co_freevars
    names = [ast.arg(name) for name in ("_vidguide_route", *cells)]
    factory = ast.FunctionDef(
        "factory",
        ast.arguments([], names, None, [], [], None, []),
        [function, ast.Return(ast.Name(function.name, ast.Load()))],
        [],
    )
    module = ast.fix_missing_locations(ast.Module([ast.copy_location(factory, function)], []))
    code = compile(module, inspect.getfile(call), "exec", dont_inherit=True)
    made = FunctionType(next(const for const in code.co_consts if inspect.iscode(const)), call.__globals__)
    contents = [cell.cell_contents for cell in call.__closure__ or ()]
    routed: Any = functools.wraps(call)(made(route, *contents))
    routed.__defaults__, routed.__kwdefaults__ = call.__defaults__, copy.copy(call.__kwdefaults__)
    return subclass(processor_class, __call__=routed), reroute.count


def rebound(processor: Any) -> Any:
    """A processor like the given one, with routed kernel calls. It shares the given one's attributes, both ways."""
    own: Any = type(processor)
    routed = object.__new__(rebound_class(own)[0])
    routed.__dict__ = processor.__dict__
    return routed
