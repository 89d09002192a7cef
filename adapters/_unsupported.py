"""Video transformers of diffusers that are not supported, each with what is missing."""

REFUSED = {
    "Cosmos3OmniTransformer": "its text is token ids, for a separate causal tower, and its video is a list of clips "
    "without a batch axis; to guide it, a negative's keys and values must be captured from that tower, and inputs and "
    "predictions be read from lists",
    "Kandinsky6SRTransformer3DModel": "it takes no text, so a negative prompt has nothing to act on; its "
    "self-attention is block-sparse, in a kernel that cannot be perturbed",
}
