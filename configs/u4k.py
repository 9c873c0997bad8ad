"""URGT on UnrealStereo4K as in the paper: joint depth and normals, GridMix, from VGGT-1B.

    urgt convert --download vggt vggt.safetensors
    urgt prepare unreal4k --source UnrealStereo4K --out u4k
    urgt priors --data unreal4k u4k --split train --depth-weights ... --normal-weights ...
    urgt train u4k --workdir runs/u4k --init vggt.safetensors --data.path u4k

docs/data-sets.md explains the first three steps. It has not been run yet: no data and no hardware
were available. The paper's result, with disparity aligned for each image: AbsRel 0.0291, delta1
0.983, RMSE 1.31 m, CE 0.0415, mean error of normals 18.51 degrees. docs/pods.md estimates the time
on TPU slices.
"""

from dataclasses import replace

from urgt_jax.config import SIZES, Config, Data, Eval, Optim

config = Config(
    model=replace(SIZES["large"], dtype="bfloat16"),
    data=Data(source="unreal4k", path="data/unreal4k", batch=16),
    optim=Optim(learning_rate=5e-5, steps=40_000),
    eval=Eval(grid=(4, 4)),
)
