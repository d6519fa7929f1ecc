"""Tiny transformers models of random weights: a configuration class gets whichever of the usual size fields it has."""

import dataclasses
import inspect

import pytest
import torch

import zoo

SIZES = {
    32: "hidden_size d_model n_embd embed_dim dim emb_dim embedding_size projection_dim word_embed_proj_dim "
    "embedding_dim d_hidden out_hidden_size hidden_dim conv_dim_out output_dim model_dim backbone_hidden_size "
    "classifier_proj_size decoder_hidden_size attention_hidden_size lru_width image_size "
    "hidden_size_per_layer_input text_hidden_size encoder_hidden_size max_time_position d_state mamba_d_state "
    "state_size ssm_state_size",
    64: "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim d_inner n_inner moe_intermediate_size "
    "ffn_hidden_size shared_expert_intermediate_size shared_intermediate_size ffn_size mlp_dim "
    "decoder_intermediate_size max_position_embeddings n_positions max_seq_len n_ctx max_source_positions "
    "max_target_positions context_length max_sequence_length encoder_intermediate_size block_size "
    "expert_ffn_hidden_size",
    50: "vocab_size vocab_size_per_layer_input decoder_vocab_size src_vocab_size tgt_vocab_size entity_vocab_size",
    4: "num_hidden_layers n_layer num_layers encoder_layers decoder_layers n_layers num_encoder_layers "
    "num_decoder_layers num_attention_heads n_head num_heads n_heads encoder_attention_heads "
    "decoder_attention_heads attention_heads num_encoder_attention_heads num_decoder_attention_heads "
    "decoder_num_attention_heads num_encoder_heads depth encoder_num_hidden_layers decoder_num_hidden_layers "
    "encoder_num_attention_heads num_local_experts num_experts n_routed_experts moe_num_experts "
    "num_experts_per_layer linear_num_key_heads linear_num_value_heads num_transformer_layers time_step_rank",
    2: "num_key_value_heads num_experts_per_tok moe_topk moe_k num_kv_heads top_k_experts sliding_window_pattern "
    "decoder_num_key_value_heads encoder_num_key_value_heads n_group topk_group first_k_dense_replace "
    "num_feature_levels",
    8: "head_dim patch_size d_kv rotary_dim v_head_dim qk_nope_head_dim qk_rope_head_dim q_lora_rank kv_lora_rank "
    "linear_key_head_dim linear_value_head_dim global_head_dim index_head_dim attention_head_dim sliding_window "
    "attention_window local_attention window_size attention_head_size mamba_d_head mamba_head_dim",
    16: "num_mel_bins input_feat_per_channel num_channels_in feature_size num_queries",
    10: "num_labels",
}
SIZE = {name: size for size, names in SIZES.items() for name in names.split()}
SPREAD = {"depths": 2, "hidden_sizes": (16, 32, 48, 64, 80, 96, 112), "num_heads": 2, "num_attention_heads": 2}
SPREAD |= {
    "embed_dim": (16, 32, 48, 64),
    "embed_dims": (16, 32, 48, 64),
    "depth": 2,
    "conv_dim": 32,
    "decoder_hidden_size": 32,
}
HEADS = (
    "FOR_SEQ_TO_SEQ_CAUSAL_LM FOR_SPEECH_SEQ_2_SEQ FOR_IMAGE_CLASSIFICATION FOR_SEQUENCE_CLASSIFICATION* FOR_CAUSAL_LM "
    "FOR_MASKED_LM FOR_AUDIO_CLASSIFICATION FOR_CTC FOR_VIDEO_CLASSIFICATION FOR_OBJECT_DETECTION "
    "FOR_SEMANTIC_SEGMENTATION FOR_DEPTH_ESTIMATION FOR_IMAGE_TO_IMAGE FOR_TIME_SERIES_PREDICTION"
).split()
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}


def tiny(cls, **options):
    """A configuration of the class in which every usual size is small; a part of several configurations likewise."""
    default, values = cls(), {}
    for field in dataclasses.fields(cls):
        name, usual = field.name, vars(default).get(field.name)
        if name in cls.sub_configs and isinstance(options.get(name), tuple):  # of another kind than usual
            kind, inner = options.pop(name)
            values[name] = tiny(configuration(kind), **inner)
        elif name in cls.sub_configs and usual is not None:
            values[name] = tiny(type(usual), **options.pop(name, {}))
        elif name in TOKENS and (isinstance(usual, int) or usual is None):
            values[name] = TOKENS[name]
        elif name in SPREAD and isinstance(usual, tuple | list):
            small = SPREAD[name]
            values[name] = [small] * len(usual) if isinstance(small, int) else list(small[: len(usual)])
        elif name in SIZE and not isinstance(usual, bool) and (isinstance(usual, int) or name == "head_dim"):
            values[name] = SIZE[name]
    return cls(**{"num_labels": 10, **values, **options})


def configuration(kind):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[kind]


def head_of(kind):
    """The name of the class that fits best: with a head for what this kind of model is for."""
    from transformers.models.auto import modeling_auto

    def offered(head):
        names = getattr(modeling_auto, f"MODEL_{head}_MAPPING_NAMES" if head else "MODEL_MAPPING_NAMES", {})
        return names.get(kind)

    for head in HEADS:
        name = offered(head.rstrip("*"))
        if name and not (head.endswith("*") and not offered("FOR_MASKED_LM")):
            return name if isinstance(name, str) else name[0]
    name = offered("")
    return name if isinstance(name, str) or name is None else name[0]


def batch_of(model, config):
    """What the model's forward pass asks for: three rows, of which one is padded."""
    names, batch = set(inspect.signature(model.forward).parameters), {}
    if model.main_input_name == "input_ids":
        batch["input_ids"] = torch.randint(3, 48, (3, 9))
        if "attention_mask" in names:
            batch["attention_mask"] = torch.ones(3, 9, dtype=torch.long)
            batch["attention_mask"][1, 6:] = 0
        if "pixel_values" in names and "vision_config" in config.sub_configs:
            batch["pixel_values"] = torch.randn(3, 3, 32, 32)
    elif model.main_input_name == "pixel_values":
        batch["pixel_values"] = torch.randn(3, 3, 32, 32)
    elif model.main_input_name == "input_values":
        batch["input_values"] = torch.randn(3, 1200)
    elif model.main_input_name == "input_features":
        batch["input_features"] = torch.randn(3, 16, 128)
    if "decoder_input_ids" in names and getattr(config, "is_encoder_decoder", True):
        batch["decoder_input_ids"] = torch.randint(3, 48, (3, 5))
    return batch


def transformers_model(kind, head=None, inputs=None, **options):
    """A model and its batch; `inputs` says what else the batch has: a shape, a function that makes it, or None."""
    zoo.torchvision()
    transformers = pytest.importorskip("transformers")
    config = tiny(configuration(kind), **options)
    model = getattr(transformers, head or head_of(kind))(config)
    batch = batch_of(model, config)
    for name, value in (inputs or {}).items():
        batch[name] = torch.randn(value) if isinstance(value, tuple) else value and value()
    return model, {name: value for name, value in batch.items() if value is not None}
