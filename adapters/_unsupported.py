"""Video transformers of diffusers that are known and left out, each with the reason."""

PACKED = "text and video come as one packed sequence without a batch, placed by lists of indices"

REFUSED = {
    "AnyFlowFARTransformer3DModel": "each of its calls reads or writes a key-value cache of the chunks before, which "
    "calls of ours would change (AnyFlow without it is supported)",
    "Cosmos3OmniTransformer": f"{PACKED}; the text comes as token ids, to a causal tower of its own",
    "Kandinsky6SRTransformer3DModel": "it takes no text, so that there is nothing for a negative prompt to act on; its "
    "self-attention is block-sparse",
    "MiniMaxH3Transformer3DModel": f"{PACKED}, with conditions and audio among them",
    "SanaWMLTX2RefinerTransformer3DModel": "its calls read and write a key-value cache of the chunks before",
    "WanAnimate2Transformer3DModel": "its arguments are lists of clips of different sizes, and calls on the reference "
    "fill a key-value cache that the others read",
}
