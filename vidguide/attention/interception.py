"""Intercept attention kernel calls in the processors of diffusers.

A processor computes projections, norms and rotary embedding, calls one of two attention kernels, and projects back.
:func:`intercepted` returns a processor of the same class whose `__call__` is upstream's source, compiled again with
those kernel calls replaced by :func:`vidguide.attention.site.route`, and the rotary embedding of the query by
:func:`vidguide.attention.site.rotate`. The function has upstream's globals and signature: the installed version of
diffusers runs as written, `inspect.signature` returns the same arguments, and torch.compile traces it like the
original. Rebinding names in upstream's module instead would not survive torch.compile, which resolves them in the
original module.
"""

import ast
import copy
import functools
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

from vidguide.attention.site import rotate, route
from vidguide.transformer.class_swap import subclass_of

LAYOUTS = {"dispatch_attention_fn": "BLHD", "scaled_dot_product_attention": "BHLD"}


QUERY, ROTARY = "query", "rotary"  # upstream's name of the query, and a part of its functions' that rotate it


class _Reroute(ast.NodeTransformer):
    """Replace each `kernel(q, k, v, ...)` by `_vidguide_route(attn, index, layout, kernel, q, k, v, ...)`, and each
    `apply_rotary_emb(query, ...)` by `_vidguide_rotate(attn, layout, in_place, apply_rotary_emb, query, ...)`.
    """

    def __init__(self, attention: str) -> None:
        self.attention, self.count = attention, 0
        self._query_layout, self._in_place = "BLHD", False

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Note whether `query[...] = ` is assigned to, and whether `query = ....transpose(1, 2)` changes its layout."""
        self._in_place = isinstance(node.targets[0], ast.Subscript)
        self.generic_visit(node)
        self._in_place = False
        if _base(node.targets[0]) == QUERY and ".transpose(1, 2)" in ast.unparse(node.value):
            self._query_layout = "BLHD" if self._query_layout == "BHLD" else "BHLD"
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in LAYOUTS:
            self.count += 1
            return self._replaced("_vidguide_route", node, self.count - 1, LAYOUTS[name])
        if ROTARY in name and node.args and _base(node.args[0]) == QUERY:
            return self._replaced("_vidguide_rotate", node, self._query_layout, self._in_place)
        return node

    def _replaced(self, name: str, node: ast.Call, *constants: Any) -> ast.Call:
        """Return a call of our function: the attention, constants, and upstream's function and arguments."""
        leading = [ast.Name(self.attention, ast.Load()), *map(ast.Constant, constants)]
        call = ast.Call(ast.Name(name, ast.Load()), [*leading, node.func, *node.args], node.keywords)
        return ast.copy_location(call, node)


def _base(node: ast.expr) -> str:
    """Return the variable's name in `name` and `name[...]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _parse(call: Callable[..., Any]) -> ast.FunctionDef:
    """Parse upstream's `__call__`, keeping its line numbers; annotations are dropped, as their names may not exist.

    Raises:
        LookupError: the source cannot be read, or is no plain function.
    """
    try:
        lines, first = inspect.getsourcelines(call)
    except OSError as error:
        raise LookupError(
            f"{call.__qualname__}: its source is needed to intercept its kernel calls: {error}"
        ) from error
    tree = ast.increment_lineno(ast.parse(textwrap.dedent("".join(lines))), first - 1)
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        raise LookupError(f"{call.__qualname__}: not a plain function; only plain processors can be intercepted")
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    function.returns = None
    return function


def _compile(function: ast.FunctionDef, call: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a rewritten `__call__` with the globals, closure and defaults of the original."""
    cells = call.__code__.co_freevars
    names = [ast.arg(name) for name in ("_vidguide_route", "_vidguide_rotate", *cells)]
    factory = ast.FunctionDef(
        "factory",
        ast.arguments([], names, None, [], [], None, []),
        [function, ast.Return(ast.Name(function.name, ast.Load()))],
        [],
    )
    module = ast.fix_missing_locations(ast.Module([ast.copy_location(factory, function)], []))
    code = compile(module, inspect.getfile(call), "exec", dont_inherit=True)
    make = FunctionType(next(const for const in code.co_consts if inspect.iscode(const)), call.__globals__)
    contents = [cell.cell_contents for cell in call.__closure__ or ()]
    compiled: Any = functools.wraps(call)(make(route, rotate, *contents))
    compiled.__defaults__, compiled.__kwdefaults__ = call.__defaults__, copy.copy(call.__kwdefaults__)
    return compiled


@functools.cache
def intercepted_class(processor_class: Any) -> tuple[Any, int]:
    """Return a subclass whose kernel calls are routed, and the number of them. Cached, as compiled graphs are.

    Raises:
        LookupError: the class's source cannot be read, or it calls no known kernel.
    """
    call = inspect.unwrap(processor_class.__call__)
    function = _parse(call)
    reroute = _Reroute(function.args.args[1].arg)
    function = reroute.visit(function)
    if not reroute.count:
        raise LookupError(f"{processor_class.__name__}: calls none of {', '.join(LAYOUTS)}, so it cannot be guided")
    return subclass_of(processor_class, __call__=_compile(function, call)), reroute.count


def intercepted(processor: Any) -> Any:
    """Return a processor like the given one, with routed kernel calls. Both share one `__dict__`."""
    original_class: Any = type(processor)
    routed = object.__new__(intercepted_class(original_class)[0])
    routed.__dict__ = processor.__dict__
    return routed
