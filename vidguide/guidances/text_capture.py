"""Record what a transformer computes from a negative's text: keys and values, or a text stream in joint attention."""

from functools import partial

from vidguide.attention.plan import EMPTY, AttentionPlan
from vidguide.calls.call import Call, Recorded
from vidguide.transformer.family import Inputs
from vidguide.transformer.text_stream import TEXT, TextStream, capture_stream
from vidguide.transformer.token_grid import one_token


def text_keys_values(call: Call, text: Inputs) -> Recorded:
    """Return keys, values and mask of a text at the text attentions, computed by the model over one video token.

    Raises:
        RuntimeError: no block attended to the text.
    """
    model = call.model
    inputs = without_graph(one_token(model.family, model.original, call.inputs, text))
    recorded = call.auxiliary_forward(AttentionPlan(recorded=frozenset(model.text_sites.values())), inputs)
    # An attention that does not run here (audio's, when there is no audio) does not run in the guided call either.
    if not recorded:
        raise RuntimeError(f"no block of {type(model.original).__name__} attended to the text")
    return recorded


def text_stream(call: Call, text: Inputs, negative_modulation: bool) -> TextStream:
    """Return a text as the first joint block receives it, as a second text stream for the guided call.

    Args:
        negative_modulation: whether the text's pooled embedding modulates it; otherwise the prompt's does.
    """
    family, transformer, text = call.model.family, call.model.original, call.repeat(text)
    inputs = without_graph(call.batch.conditional_inputs(call.inputs))
    packed = family.joint.packed if family.joint else None
    inputs = {**inputs, **text} if packed is None else packed.with_text(inputs, text)
    forward = partial(call.auxiliary_forward, EMPTY, inputs)
    lengths = call.inputs[TEXT].shape[1], inputs[TEXT].shape[1]
    return capture_stream(family, transformer, call.batch, forward, negative_modulation, lengths)


def without_graph(inputs: Inputs) -> Inputs:
    """Return a call's arguments with the video detached: a text does not depend on it, but models concatenate both."""
    return {**inputs, "hidden_states": inputs["hidden_states"].detach()}
