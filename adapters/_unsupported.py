"""Video transformers of diffusers that are not supported, each with what is missing."""

CACHED = "to guide it, calls that write the cache must be told from calls that read it, and the keys and values of a "
CACHED += "negative be captured at the attention modules"

REFUSED = {
    "Cosmos3OmniTransformer": "its text is token ids, for a separate causal tower, and its video is a list of clips "
    "without a batch axis; to guide it, a negative's keys and values must be captured from that tower, and inputs and "
    "predictions be read from lists",
    "Kandinsky6SRTransformer3DModel": "it takes no text, so a negative prompt has nothing to act on; its "
    "self-attention is block-sparse, in a kernel that cannot be perturbed",
    "SanaWMLTX2RefinerTransformer3DModel": f"its calls read and write a key-value cache of the previous chunks; "
    f"{CACHED}, in a refiner that is no component of its pipeline",
    "WanAnimate2Transformer3DModel": "its arguments are lists of clips of different sizes, and calls on the reference "
    f"write a key-value cache that the other calls read; {CACHED}",
}
