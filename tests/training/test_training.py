"""The training scripts compute what the pipeline computes: pads, VAE chunks, held-out scenes, distillation targets."""

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import distil as distil_script
import export as export_script
import text as text_script
import transformer as transformer_script
import vae as vae_script
from text import LENGTH, make_tokenizer, random_caption

from vidguide.eval.metrics.world_attributes import ATTRIBUTE_OF
from vidguide.eval.world.scene import all_scenes, caption
from vidguide.functional.cfg import cfg


@pytest.mark.parametrize("length", [LENGTH, 64, 512])
def test_one_pad_token_with_a_logit_bias_equals_all_pads(length: int) -> None:
    """Training uses one pad token with the bias log(pads), the pipeline all pads: the velocity is the same."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = transformer_script.TextToVelocity(len(tokenizer)).eval().requires_grad_(False)
    captions = ["a large red circle moving left on a white background", "red", ""]
    latents, timestep = torch.randn(3, 8, 3, 8, 8), torch.tensor([900.0, 500.0, 20.0])
    tokens = tokenizer(captions, padding="max_length", max_length=length, return_tensors="pt")
    text = model.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    expected = model.transformer(latents, timestep, text * tokens.attention_mask[..., None], return_dict=False)[0]
    batch = transformer_script.text_batch(tokenizer, captions, np.full(3, length))
    assert torch.allclose(model.written_out()(latents, timestep, *batch), expected, atol=2e-5)


def test_encoding_and_decoding_in_two_chunks_equals_the_vae() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**vae_script.CONFIG).eval().requires_grad_(False)
    video = torch.randn(1, 3, 13, 16, 16)
    latents = vae.encode(video).latent_dist.mean
    assert torch.allclose(vae_script.encode(vae, video), latents, atol=1e-5)
    patches = vae_script.patches(vae.decode(latents).sample)
    assert torch.allclose(vae_script.decode(vae, latents).clamp(-1, 1), patches, atol=1e-5)


def test_captions_fit_the_text_length_and_the_vocabulary() -> None:
    tokenizer = make_tokenizer()
    for template in range(3):
        ids = tokenizer([caption(scene, template) for scene in all_scenes()]).input_ids
        assert max(map(len, ids)) <= LENGTH
        assert not any(tokenizer.unk_token_id in sentence for sentence in ids)


def test_training_captions_are_true_of_their_scene() -> None:
    random = np.random.default_rng(0)
    scene = all_scenes()[100]
    words = set(caption(scene).split()) | {"object"}
    captions = [random_caption(scene, random) for _ in range(300)]
    assert all(set(text.split()) <= words for text in captions)
    assert {"", caption(scene)} <= set(captions)


def test_training_captions_omit_attributes_as_often_as_planned() -> None:
    random, scene = np.random.default_rng(0), all_scenes()[100]
    unsaid = [5 - len(requested(random_caption(scene, random))) for _ in range(4000)]
    assert np.bincount(unsaid, minlength=6) / 4000 == pytest.approx(text_script.UNSAID, abs=0.03)


def requested(text: str) -> list[str]:
    """Return the attributes that a caption names."""
    return [word for word in text.split() if word in ATTRIBUTE_OF]


def test_noise_levels_cover_the_range_and_a_quarter_are_high() -> None:
    torch.manual_seed(0)
    levels = transformer_script.sigmas(20_000)
    shifted = 3 * 0.65 / (1 + 2 * 0.65)  # where a uniform level of 0.65 is shifted to
    assert 0 < levels.min() < 0.02
    assert 0.99 < levels.max() <= 1
    below = (levels < shifted).float().mean().item()
    normal = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(0.65 / 0.35).log()).item()
    # shifted > 0.84; of the high quarter none is below 0.85
    assert below == pytest.approx(0.25 * 0.65 + 0.5 * normal, abs=0.015)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training from the shipped pipeline, stopped after its second of three steps, ends with the same weights."""
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(transformer_script, "SAVED_EVERY", 1)
    start = Path(__file__).parents[2] / "pipelines" / "weights" / "tiny"

    def run(folder: str) -> None:
        work = tmp_path / folder
        work.mkdir(exist_ok=True)
        transformer_script.train(
            argparse.Namespace(work=work, start=start, clips=6, steps=3, rate=1e-3, batch=2, average=0.9, seed=1)
        )

    run("unbroken")
    with monkeypatch.context() as patched:
        patched.setattr(transformer_script, "lengths_for", stop_after(2, transformer_script.lengths_for))
        with pytest.raises(KeyboardInterrupt):
            run("broken")
    run("broken")
    unbroken, broken = (torch.load(tmp_path / name / "transformer.pt") for name in ("unbroken", "broken"))
    assert unbroken["step"] == broken["step"] == 3
    for part in ("model", "average"):
        assert all(torch.equal(tensor, broken[part][name]) for name, tensor in unbroken[part].items())
    pipe = export_script.assemble_from(tmp_path / "broken", start)
    assert torch.equal(
        pipe.transformer.blocks[0].attn1.to_q.weight, broken["average"]["transformer.blocks.0.attn1.to_q.weight"]
    )


def stop_after(calls: int, function: Any) -> Any:
    """Return a function that works for some calls and then stops the run."""
    count = iter(range(calls))

    def limited(*arguments: Any) -> Any:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return limited


def test_the_students_steps_follow_the_guided_teacher() -> None:
    """Four student steps along the targets arrive where many guided steps of the pipeline arrive."""
    torch.manual_seed(0)
    tokenizer, scale, substeps = make_tokenizer(), 2.0, 3
    model = transformer_script.TextToVelocity(len(tokenizer)).eval().requires_grad_(False)
    captions = ["a large red circle moving left", "blue"]
    text = distil_script.Text(tokenizer, captions, np.array([LENGTH, 64]), torch.device("cpu"))
    torch.manual_seed(1)
    jumps = distil_script.trajectories(model.written_out(), text, scale, substeps)
    scheduler = distil_script.student_scheduler()
    scheduler.set_timesteps(distil_script.STEPS)
    latents = jumps[0][0]
    for timestep, (began, velocity) in zip(scheduler.timesteps, jumps, strict=True):
        assert torch.allclose(latents, began, atol=1e-5)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]

    plain = transformer_script.TextToVelocity(len(tokenizer)).eval()
    plain.load_state_dict(model.state_dict())
    expected: list[torch.Tensor] = []
    for row, length in zip(jumps[0][0], (LENGTH, 64), strict=True):
        words = [captions[len(expected)], ""]
        tokens = tokenizer(words, padding="max_length", max_length=length, return_tensors="pt")
        states = plain.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        states = states * tokens.attention_mask[..., None]
        for level, after in pairwise(fine_levels(scheduler.sigmas, substeps)):
            timestep = torch.full((2,), level * 1000)
            prompted, empty = plain.transformer(row.expand(2, -1, -1, -1, -1), timestep, states, return_dict=False)[0]
            row = row + (after - level) * cfg(prompted, empty, scale)
        expected.append(row)
    assert torch.allclose(latents, torch.stack(expected), atol=1e-4)


def fine_levels(sigmas: torch.Tensor, substeps: int) -> list[float]:
    """Return the student's noise levels with `substeps` equal steps between consecutive levels."""
    fine = [torch.linspace(float(a), float(b), substeps + 1)[:-1].tolist() for a, b in pairwise(sigmas)]
    return [*(level for part in fine for level in part), float(sigmas[-1])]
