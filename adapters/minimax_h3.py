"""MiniMax-H3: joint attention over one packed sequence, `[text | conditions | audio | video]`, without a mask.

Two refiner blocks of self-attention over all rows of the text precede the blocks, so a negative is refined by itself.
Blocks modulate each row by the timestep and the modality of that row: the text's rows have the video's timestep, and
modality 1, or 0 where they are of a picture that was encoded together with the prompt.
"""

import torch
from torch import Tensor

from vidguide.transformer.family import Audio, Family, Inputs, Joint, Packed, by_step

TEXT, TAGS = "encoder_hidden_states", "text_token_tags"
INDICES = ("text_indices", "audio_indices", "video_indices")
ROWS = ("timestep_indices", "token_tags", "position_ids")  # arguments with one row per token
TEXT_TAG = 1


def text_first(inputs: Inputs) -> Inputs:
    """Return the same call with the text's rows before all others, which attention and predictions do not depend on."""
    text, rows = inputs["text_indices"], inputs["position_ids"].shape[0]
    if torch.equal(text, torch.arange(len(text), device=text.device)):
        return inputs
    is_text = torch.zeros(rows, dtype=torch.bool, device=text.device).index_fill(0, text, True)
    order = torch.cat([text, (~is_text).nonzero().flatten()])
    place = torch.empty_like(order)
    place[order] = torch.arange(rows, device=text.device)
    moved = {name: place[inputs[name]] for name in INDICES}
    return {**inputs, **moved, **{name: inputs[name][order] for name in ROWS}}


def with_text(inputs: Inputs, text: Inputs) -> Inputs:
    """Return a call with another text, which ends where the prompt ends on the time axis; all else stays in its place.

    Raises:
        ValueError: the prompt was encoded with pictures, and the text has no tags of its rows.
    """
    length, embeds = len(inputs["text_indices"]), text[TEXT]
    rows = embeds.shape[1]
    time, tags = inputs["position_ids"][:length, :1], text_tags(inputs, text)
    position_ids = torch.zeros_like(inputs["position_ids"][:1]).repeat(rows, 1)
    position_ids[:, :1] = time[-1:] + torch.arange(1 - rows, 1, device=time.device)[:, None]
    replaced = {"timestep_indices": inputs["timestep_indices"][:1].expand(rows), "token_tags": tags}
    replaced["position_ids"] = position_ids
    return {
        **inputs,
        TEXT: embeds,
        **{name: torch.cat([value, inputs[name][length:]]) for name, value in replaced.items()},
        **{name: inputs[name] + rows - length for name in INDICES[1:]},
        "text_indices": torch.arange(rows, device=time.device),
    }


def text_tags(inputs: Inputs, text: Inputs) -> Tensor:
    """Return the modalities of a text's rows: as given, or all text where the prompt has no pictures."""
    rows, prompt = text[TEXT].shape[1], inputs["token_tags"][: len(inputs["text_indices"])]
    tags = text.get(TAGS)
    if tags is None:
        if (prompt != TEXT_TAG).any():
            raise ValueError(
                f"negative_prompt_embeds: {TAGS} is missing; this prompt was encoded with pictures: encode the "
                f"negative with them as well, and give a dict with {TEXT} and {TAGS}, as the text encoder returns them"
            )
        return prompt.new_full((rows,), TEXT_TAG)
    if tuple(tags.shape) != (rows,):
        raise ValueError(f"{TAGS} {tuple(tags.shape)}: must be ({rows},), one tag for each row of {TEXT}")
    return tags.to(prompt)


def laid_out(inputs: Inputs, text: Inputs) -> Inputs:
    """Return a call with another text as the pipeline lays it out: the text from the prompt's first time on, and all
    else after it."""
    position_ids = inputs["position_ids"]
    inputs = with_text(inputs, text)
    start = torch.zeros_like(position_ids[:1])
    start[:, 0] = inputs["position_ids"][0, 0] - position_ids[0, 0]
    return {**inputs, "position_ids": inputs["position_ids"] - start}


def media(inputs: Inputs) -> tuple[int, int, int]:
    """Return the lengths of the conditions, the generated audio and the generated video, in this order after the text.

    The video is the last run of consecutive rows; the audio begins with it on the time axis, or later.

    Raises:
        ValueError: the rows are in another order.
    """
    rows, time = inputs["position_ids"].shape[0], inputs["position_ids"][:, 0].tolist()
    video, audio = (inputs[name].tolist() for name in ("video_indices", "audio_indices"))
    if not video or video != sorted(video) or audio != sorted(audio) or video[-1] != rows - 1:
        raise ValueError(
            "video_indices: the generated video must be the last rows of the sequence, after text, conditions and "
            "audio, as MiniMaxH3PrepareLayoutStep packs them, for guidances that act on it alone"
        )
    start = rows - _run(video, rows)
    audio_start = start - _run(audio, start)
    while audio_start < start and time[audio_start] < time[start]:
        audio_start += 1
    return audio_start - len(inputs["text_indices"]), start - audio_start, rows - start


def _run(indices: list[int], stop: int) -> int:
    """Return how many of the last indices are consecutive and end before `stop`."""
    count = 0
    while count < len(indices) and indices[-1 - count] == stop - 1 - count:
        count += 1
    return count


def grid(inputs: Inputs, length: int) -> tuple[int, int, int]:
    """Return the token grid (F, H, W) of the `length` last rows.

    Raises:
        ValueError: their positions are no grid of frames, in the order of time.
    """
    positions = inputs["position_ids"][-length:]
    tokens = _repeats(positions[:, 0])  # of a frame
    width = _repeats(positions[:tokens, 1])
    if length % tokens == 0 and tokens % width == 0:
        by_frame = positions.reshape(-1, tokens, 3)
        time, places = by_frame[..., 0], by_frame[..., 1:]
        if (time == time[:, :1]).all() and (time.diff(dim=0) > 0).all() and (places == places[:1]).all():
            return length // tokens, tokens // width, width
    raise ValueError("position_ids: the generated video's rows must be a grid of frames, one after another in time")


def _repeats(values: Tensor) -> int:
    """Return how many of the first values are equal."""
    return int((values == values[0]).int().cumprod(0).sum())


FAMILIES = (
    Family(
        name="MiniMax-H3",
        transformers=("MiniMaxH3Transformer3DModel",),
        blocks=("transformer_blocks",),
        text_attention=("attn",),
        joint=Joint(
            text_first=True,
            packed=Packed(
                text_first=text_first,
                with_text=with_text,
                media=media,
                grid=grid,
                row_arguments=("adaln_indices", "rotary_emb"),
            ),
        ),
        text_inputs=(TEXT, TAGS),
        # Without tags, which `text_tags` completes: a text encoded by itself has no pictures, as the prompt may have.
        text_blocks=("before_encode", "text_encoder"),
        state_fields={TEXT: "prompt_embeds", TAGS: TAGS},
        text_extras=(TAGS,),
        text_varies=by_step,  # a timestep is an index into the timesteps of a call, which may change from step to step
        layout="BLC",
        uncond=laid_out,
        audio=Audio(sample_rate=lambda pipe, output: int(output.get("sampling_rate"))),
        min_diffusers="0.42",
    ),
)
