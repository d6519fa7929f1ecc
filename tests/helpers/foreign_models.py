"""Small models of random weights of all families of timm, torchvision and transformers, and models of users.

`MODELS[name]()` gives a model in evaluation and its inputs: a tensor, a tuple or a dictionary of keywords. The name
begins with the library: "timm/resnet26", "torchvision/resnet18", "transformers/bert", "own/reversible".
"""

import torch
from torch import nn

import own_base
import own_models
import transformers_models
import zoo

V = {"depth": 4, "embed_dim": 96, "num_heads": 3}
# One model of each module of timm, or more where the module has several designs.
TIMM = """
beit_base_patch16_224 eca_botnext26ts_256 halonet26t lambda_resnet26t test_byobnet resnet33ts seresnet33ts
cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 convnextv2_atto cpubone_nano crossvit_9_240 csatv2 cspresnet50
cs3darknet_s cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla34 dla46_c dpn48b
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientvim_m1 efficientvit_b0
efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m
ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256
poolformer_s12 mixer_s32_224 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny
naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_resnet26 pit_ti_224 pvt_v2_b0 qwen3_vit_88m
rdnet_tiny regnety_002 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet26 resnetv2_50 rexnetr_100
selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m
twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224
samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41
xcit_nano_12_p16_224
""".split()
TIMM_EXCLUDED = {
    "pnasnet5large": "pnasnet's only model has 82 million parameters and takes no option that makes it smaller"
}
TIMM_SIZED = """
eca_botnext26ts_256 cait_xxs24_224 coat_tiny convit_tiny deit_tiny_patch16_224 efficientformerv2_s0
eva02_tiny_patch14_224 gcvit_xxtiny hiera_tiny_224 levit_128s maxvit_pico_rw_256 mixer_s32_224 nest_tiny pit_ti_224
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tnt_s_patch16_224 visformer_tiny
vitamin_small_224 volo_d1_224
""".split()  # what has to be told its image's size
TIMM_OPTIONS = {
    **{name: {"img_size": 64} for name in TIMM_SIZED},
    **{f"{name}_base_patch16_224": {"img_size": 64, **V} for name in ("beit", "samvit")},
    "vit_tiny_patch16_224": {"img_size": 64, "patch_size": 8},
    "vit_tiny_r_s16_p8_224": {"img_size": 64, "depth": 4},
    "vit_relpos_small_patch16_224": {"img_size": 64, **V},
    "naflexvit_base_patch16_gap": V,
    "gemma4_vit_167m": V,
    "qwen3_vit_88m": V,
    "deepseek_vit_412m": {"img_size": 56, **V},
    # The widest of the sample that `make test` compares: narrower, with as many blocks.
    "coat_tiny": {"img_size": 64, "embed_dims": (32, 32, 32, 32)},
    "crossvit_9_240": {"img_size": 120, "embed_dim": (32, 64)},
    "dla34": {"channels": (8, 8, 16, 32, 64, 128)},
    "gcvit_xxtiny": {"img_size": 64, "embed_dim": 16},
    "sequencer2d_s": {"embed_dims": (24, 48, 48, 48), "hidden_sizes": (6, 12, 12, 12)},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "volo_d1_224": {"img_size": 32},
    "vgg11": {"mlp_ratio": 0.05},
    "nasnetalarge": {"num_features": 960, "stem_size": 24},
    "mobilenetv5_base": {"channel_multiplier": 0.25},
}
TIMM_PIXELS = {"halonet26t": 256, "deepseek_vit_412m": 56, "efficientformer_l1": 224, "crossvit_9_240": 120}
TIMM_PIXELS |= dict.fromkeys(["cspresnet50", "hrnet_w18_small", "volo_d1_224"], 32)
TIMM_PIXELS |= {f"inception_{name}": 96 for name in ("resnet_v2", "v3", "v4")}

