"""Loading of weights in their published layouts, on tiny models with random weights."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.helpers.known_clips import constant, translation
from tests.helpers.tiny_vision_models import make_clip, save_processors
from vidguide.eval.encoders import load as loading
from vidguide.eval.encoders import open_clip as openclip
from vidguide.eval.encoders.catalogue import KINDS, missing_requirement
from vidguide.eval.encoders.load import load
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample

WIDTH, INNER, LAYERS, HEADS, WORDS, LENGTH, OUT, PATCH, GRID = 16, 24, 2, 2, 16, 12, 8, 8, 4


def checkpoint() -> dict[str, Tensor]:
    """Return a state dict in the layout of open_clip."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random) / 3

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + normal(WIDTH), f"{name}.bias": normal(WIDTH)}

    state = {"visual.class_embedding": normal(WIDTH), "visual.positional_embedding": normal(GRID**2 + 1, WIDTH)}
    state |= {"visual.conv1.weight": normal(WIDTH, 3, PATCH, PATCH), "visual.proj": normal(WIDTH, OUT)}
    state |= {"token_embedding.weight": normal(WORDS, WIDTH), "positional_embedding": normal(LENGTH, WIDTH)}
    state |= {"text_projection": normal(WIDTH, OUT), "logit_scale": torch.tensor(2.0)}
    state |= norm("visual.ln_pre") | norm("visual.ln_post") | norm("ln_final")
    for tower in ("visual.transformer", "transformer"):
        for layer in range(LAYERS):
            name = f"{tower}.resblocks.{layer}"
            state |= norm(f"{name}.ln_1") | norm(f"{name}.ln_2")
            shapes = {"attn.in_proj_": (3 * WIDTH, WIDTH), "attn.out_proj.": (WIDTH, WIDTH)}
            shapes |= {"mlp.c_fc.": (INNER, WIDTH), "mlp.c_proj.": (WIDTH, INNER)}
            for part, (rows, columns) in shapes.items():
                state |= {f"{name}.{part}weight": normal(rows, columns), f"{name}.{part}bias": normal(rows)}
    return state


def plain(state: dict[str, Tensor], x: Tensor, tower: str, causal: bool) -> Tensor:
    """Return the output of CLIP's transformer: pre-norm attention and an MLP with the exact GELU."""
    mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1) if causal else None
    for layer in range(LAYERS):
        name = f"{tower}.resblocks.{layer}."
        part = {key.removeprefix(name): tensor for key, tensor in state.items() if key.startswith(name)}
        normed = F.layer_norm(x, (WIDTH,), part["ln_1.weight"], part["ln_1.bias"])
        q, k, v = F.linear(normed, part["attn.in_proj_weight"], part["attn.in_proj_bias"]).chunk(3, -1)
        q, k, v = (tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2) for tensor in (q, k, v))
        scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        mixed = (scores + mask if mask is not None else scores).softmax(-1) @ v
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), part["attn.out_proj.weight"], part["attn.out_proj.bias"])
        normed = F.layer_norm(x, (WIDTH,), part["ln_2.weight"], part["ln_2.bias"])
        hidden = F.gelu(F.linear(normed, part["mlp.c_fc.weight"], part["mlp.c_fc.bias"]))
        x = x + F.linear(hidden, part["mlp.c_proj.weight"], part["mlp.c_proj.bias"])
    return x


