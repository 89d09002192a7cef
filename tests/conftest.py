"""Small random models and calls that many tests share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which diffusers does

from diffusers import WanTransformer3DModel


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, metavar="FILE", help="write the compatibility table (with -m slow)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--table"):
        from table import Recorder

        config.pluginmanager.register(Recorder(config.getoption("--table")))


@pytest.fixture
def told(record_property: Callable[[str, Any], None]) -> Callable[[pytest.ExceptionInfo[Any]], None]:
    """Keeps what a refusal says, for the list beside the table."""
    return lambda caught: record_property("refusal", f"{caught.type.__name__}: {caught.value}")


def tiny_wan(**changes: Any) -> WanTransformer3DModel:
    """A Wan transformer of three blocks with random weights, the same at each call."""
    torch.manual_seed(0)
    config = dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4)
    config |= dict(text_dim=16, freq_dim=32, ffn_dim=32, num_layers=3, rope_max_seq_len=32)
    return WanTransformer3DModel(**config | changes).eval().requires_grad_(False)


def wan_inputs(batch: int = 2, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Keyword arguments of a call of `tiny_wan`."""
    random = torch.Generator().manual_seed(seed)
    return dict(
        hidden_states=torch.randn(batch, 4, 2, 8, 8, generator=random).to(dtype),
        timestep=torch.full((batch,), 500),
        encoder_hidden_states=torch.randn(batch, 7, 16, generator=random).to(dtype),
        return_dict=False,
    )


def negative_text(batch: int = 1, length: int = 9, seed: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Embeddings of a negative prompt for `tiny_wan`."""
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def wan() -> WanTransformer3DModel:
    return tiny_wan()


@pytest.fixture
def snapshot() -> Callable[[torch.nn.Module], dict[str, Any]]:
    """All that guide() could leave behind on a module tree: classes, attributes, processors, hooks, weights."""

    def take(model: torch.nn.Module) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, module in model.named_modules():
            processor = getattr(module, "processor", None)
            seen[name] = (type(module), sorted(vars(module)), processor, type(processor), len(module._forward_hooks))
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return {"modules": seen, "weights": weights}

    return take


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two snapshots agree, weights bit for bit."""
    weights = all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])
    return one["modules"] == other["modules"] and weights