FILM, BACKBONE = (3, 8, 32, 32), {"weights_backbone": None}
TORCHVISION = {  # the shape of an example, and options
    **{
        name: ((3, 64, 64), {})
        for name in "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s".split()
    },
    **{
        name: ((3, 64, 64), {})
        for name in "googlenet mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_y_400mf".split()
    },
    **{
        name: ((3, 64, 64), {}) for name in "resnet18 resnet34 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1".split()
    },
    **{name: ((3, 64, 64), {}) for name in "swin_t swin_v2_t".split()},
    "inception_v3": ((3, 96, 96), {"init_weights": False}),
    "vit_b_32": ((3, 64, 64), {"image_size": 64}),
    "deeplabv3_mobilenet_v3_large": ((3, 64, 64), BACKBONE),
    "lraspp_mobilenet_v3_large": ((3, 64, 64), BACKBONE),
    "fcn_resnet50": ((3, 32, 32), BACKBONE),
    **{name: (FILM, {}) for name in "r3d_18 mc3_18 r2plus1d_18 swin3d_t".split()},
}


TORCHVISION_EXCLUDED = {
    "vgg11": "has 129 million parameters and takes no option that makes it smaller; timm's is here",
    "s3d": "its last pooling needs films of 224 pixels and 16 frames, several seconds a pass",
    "raft_small": "needs two images of 128 pixels or more, and executes its update block 12 times: 3 seconds a pass",
    "detection": "detectors with their heads need torchvision's compiled operators; their backbones are here",
}
MVIT = ({"rel_pos_embed": False, "proj_after_attn": False}, {"rel_pos_embed": True, "proj_after_attn": True})


def timm_model(name):
    return zoo.timm_model(name, size=TIMM_PIXELS.get(name, 64), **TIMM_OPTIONS.get(name, {}))


def torchvision_model(name):
    shape, options = TORCHVISION[name]
    return zoo.torchvision().models.get_model(name, weights=None, num_classes=10, **options), torch.randn(2, *shape)


def maxvit():
    sizes = {
        "stem_channels": 16,
        "partition_size": 4,
        "block_channels": [16, 32],
        "block_layers": [2, 2],
        "head_dim": 8,
    }
    model = zoo.torchvision().models.maxvit.MaxVit((64, 64), **sizes, stochastic_depth_prob=0.0, num_classes=10)
    return model, torch.randn(2, 3, 64, 64)


def mvit(**options):
    zoo.torchvision()
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    widths, same, halves = [(16, 16), (16, 32), (32, 32), (32, 32)], [1, 1, 1], [1, 2, 2]
    blocks = [
        MSBlockConfig(2, narrow, wide, [3, 3, 3], [3, 3, 3], same if narrow == wide else halves, [1, 2, 2])
        for narrow, wide in widths
    ]
    return MViT((32, 32), 8, blocks, stochastic_depth_prob=0.0, num_classes=10, **options), torch.randn(2, *FILM)


def pyramid(name):
    zoo.torchvision()
    from torchvision.models.detection import backbone_utils

    if name.startswith("resnet"):
        model = backbone_utils.resnet_fpn_backbone(backbone_name=name, weights=None)
    else:
        model = backbone_utils.mobilenet_backbone(backbone_name=name, weights=None, fpn=True)
    return model, torch.randn(2, 3, 64, 64)


def calibrated(model, inputs):
    """Let batch norms take their statistics from the batch: with those they begin with, deep branches vanish."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    if norms:
        zoo.call(model, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
    return model


def entry(build):
    def model_and_inputs():
        torch.manual_seed(0)
        model, inputs = build()
        return calibrated(own_base.randomised(model), inputs), inputs

    return model_and_inputs


MODELS = {
    **{f"timm/{name}": entry(lambda name=name: timm_model(name)) for name in TIMM},
    **{f"torchvision/{name}": entry(lambda name=name: torchvision_model(name)) for name in TORCHVISION},
    "torchvision/maxvit": entry(maxvit),
    "torchvision/mvit_v1": entry(lambda: mvit(residual_pool=False, residual_with_cls_embed=True, **MVIT[0])),
    "torchvision/mvit_v2": entry(lambda: mvit(residual_pool=True, residual_with_cls_embed=False, **MVIT[1])),
    **{
        f"torchvision/{name}_fpn": entry(lambda name=name: pyramid(name)) for name in ("resnet18", "mobilenet_v3_small")
    },
    **{f"transformers/{name}": entry(build) for name, build in transformers_models.TRANSFORMERS.items()},
    **{f"own/{name}": build for name, build in own_models.OWN.items()},
}
