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


def images(*shape):
    return {"inputs": {"pixel_values": shape}}


def boxes():
    return torch.zeros(3, 9, 4, dtype=torch.long)


def sentences_about_images():
    ids = torch.randint(3, 48, (3, 22))
    ids[:, 1:17] = 49
    return ids


def true(*shape):
    return lambda: torch.ones(shape, dtype=torch.long)


TEXT_ONLY = {"inputs": {"pixel_values": None}}
THREE_AXES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
ALTERNATE = ["sliding_attention", "full_attention"] * 2
LATENT = {"num_key_value_heads": 4}  # multi-head latent attention has as many keys as queries
WINDOWS = {"patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2]}
RESNET = ("resnet", {"depths": [2, 2], "hidden_sizes": [16, 32], "embedding_size": 8, "out_features": ["stage2"]})
DETECTION = {"backbone_config": RESNET, "inputs": {"pixel_values": (2, 3, 64, 64)}, "num_queries": 5}
STAGES = {"neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16}
SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "num_time_features": 1}
SERIES |= {"embedding_dimension": [4], "cardinality": [3]}
PAST = {"past_values": (3, 10), "past_time_features": (3, 10, 1), "past_observed_mask": true(3, 10)}
PAST |= {"future_values": (3, 4), "future_time_features": (3, 4, 1)}
SPECIAL = {
    **dict.fromkeys(
        "axk1 axk2 deepseek_v3 deepseek_v32 esmc glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 youtu".split(), LATENT
    ),
    **dict.fromkeys("qwen3_vl gemma3 idefics3 internvl smolvlm mistral3".split(), TEXT_ONLY),
    **dict.fromkeys("qwen2_vl qwen2_5_vl".split(), {**TEXT_ONLY, "text_config": {"rope_parameters": THREE_AXES}}),
    **dict.fromkeys("convnext convnextv2".split(), {"patch_size": 4, **images(3, 3, 64, 64)}),
    **dict.fromkeys("swin swinv2 donut-swin".split(), WINDOWS),
    "swin2sr": {**WINDOWS, "patch_size": 1},
    **dict.fromkeys("detr conditional_detr table-transformer deformable_detr".split(), DETECTION),
    **dict.fromkeys("informer time_series_transformer".split(), {**SERIES, "inputs": PAST}),
    "audio-spectrogram-transformer": {
        **{"max_length": 64, "frequency_stride": 8, "time_stride": 8},
        "inputs": {"input_values": (3, 64, 16)},
    },
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "attn_layer_indices": [1, 3]},
    "bit": {"num_groups": 4},
    "cvt": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 4]},
    "deepseek_v2": {**LATENT, "num_experts_per_tok": 2},
    "depth_anything": {
        **STAGES,
        "backbone_config": {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False},
        **{"head_hidden_size": 8, "reassemble_hidden_size": 32, "patch_size": 8},
    },
    "dpt": {**STAGES, "is_hybrid": False, "backbone_out_indices": [0, 1, 2, 3], "backbone_config": None},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320, **images(3, 3, 64, 64)},
    "esm": {"vocab_size": 50},
    "gemma3n_text": {
        **{"layer_types": ALTERNATE, "num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0]},
        **{"intermediate_size": [64] * 4, "laurel_rank": 4},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "layer_types": ["mamba", "attention"] * 2},
    "hiera": {"image_size": [64, 64], **images(3, 3, 64, 64)},
    "hubert": {"head": "HubertForCTC"},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": {**LATENT, "layer_types": ["linear_attention", "full_attention"] * 2},
    "layoutlmv3": {
        **{"head": "LayoutLMv3ForSequenceClassification", "coordinate_size": 4, "shape_size": 8},
        "inputs": {"bbox": boxes},
    },
    "levit": {"image_size": 64, "patch_size": 16, **images(3, 3, 64, 64)},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "lilt": {"head": "LiltForSequenceClassification", "hidden_size": 48, "inputs": {"bbox": boxes}},
    "llama4": {
        **{"head": "Llama4ForConditionalGeneration", **TEXT_ONLY},
        "vision_config": {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    },
    "llava": {
        **{"head": "LlavaForConditionalGeneration", "image_token_index": 49, "image_token_id": 49},
        "inputs": {"input_ids": sentences_about_images, "attention_mask": None},
    },
    "mamba2": {"num_heads": 8, "n_groups": 2, "state_size": 16, "chunk_size": 4},
    "mistral4": LATENT,
    "mobilevitv2": {"patch_size": 2, **images(3, 3, 64, 64)},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "nemotron": {"num_key_value_heads": 2},
    "paligemma": {
        **{"head": "PaliGemmaForConditionalGeneration", "image_token_index": 49, "image_token_id": 49},
        "inputs": {"input_ids": sentences_about_images, "attention_mask": true(3, 22)},
    },
    "patchtsmixer": {"num_input_channels": 2, "context_length": 32, "inputs": {"past_values": (3, 32, 2)}},
    "patchtst": {
        **{"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8},
        "inputs": {"past_values": (3, 32, 2)},
    },
    "perceiver": {
        **{"head": "PerceiverForSequenceClassification", "num_latents": 8, "d_latents": 32, "num_blocks": 2},
        **{"num_self_attends_per_block": 4, "num_self_attention_heads": 4, "num_cross_attention_heads": 4},
        "inputs": {"inputs": lambda: torch.randint(3, 50, (3, 9)), "attention_mask": true(3, 9)},
    },
    "reformer": {
        **{"attn_layers": ["local", "lsh"] * 2, "axial_pos_embds": False, "lsh_attn_chunk_length": 4},
        **{"local_attn_chunk_length": 4, "is_decoder": False, "num_hashes": 2, "num_buckets": 2},
        "inputs": {"input_ids": lambda: torch.randint(3, 50, (3, 16)), "attention_mask": None},
    },
    "roc_bert": {
        **{
            "shape_embed_dim": 16,
            "pronunciation_embed_dim": 16,
            "shape_vocab_size": 50,
            "pronunciation_vocab_size": 50,
        },
        "inputs": {
            name: lambda: torch.randint(3, 50, (3, 9)) for name in ("input_shape_ids", "input_pronunciation_ids")
        },
    },
    "sam": {
        "vision_config": {"output_channels": 32, "num_pos_feats": 16},
        "inputs": {"input_points": (3, 1, 2, 2)},
    },
    "segformer": {"head": "SegformerForSemanticSegmentation"},
    "siglip2": {
        "vision_config": {"num_patches": 16},
        "inputs": {
            **{"pixel_values": (3, 16, 192), "pixel_attention_mask": true(3, 16)},
            "spatial_shapes": lambda: torch.full((3, 2), 4),
        },
    },
    "speech-encoder-decoder": {
        **{"head": "SpeechEncoderDecoderModel", "encoder": ("wav2vec2", {})},
        "decoder": ("bert", {"is_decoder": True, "add_cross_attention": True}),
        "inputs": {"input_ids": None, "attention_mask": None, "input_values": (3, 1200)},
    },
    "speech_to_text": {"conv_channels": 32, "inputs": {"input_features": (3, 64, 16)}},
    "timesformer": {"num_frames": 4, **images(3, 4, 3, 32, 32)},
    "upernet": {
        "backbone_config": ("convnext", {"depths": [2] * 4, "out_features": ["stage1", "stage2", "stage3", "stage4"]}),
        **{"auxiliary_in_channels": 48, "auxiliary_channels": 8, **images(3, 3, 128, 128)},
    },
    "videomae": {"num_frames": 4, "tubelet_size": 2, **images(3, 4, 3, 32, 32)},
    "vilt": {"head": "ViltForImagesAndTextClassification", "num_images": 1, **images(3, 1, 3, 32, 32)},
    "vision-encoder-decoder": {
        **{"head": "VisionEncoderDecoderModel", "encoder": ("vit", {})},
        "decoder": ("bert", {"is_decoder": True, "add_cross_attention": True}),
    },
    "vivit": {"num_frames": 4, "tubelet_size": [2, 8, 8], **images(3, 4, 3, 32, 32)},
    "vjepa2": {
        **{"frames_per_clip": 4, "crop_size": 32, "num_pooler_layers": 2, "pred_hidden_size": 32},
        **{"pred_num_attention_heads": 4, "pred_num_hidden_layers": 2},
        "inputs": {"pixel_values": None, "pixel_values_videos": (3, 4, 3, 32, 32)},
    },
    "wav2vec2-bert": {"feature_projection_input_dim": 16, "inputs": {"input_features": (3, 20, 16)}},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6,
        "attn_layer_offset": 2,
        "attn_layer_period": 3,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "layer_types": ["mamba", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "mamba_headdim": 16,
        "n_mamba_heads": 4,
        "use_mem_rope": False,
    },
}
USUAL = """
afmoe aimv2 aimv2_vision_model albert altclip apertus arcee aria_text bart beam beit bert bert-generation big_bird
bigbird_pegasus biogpt bitnet blenderbot blenderbot-small blip bloom camembert canine chinese_clip
chinese_clip_vision_model clip clip_text_model clip_vision_model clipseg codegen cohere cohere2 cohere2_moe convbert
cpmant ctrl cwm data2vec-audio data2vec-text data2vec-vision deberta deberta-v2 deepseek_v4 deit diffllama dinov2
dinov2_with_registers dinov3_vit distilbert doge dpr electra embedding_gemma2_text ernie ernie4_5 ernie4_5_moe
eurobert exaone4 exaone_moe falcon falcon_h1 falcon_mamba fastspeech2_conformer flaubert flava flex_olmo flint fnet
focalnet fsmt funnel gemma gemma2 gemma3_text gemma4_audio gemma4_text gemma4_unified_text git glm glm4 glm4_moe
glmasr_encoder glpn gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_docling_text
granite_swa granitemoe granitemoe_swa granitemoeshared groupvit gte helium higgs_audio_v2 hrm_text hunyuan_v1_dense
hunyuan_v1_moe hy_v3 hy_v4 hyperclovax ibert ijepa imagegpt inkling2_text inkling_text internlm3 internvl_vision
iquestcoder jais2 jetmoe jina_embeddings_v3 kolibri1 kosmos-2.5 laguna layoutlm led lfm2 lfm3 llama llama4_text
longformer longt5 luke m2m_100 mamba marian markuplm maskformer-swin mbart megatron-bert mellum metaclip_2
mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral mlcd mlcd_vision_model mllama
mobilebert mobilenet_v1 mobilenet_v2 mobilevit modernbert modernbert-decoder molmo2_text moss_transcribe_diarize_audio
mpnet mpt mra mt5 muse_glimmer_text mvp nanochat nemotron_h nllb-moe nomic_bert nystromformer olmo olmo2 olmo3
olmo_hybrid olmoe openai-gpt openai_privacy_filter opt owlv2 owlvit pegasus pegasus_x persimmon phi phi3
phi4_multimodal phimoe pixio pixtral plbart poolformer pop2piano pp_lcnet prophetnet pvt pvt_v2 qianfan_ocr_vision
qwen2 qwen2_audio_encoder qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl_moe_text
qwen3_vl_text radio recurrent_gemma regnet rembert resnet roberta roberta-prelayernorm roformer rwkv sam3_vit_model
sam_hq_vision_model sam_vision_model seamless_m4t seamless_m4t_v2 seed_oss sew sew-d siglip siglip_vision_model
smollm3 solar_open speecht5 splinter squeezebert stablelm starcoder2 swiftformer switch_transformers t5 t5gemma tapas
tipsv2 tipsv2_text_model tipsv2_vision_model trocr ultrabert umt5 unispeech unispeech-sat vaultgemma visual_bert vit
vit_mae vit_msn vitdet voxtral_encoder voxtral_realtime_encoder wav2vec2 wav2vec2-conformer wavlm whisper xglm xlm
xlm-roberta xlm-roberta-xl xlnet yolos yoso dinov3_convnext encoder-decoder fuyu qwen2_audio t5gemma2 granite_speech
maskformer
""".split()
TRANSFORMERS = {
    kind: lambda kind=kind: transformers_model(kind, **SPECIAL.get(kind, {})) for kind in [*USUAL, *SPECIAL]
}
