"""Video transformers of diffusers that are not supported, each with the reason."""

PACKED = "text and video are one packed sequence without a batch axis, addressed by lists of indices"

REFUSED = {
    "AnyFlowFARTransformer3DModel": "each call reads or writes a key-value cache of the previous chunks, which "
    "additional calls would change (AnyFlow without FAR is supported)",
    "Cosmos3OmniTransformer": f"{PACKED}; the text is token ids, for a separate causal tower",
    "Kandinsky6SRTransformer3DModel": "it takes no text, so a negative prompt has nothing to act on; its "
    "self-attention is block-sparse",
    "MiniMaxH3Transformer3DModel": f"{PACKED}, mixed with conditions and audio",
    "SanaWMLTX2RefinerTransformer3DModel": "its calls read and write a key-value cache of the previous chunks",
    "WanAnimate2Transformer3DModel": "its arguments are lists of clips of different sizes, and calls on the reference "
    "fill a key-value cache that the other calls read",
}
