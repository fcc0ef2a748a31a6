"""Where the parts of each supported family of models are; no other module knows their names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Where things are in one family of models; paths are relative to the block unless said otherwise.

    blocks: path of the block list; heads: the modules that the attention and the mlp sublayer begin with (a
    normalisation when `pre_norm`); roles: {role: path} of the linear maps, the ports leaving "o" and "down";
    norms: normalisations that follow the residual sum; embedding: path of the module whose output starts the
    residual stream; word: path of the word embedding; final: path of the last normalisation; fused: how "qkv"
    is laid out, "parts" (q, k, v one after the other) or "heads" (q, k, v of the first head, then of the
    second, ...);
    first_position: position of the first token; None in models without learned positions.
    """

    kind: str
    blocks: str
    heads: tuple[str, str]
    attention: str
    roles: dict[str, str]
    embedding: str
    word: str
    norms: tuple[str, str] | None = None
    final: str | None = None
    fused: str | None = None
    first_position: int | None = 0

    @property
    def pre_norm(self) -> bool:
        """Whether the normalisation comes before the sublayer and so belongs to it."""
        return self.norms is None


def _bert_like(first_position: int) -> Architecture:
    attention = {role: f"attention.self.{name}" for role, name in zip("qkv", ("query", "key", "value"), strict=True)}
    return Architecture(
        kind="encoder",
        blocks="encoder.layer",
        heads=("attention.self", "intermediate"),
        attention="attention.self",
        roles=attention | {"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"},
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        embedding="embeddings",
        word="embeddings.word_embeddings",
        first_position=first_position,
    )


def _llama_like() -> Architecture:
    roles = {role: f"self_attn.{role}_proj" for role in "qkvo"}
    return Architecture(
        kind="decoder",
        blocks="layers",
        heads=("input_layernorm", "post_attention_layernorm"),
        attention="self_attn",
        roles=roles | {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"},
        embedding="embed_tokens",
        word="embed_tokens",
        final="norm",
        first_position=None,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "bert": _bert_like(0),
    "roberta": _bert_like(2),
    "distilbert": Architecture(
        kind="encoder",
        blocks="transformer.layer",
        heads=("attention", "ffn"),
        attention="attention",
        roles={role: f"attention.{role}_lin" for role in "qkv"}
        | {"o": "attention.out_lin", "up": "ffn.lin1", "down": "ffn.lin2"},
        norms=("sa_layer_norm", "output_layer_norm"),
        embedding="embeddings",
        word="embeddings.word_embeddings",
    ),
    "mpnet": Architecture(
        kind="encoder",
        blocks="encoder.layer",
        heads=("attention.attn", "intermediate"),
        attention="attention.attn",
        roles={role: f"attention.attn.{role}" for role in "qkvo"} | {"up": "intermediate.dense", "down": "output.dense"},
        norms=("attention.LayerNorm", "output.LayerNorm"),
        embedding="embeddings",
        word="embeddings.word_embeddings",
        first_position=2,
    ),
    "gpt2": Architecture(
        kind="decoder",
        blocks="h",
        heads=("ln_1", "ln_2"),
        attention="attn",
        roles={"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
        embedding="drop",
        word="wte",
        final="ln_f",
        fused="parts",
    ),
    "llama": _llama_like(),
    "qwen2": _llama_like(),
    "gpt_neox": Architecture(
        kind="decoder",
        blocks="layers",
        heads=("input_layernorm", "post_attention_layernorm"),
        attention="attention",
        roles={
            "qkv": "attention.query_key_value",
            "o": "attention.dense",
            "up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
        },
        embedding="emb_dropout",
        word="embed_in",
        final="final_layer_norm",
        fused="heads",
        first_position=None,
    ),
}
