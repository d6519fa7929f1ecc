"""The architectures of transformers that have a tiny model here, and what some of them need besides the usual sizes."""

import torch

from tiny_transformers import transformers_model


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
    "kimi_linear": {
        **LATENT,
        **{"num_experts": 4, "num_experts_per_token": 2, "topk_group": 1},
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
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