def plain_image(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    patches = F.conv2d(pixels, state["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(pixels), 1, -1), patches], 1)
    x = x + state["visual.positional_embedding"]
    x = F.layer_norm(x, (WIDTH,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    x = plain(state, x, "visual.transformer", False)[:, 0]
    return (
        F.layer_norm(x, (WIDTH,), state["visual.ln_post.weight"], state["visual.ln_post.bias"]) @ state["visual.proj"]
    )


def plain_text(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    x = plain(state, x, "transformer", True)
    x = F.layer_norm(x, (WIDTH,), state["ln_final.weight"], state["ln_final.bias"])
    return x[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_open_clip_checkpoint_equals_the_plain_transformer(wrapped: bool, tmp_path: Path) -> None:
    state = checkpoint()
    stored = {f"module.{name}": tensor for name, tensor in state.items()} if wrapped else state
    torch.save({"state_dict": stored, "epoch": 1} if wrapped else stored, tmp_path / "hps.pt")
    model = openclip.load_clip_model(tmp_path / "hps.pt", {"vision": WIDTH // HEADS, "text": WIDTH // HEADS})
    pixels = torch.randn(2, 3, PATCH * GRID, PATCH * GRID, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[14, 3, 5, 7, 15, 0], [14, 9, 15, 0, 0, 0]])
    with torch.inference_mode():
        image, text = model.get_image_features(pixel_values=pixels), model.get_text_features(input_ids=ids)
    image, text = (getattr(tensor, "pooler_output", tensor) for tensor in (image, text))
    assert torch.allclose(image, plain_image(state, pixels), atol=1e-5)
    assert torch.allclose(text, plain_text(state, ids), atol=1e-5)
    assert model.logit_scale.item() == 2


def test_checkpoint_of_another_layout_raises(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="layout of open_clip"):
        openclip.load_clip_model(tmp_path / "x.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, path = make_clip(), tmp_path_factory.mktemp("clip")
    model: Any = network
    model.save_pretrained(path)
    save_processors(path)
    return path


def test_preference_scores_are_scaled_cosines(folder: Path) -> None:
    clip = translation(frames=4)
    encoders: dict[str, Any] = {kind: load(kind, str(folder)) for kind in ("pickscore", "hps", "clip")}
    sample = Sample(clip, "a b", encoders=encoders)
    cosine = METRICS["clip.frame_cosine"](sample).value
    assert cosine is not None
    scale = encoders["clip"].model.logit_scale.exp().item()
    assert METRICS["pickscore.score"](sample).value == pytest.approx(scale * cosine, rel=1e-5)
    score = METRICS["hps.score"](sample)
    assert score.value == pytest.approx(100 * cosine, rel=1e-5)
    assert score.details["worst frame"] == pytest.approx(min(value for value in score.per_frame if value is not None))
    warnings = METRICS["hps.score"](Sample(clip, " ".join("abcdefghij" * 2), encoders=encoders)).details["remarks"]
    assert "last 10 tokens" in warnings[0]


def test_missing_processor_is_loaded_from_vit_h14(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PickScore comes without a processor, HPS v2 as an open_clip file: both take that of ViT-H/14."""
    for file in folder.iterdir():
        if file.name in ("config.json", "model.safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(loading, "PREFERENCE_PROCESSOR", str(folder))
    monkeypatch.setattr(openclip, "HEAD_WIDTH", {"vision": 8, "text": 8})
    torch.save(checkpoint(), tmp_path / "HPS_v2.1.pt")
    encoders = {"pickscore": load("pickscore", str(tmp_path)), "hps": load("hps", str(tmp_path / "HPS_v2.1.pt"))}
    sample = Sample(constant(2), "a b", encoders=encoders)
    for name in ("pickscore.score", "hps.score"):
        value = METRICS[name](sample).value
        assert value is not None
        assert -101 < value < 101
    assert encoders["hps"].weights.startswith(str(tmp_path / "HPS_v2.1.pt"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load("clip", str(tmp_path / "gone"))


def test_linear_head_is_loaded_and_validated(tmp_path: Path) -> None:
    layer = torch.nn.Linear(8, 1)
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    head: Any = load("aesthetic", str(tmp_path / "head.pth"))
    features = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    with torch.inference_mode():
        np.testing.assert_allclose(head.score(features), layer(torch.from_numpy(features))[:, 0], atol=1e-6)
    torch.save(torch.nn.Linear(8, 2).state_dict(), tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match="one linear layer"):
        load("aesthetic", str(tmp_path / "wrong.pth"))
    with pytest.raises(FileNotFoundError, match="LAION"):
        load("aesthetic", "gone.pth")


def test_raft_equals_torchvisions_with_20_updates(tmp_path: Path) -> None:
    try:
        from torchvision.models.optical_flow import raft_large
    except Exception:
        pytest.skip("needs torchvision, an extra")
    torch.manual_seed(0)
    model = raft_large(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    raft: Any = load("raft", str(tmp_path / "raft.pth"))
    first, second = torch.rand(2, 1, 3, 128, 128) * 255
    with torch.inference_mode():
        expected = model(first / 127.5 - 1, second / 127.5 - 1, num_flow_updates=20)[-1]
    assert torch.allclose(raft.flow(first, second), expected, atol=1e-4)
    sample = Sample(translation(frames=3, side=128), encoders={"raft": raft})
    assert METRICS["vbench.dynamic_degree"](sample).value in (0, 1)


def test_raft_without_torchvision_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    (tmp_path / "raft.pth").write_bytes(b"")
    with pytest.raises(ImportError, match="pip install torchvision"):
        load("raft", str(tmp_path / "raft.pth"))


def test_missing_requirements_name_the_option() -> None:
    assert missing_requirement(("aesthetic",)) == "with --aesthetic MODEL"
    assert missing_requirement(("clip", "aesthetic")).startswith("with --")
    assert all(kind.licence for kind in KINDS.values())
    with pytest.raises(ValueError, match="encoder='siglip'"):
        load("siglip", "x")
