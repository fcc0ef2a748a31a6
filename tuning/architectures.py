"""The supported families of models, one row each: where their parts are, and what is particular to them.

No other module knows their names; torch is not needed to read this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ATTENTION_ROLES = ("q", "k", "v", "qkv", "o")
ROLES = (*ATTENTION_ROLES, "up", "gate", "gate_up", "down")


@dataclass(frozen=True)
class Architecture:
    """One family of models; paths are relative to the block unless said otherwise.

    title: its name in print. kind: "encoder", "decoder" or "encoder-decoder". blocks: path of the block list. heads: the modules
    that the sublayers begin with, normalisations where `opened`. closings: the normalisations that they end with,
    before the residual sum. roles: {role: path} of the linear maps, the ports leaving the closings or else "o" and "down"; of
    "gate_up" the first half is the gate. norms: normalisations that follow the residual sum. head_norms: the normalisations of
    queries and of keys. embedding: path of the module whose output starts the residual stream. word: path of the word
    embedding. final: path of the last normalisation. fused: how "qkv" is laid out, "parts" (q, k, v one after the other) or
    "heads" (q, k, v of the first head, then of the second, ...).
    first_position: position of the first token, None without learned positions. relative: path of the module that computes
    one relative position bias for all blocks. window: whether every block has the sliding window of the configuration, where
    the attention does not say which has. segments: whether texts of a pair have segment numbers. classifier: in a
    model that classifies, the layer on the first token's state, its activation, and the map to the logits; None where the
    map "score" reads the last token. cross: path of the attention to another stack's states, between the two sublayers, whose
    maps have the names that those of the attention have. second: in an encoder-decoder, the row of the second stack, which
    reads the first one's last states. closed_form: whether `tuning.jacobians` has its blocks' derivatives. lean: whether
    `tuning.lean` has its pass.
    """

    title: str
    kind: str
    blocks: str
    heads: tuple[str, ...]
    attention: str
    roles: dict[str, str]
    embedding: str
    word: str
    norms: tuple[str, str] | None = None
    closings: tuple[str, str] | None = None
    head_norms: tuple[str, str] | None = None
    final: str | None = None
    fused: str | None = None
    first_position: int | None = 0
    relative: str | None = None
    window: bool = False
    segments: bool = False
    classifier: tuple[str, str, str] | None = None
    cross: str | None = None
    second: Architecture | None = None
    closed_form: bool = False
    lean: bool = False

    @property
    def pre_norm(self) -> bool:
        """Return whether the normalisation comes before the residual sum and so belongs to the sublayer."""
        return self.norms is None

    @property
    def opened(self) -> bool:
        """Return whether the sublayers begin with a normalisation."""
        return self.heads[0] != self.attention

    @property
    def sites(self) -> tuple[str, ...]:
        """Return the sublayers of a block, in forward order."""
        return ("attention", "mlp") if self.cross is None else ("attention", "cross", "mlp")

    @property
    def maps(self) -> dict[tuple[str, str], str]:
        """Return {(site, role): path} of the linear maps."""
        found = {(site_of(role), role): path for role, path in self.roles.items()}
        if self.cross is not None:
            own = {role: path for role, path in self.roles.items() if role in ATTENTION_ROLES}
            found |= {("cross", role): self.cross + path.removeprefix(self.attention) for role, path in own.items()}
        return found


def site_of(role: str) -> str:
    """Return the sublayer whose linear map has this role."""
    return "attention" if role in ATTENTION_ROLES else "mlp"


def row_of(config: Mapping) -> str | None:
    """Return the name of the row of a configuration: its model_type, with "_gated" behind it for a T5 whose mlp is gated."""
    kind = config.get("model_type")
    gated = kind == "t5" and str(config.get("feed_forward_proj", "relu")).startswith("gated")
    return f"{kind}_gated" if gated else kind


def _bert_like(title: str, **own) -> Architecture:
    attention = {role: f"attention.self.{name}" for role, name in zip("qkv", ("query", "key", "value"), strict=True)}
    return Architecture(
        title=title,
        kind="encoder",
        blocks="encoder.layer",
        heads=("attention.self", "intermediate"),
        attention="attention.self",
        roles=attention | {"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"},
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        embedding="embeddings",
        word="embeddings.word_embeddings",
        closed_form=True,
        lean=True,
        **own,
    )


def _llama_like(title: str, **own) -> Architecture:
    roles = {role: f"self_attn.{role}_proj" for role in "qkvo"}
    usual = {
        "heads": ("input_layernorm", "post_attention_layernorm"),
        "roles": roles | {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"},
    }
    return Architecture(
        title=title,
        kind="decoder",
        blocks="layers",
        attention="self_attn",
        embedding="embed_tokens",
        word="embed_tokens",
        final="norm",
        first_position=None,
        closed_form=True,
        **usual | own,
    )


def _t5_like(title: str, gates: dict[str, str]) -> Architecture:
    def stack(name: str, mlp: int, **more) -> Architecture:
        inner = f"layer.{mlp}.DenseReluDense"
        return Architecture(
            title=title,
            blocks=f"{name}.block",
            heads=tuple(f"layer.{i}.layer_norm" for i in range(mlp + 1)),
            attention="layer.0.SelfAttention",
            roles={role: f"layer.0.SelfAttention.{role}" for role in "qkvo"}
            | {role: f"{inner}.{leaf}" for role, leaf in (gates | {"down": "wo"}).items()},
            embedding=f"{name}.embed_tokens",
            word=f"{name}.embed_tokens",
            final=f"{name}.final_layer_norm",
            first_position=None,
            relative=f"{name}.block.0.layer.0.SelfAttention",
            **more,
        )

    second = stack("decoder", 2, kind="decoder", cross="layer.1.EncDecAttention")
    return stack("encoder", 1, kind="encoder-decoder", second=second)


_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_GEMMA = {
    "heads": ("input_layernorm", "pre_feedforward_layernorm"),
    "closings": ("post_attention_layernorm", "post_feedforward_layernorm"),
}
_OLMO = {
    "heads": ("self_attn", "mlp"),
    "closings": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "head_norms": _HEAD_NORMS,
}


ARCHITECTURES: dict[str, Architecture] = {
    "bert": _bert_like("BERT", segments=True, classifier=("pooler.dense", "tanh", "classifier")),
    "roberta": _bert_like("RoBERTa", first_position=2, classifier=("classifier.dense", "tanh", "classifier.out_proj")),
    "distilbert": Architecture(
        title="DistilBERT",
        kind="encoder",
        blocks="transformer.layer",
        heads=("attention", "ffn"),
        attention="attention",
        roles={role: f"attention.{role}_lin" for role in "qkv"}
        | {"o": "attention.out_lin", "up": "ffn.lin1", "down": "ffn.lin2"},
        norms=("sa_layer_norm", "output_layer_norm"),
        embedding="embeddings",
        word="embeddings.word_embeddings",
        classifier=("pre_classifier", "relu", "classifier"),
        closed_form=True,
    ),
    "mpnet": Architecture(
        title="MPNet",
        kind="encoder",
        blocks="encoder.layer",
        heads=("attention.attn", "intermediate"),
        attention="attention.attn",
        roles={role: f"attention.attn.{role}" for role in "qkvo"} | {"up": "intermediate.dense", "down": "output.dense"},
        norms=("attention.LayerNorm", "output.LayerNorm"),
        embedding="embeddings",
        word="embeddings.word_embeddings",
        first_position=2,
        relative="encoder",
        classifier=("classifier.dense", "tanh", "classifier.out_proj"),
        closed_form=True,
    ),
    "gpt2": Architecture(
        title="GPT-2",
        kind="decoder",
        blocks="h",
        heads=("ln_1", "ln_2"),
        attention="attn",
        roles={"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
        embedding="drop",
        word="wte",
        final="ln_f",
        fused="parts",
        closed_form=True,
    ),
    "llama": _llama_like("Llama"),
    "qwen2": _llama_like("Qwen2"),
    "qwen3": _llama_like("Qwen3", head_norms=_HEAD_NORMS),
    "mistral": _llama_like("Mistral", window=True),
    "smollm3": _llama_like("SmolLM3"),
    "gemma2": _llama_like("Gemma 2", **_GEMMA),
    "gemma3_text": _llama_like("Gemma 3 (text)", head_norms=_HEAD_NORMS, **_GEMMA),
    "olmo2": _llama_like("OLMo 2", **_OLMO),
    "phi3": _llama_like(
        "Phi-3",
        roles={
            "qkv": "self_attn.qkv_proj",
            "o": "self_attn.o_proj",
            "gate_up": "mlp.gate_up_proj",
            "down": "mlp.down_proj",
        },
        fused="parts",
        window=True,
    ),
    "modernbert": Architecture(
        title="ModernBERT",
        kind="encoder",
        blocks="layers",
        heads=("attn_norm", "mlp_norm"),
        attention="attn",
        roles={"qkv": "attn.Wqkv", "o": "attn.Wo", "gate_up": "mlp.Wi", "down": "mlp.Wo"},
        embedding="embeddings",
        word="embeddings.tok_embeddings",
        final="final_norm",
        fused="parts",
        first_position=None,
        closed_form=True,
    ),
    "gpt_neox": Architecture(
        title="GPT-NeoX",
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
        closed_form=True,
    ),
    "t5": _t5_like("T5", {"up": "wi"}),
    "t5_gated": _t5_like("T5 1.1 (also FLAN-T5)", {"gate": "wi_0", "up": "wi_1"}),
}
