"""URGT on UnrealStereo4K as the paper has it: joint depth and normals, GridMix, from VGGT-1B.

Not yet run: neither data nor hardware were at hand. The paper's result: AbsRel .0291, delta1 .983,
RMSE 1.31 m, CE .0415, normals' mean 18.51 degrees (disparity aligned per picture).

urgt convert --download vggt vggt.safetensors
urgt prepare unreal4k --source UnrealStereo4K --out u4k    (docs/unreal4k.md)
urgt priors --data unreal4k u4k --split train --depth-weights ... --normal-weights ...
urgt train configs/u4k.py --workdir runs/u4k --init vggt.safetensors --data.path u4k
"""

from urgt_jax.config import SIZES, Config, Data, Eval, Optim

config = Config(
    model=SIZES["large"],
    data=Data(source="unreal4k", path="data/unreal4k", batch=16),
    optim=Optim(learning_rate=5e-5, steps=40_000),
    eval=Eval(grid=(4, 4)),
)
