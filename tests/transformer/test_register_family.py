"""Families that are declared outside of the package."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.helpers.tiny_wan import tiny_wan
from vidguide import NAG, guide
from vidguide.transformer.family import Family, families, family_of, register_family

# A transformer that no adapter of the package declares.
OtherTransformer: Any = type("OtherTransformer", (WanTransformer3DModel,), {})


@pytest.fixture
def registered() -> Iterator[Family]:
    family = Family(name="Other", transformers=("OtherTransformer",))
    register_family(family)
    yield family
    del families()["OtherTransformer"]


def other_wan() -> Any:
    """Return a model of the class with the weights of a tiny Wan."""
    wan = tiny_wan()
    other = OtherTransformer.from_config(wan.config)
    other.load_state_dict(wan.state_dict())
    return other.eval()


def predict(transformer: Any, *guidances: NAG) -> torch.Tensor:
    """Return a prediction of a fixed input under guidances."""
    random = torch.Generator().manual_seed(0)
    config = transformer.config
    video = torch.randn(1, config.in_channels, 2, 8, 8, generator=random)
    text = torch.randn(1, 6, config.text_dim, generator=random)
    with torch.no_grad(), guide(transformer, *guidances):
        return transformer(video, torch.tensor([500.0]), text)[0]


def test_a_registered_family_is_guided_as_the_packages_own(registered: Family) -> None:
    negative = torch.randn(1, 6, tiny_wan().config.text_dim, generator=torch.Generator().manual_seed(1))
    nag, other = NAG(negative_prompt_embeds=negative), other_wan()
    assert family_of(other) is registered
    assert torch.equal(predict(other, nag), predict(tiny_wan(), nag))
    assert not torch.equal(predict(other, nag), predict(other))


def test_an_unknown_transformer_names_how_to_declare_it() -> None:
    with pytest.raises(LookupError, match=r"no adapter for OtherTransformer.*register_family.*examples/new_family\.py"):
        family_of(other_wan())


def test_a_transformer_is_declared_once(registered: Family) -> None:
    for name in ("OtherTransformer", "WanTransformer3DModel"):
        with pytest.raises(ValueError, match=rf"register_family\('Twice'\): {name} has a declaration"):
            register_family(Family(name="Twice", transformers=("NewTransformer", name)))
    assert "NewTransformer" not in families()


def test_a_config_without_a_patch_size_is_named(registered: Family) -> None:
    other = other_wan()
    object.__setattr__(other, "_internal_dict", type(other.config)({"in_channels": 4, "text_dim": 16}))
    with pytest.raises(ValueError, match="OtherTransformer: its config has no patch_size"):
        predict(other, NAG(negative_prompt_embeds=torch.randn(1, 6, 16)))
