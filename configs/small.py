"""The small size (ViT-S encoder, 12 + 12 blocks) on analytic scenes, from the weights of DINOv2.

    urgt convert --download dinov2_s_reg dinov2.safetensors
    urgt train small --workdir runs/small --init dinov2.safetensors

For an accelerator: a step takes minutes on a CPU. It has not been run to its end, so no result is
known.
"""

from dataclasses import replace

from urgt_jax.config import SIZES, Config, Data, Optim

config = Config(
    model=replace(SIZES["small"], dtype="bfloat16"),
    data=Data(size=(2160, 3840), batch=8),
    optim=Optim(learning_rate=1e-4, encoder_lr_scale=0.1, steps=40_000),
)
