"""Models as users write them: small, of random weights, each with a batch; where there is one stage it is `blocks`.

`OWN[name]()` gives a model in evaluation and its inputs: a tensor, a tuple or a dictionary of keywords.
"""

import warnings

import torch
from torch import nn

import own_loops  # noqa: F401  (these enter their models into the catalogue)
import own_stages  # noqa: F401
import own_states  # noqa: F401
from own_base import OWN, WIDTH, Plain, changed, made

# torch's own transformers.


def padded():
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4:] = True
    return {"src": torch.randn(3, 6, WIDTH), "src_key_padding_mask": mask}


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True, **options)


def sequence_first():
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it could be faster
        return nn.Transformer(WIDTH, 4, 3, 3, 32)


OWN["torch_encoder"] = lambda: made(lambda: nn.TransformerEncoder(encoder_layer(), 4), lambda: torch.randn(3, 6, WIDTH))
OWN["torch_encoder_padded"] = lambda: made(lambda: nn.TransformerEncoder(encoder_layer(), 4), padded)
OWN["torch_encoder_norm_first"] = lambda: made(
    lambda: nn.TransformerEncoder(encoder_layer(norm_first=True), 4, nn.LayerNorm(WIDTH), False), padded
)
OWN["torch_transformer"] = lambda: made(
    lambda: nn.Transformer(WIDTH, 4, 3, 3, 32, batch_first=True),
    lambda: (torch.randn(3, 6, WIDTH), torch.randn(3, 5, WIDTH)),
)
OWN["torch_transformer_sequence_first"] = lambda: made(
    sequence_first, lambda: (torch.randn(6, 3, WIDTH), torch.randn(5, 3, WIDTH))
)


# What is done to models.


def compiled(model, inputs, run=False):
    model = torch.compile(model, backend="eager")
    if run:
        with torch.no_grad():
            model(inputs)
    return model


def compile_blocks(model, inputs):
    for block in model.blocks:
        block.compile(backend="eager")


def add_hook(model, inputs):
    model.blocks[1].register_forward_hook(lambda block, args, output: output * 1.5)
    model.blocks[2].register_forward_pre_hook(lambda block, args: (args[0] - 0.5,))


def quantised(model, inputs):
    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = next(engine for engine in ("x86", "fbgemm", "qnnpack") if engine in engines)
    with warnings.catch_warnings(action="ignore"):  # that all this will be gone
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


def spectral(model, inputs):
    for block in model.blocks:
        nn.utils.parametrizations.spectral_norm(block.a)
        nn.utils.parametrizations.weight_norm(block.b)
    model.eval()


OWN["compiled"] = changed(OWN["plain"], compiled)
OWN["compiled_and_run"] = changed(OWN["plain"], lambda model, inputs: compiled(model, inputs, run=True))
OWN["compiled_blocks"] = changed(OWN["plain"], compile_blocks)
OWN["hook_changes_output"] = changed(OWN["plain"], add_hook)
OWN["quantised"] = changed(OWN["plain"], quantised)
OWN["parametrised"] = changed(OWN["plain"], spectral)
OWN["doubles"] = lambda: made(lambda: Plain().double(), lambda: torch.randn(6, 8).double())
OWN["bfloat16"] = lambda: made(lambda: Plain().bfloat16(), lambda: torch.randn(6, 8).bfloat16())
